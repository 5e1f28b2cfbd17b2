/**
 * At every index: an address of a network belongs to one task that may have a container, or to one
 * service; a published ingress port to one service; a node's number and mesh address to one node.
 */
import { unreachable } from "../../../../core/assert.ts";
import type { Change } from "../../../../core/store/action.ts";
import type { Report } from "../../checkers/report.ts";
import type { Step } from "../history.ts";
import { isDead, isPlaced } from "./task-rules.ts";

export function exclusiveUse(report: Report): { step(step: Step): void } {
  const holders = new Map<string, string>();
  const held = new Map<string, string[]>();
  return {
    step: ({ change, entry }) => {
      const self = `${change.table}/${change.id}`;
      for (const claim of held.get(self) ?? []) {
        if (holders.get(claim) === self) holders.delete(claim);
      }
      const claims = change.kind === "remove" ? [] : claimsOf(change);
      held.set(self, claims);
      for (const claim of claims) {
        const other = holders.get(claim);
        if (other !== undefined && other !== self) {
          report("exclusive-use", `${claim} belongs to ${other} and ${self} at ${entry.index}`);
        }
        holders.set(claim, self);
      }
    },
  };
}

function claimsOf(change: Change): string[] {
  switch (change.table) {
    case "task": {
      const task = change.object;
      const isReserved = !isDead(task) && ["ready", "running"].includes(task.desiredState);
      if (!isPlaced(task) && !isReserved) return [];
      return (task.networks ?? []).flatMap(({ networkId, address }) =>
        address === undefined ? [] : [`address ${networkId}/${address}`],
      );
    }
    case "service": {
      const { endpoint } = change.object;
      return [
        ...(endpoint?.virtualIps ?? []).map((vip) => `address ${vip.networkId}/${vip.address}`),
        ...(endpoint?.ports ?? [])
          .filter((port) => port.PublishMode === "ingress")
          .map((port) => `port ${port.Protocol}/${port.PublishedPort}`),
      ];
    }
    case "node":
      return [`number ${change.object.index}`, `mesh address ${change.object.meshAddress}`];
    case "attachment":
      return [`address ${change.object.networkId}/${change.object.address}`];
    case "cluster":
    case "network":
    case "secret":
    case "config":
    case "stack":
      return [];
    default:
      return unreachable(change);
  }
}
