/** /shoal/v1/services/{id}/slots: where the slots of a stateful service live, moving and forgetting them. */
import { Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import { replicasOf, type Service } from "../../core/objects/service.ts";
import { forgetSlot, isStateful, moveSlot, STATEFUL_LABEL } from "../../core/objects/stateful.ts";
import { taskName } from "../../core/objects/task.ts";
import { isWanted } from "../../core/orchestrator/slot.ts";
import { waitOf } from "../../core/orchestrator/start-order.ts";
import { wantedSlots } from "../../core/orchestrator/stateful.ts";
import { moveCommand } from "../../core/scheduler/home.ts";
import { moveVerdicts } from "../../core/scheduler/why.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { readBody } from "./body.ts";
import { type ApiContext, proposeInSequence } from "./context.ts";
import { findNode, findService, nodeName } from "./lookup.ts";

const moveSchema = z.strictObject({
  Node: z.string().default(""),
  Force: z.boolean().default(false),
});

/** Nodes that a refusal names as better ones. */
const NAMES_MAX = 3;

export type SlotLine = {
  Slot: number;
  Name: string;
  /** Absent until it has been placed, and once it was given up. */
  Node?: { ID: string; Hostname: string; State: string };
  /** By network name. */
  Addresses: Record<string, string>;
  /** Of the task that is wanted there. */
  TaskState?: string;
  /** False for one that the service was scaled below: it is remembered. */
  IsUsed: boolean;
};

export function slotRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/:id/slots", async (c) =>
    c.json(await ports.read((view) => slotLines(view, findStateful(view, c.req.param("id"))))),
  );

  app.post("/:id/slots/:slot", async (c) => {
    const { Node, Force } = await readBody(c, moveSchema);
    await proposeInSequence(context, () =>
      ports.read((view) => {
        const service = findStateful(view, c.req.param("id"));
        const slot = parseSlot(service, c.req.param("slot"));
        const node = Node === "" ? undefined : findNode(view, Node);
        if (!node) refuseGivingUp(view, service, slot);
        if (!Force) refuseWithoutRoom(view, { service, slot, node, nowMs: ports.nowMs() });
        return setSlots(service, moveSlot(service, slot, node?.id));
      }),
    );
    return c.body(null, 200);
  });

  app.delete("/:id/slots/:slot", async (c) => {
    await proposeInSequence(context, () =>
      ports.read((view) => {
        const service = findStateful(view, c.req.param("id"));
        const slot = parseSlot(service, c.req.param("slot"));
        refuseForgetting(view, service, slot);
        return setSlots(service, forgetSlot(service, slot));
      }),
    );
    return c.body(null, 200);
  });
  return app;
}

function setSlots({ id, version }: Service, slots: NonNullable<Service["slots"]>): StoreAction {
  return { type: "update", table: "service", id, ifVersion: version, set: { slots } };
}

function findStateful(view: ClusterView, ref: string): Service {
  const service = findService(view, ref);
  if (isStateful(service.spec)) return service;
  throw new ClusterError(
    "invalid-argument",
    `service ${service.spec.Name} is not stateful, its tasks go anywhere: add the label ${STATEFUL_LABEL}=true to it`,
  );
}

/** Else its home is given up, and the next one is chosen by the scheduler (stateful.ts). */
function refuseGivingUp(view: ClusterView, service: Service, slot: number): void {
  const task = view.tasksByService(service.id).find((one) => one.slot === slot && isWanted(one));
  const node = view.node(task?.nodeId ?? "");
  if (!node || node.status.state === "down" || node.spec.Availability === "drain") return;
  throw new ClusterError(
    "failed-precondition",
    `slot ${slot} of ${service.spec.Name} is on ${nodeName(node)} and stays there: name the node that it is to move to`,
  );
}

/** The slot's task is stopped by a move: the next one must have where to go. Without `node`: anywhere. */
function refuseWithoutRoom(
  view: ClusterView,
  wish: { service: Service; slot: number; node: NodeObject | undefined; nowMs: UnixMs },
): void {
  const { service, slot, node, nowMs } = wish;
  const what = `slot ${slot} of ${service.spec.Name} cannot move`;
  const wait = waitOf(view, service);
  if (wait) {
    throw new ClusterError(
      "failed-precondition",
      `${what} now: its next task ${wait.message}. With Force (--force) it moves all the same`,
    );
  }
  const all = moveVerdicts(view, service, slot, nowMs);
  const asked = node ? all.filter(({ nodeId }) => nodeId === node.id) : all;
  if (asked.some(({ reasons }) => reasons.length === 0)) return;
  const [nearest] = asked;
  if (!nearest) throw new ClusterError("failed-precondition", `${what}: there is no node`);
  const { hostname } = nearest;
  const where = node ? `to ${hostname}` : `to any node; the nearest is ${hostname}`;
  const why = nearest.reasons.map(({ filter, text, fix }) => `${text} (${filter}: ${fix})`);
  const open = all.filter(({ reasons }) => reasons.length === 0).map((one) => one.hostname);
  const better = open.length > 0 ? `. Free for it: ${open.slice(0, NAMES_MAX).join(", ")}` : "";
  throw new ClusterError(
    "failed-precondition",
    `${what} ${where}: ${why.join("; ")}${better}. With Force (--force) it moves, and waits until it can be placed`,
  );
}

/** A slot that is wanted, or may run, has its home for a reason. */
function refuseForgetting(view: ClusterView, service: Service, slot: number): void {
  const tasks = view.tasksByService(service.id);
  const { Name } = service.spec;
  const what = `slot ${slot} of ${Name} cannot be forgotten`;
  if (wantedSlots(service, tasks).has(slot)) {
    throw new ClusterError(
      "failed-precondition",
      `${what}: it is wanted. Scale the service below it (docker service scale ${Name}=${slot - 1}), or give it another home (${moveCommand(Name, slot)})`,
    );
  }
  const task = tasks.find((one) => one.slot === slot);
  if (!task) return;
  const node = view.node(task.nodeId ?? "");
  const where = node ? ` on ${nodeName(node)}, which is ${node.status.state}` : "";
  const fix =
    node?.status.state === "down"
      ? "bring the node back, or remove it (docker node rm)"
      : "try again when it has stopped";
  throw new ClusterError(
    "failed-precondition",
    `${what}: its task ${taskName(task)} is ${task.status.state}${where}; ${fix}`,
  );
}

/** @throws {ClusterError} not-found */
function parseSlot(service: Service, text: string): number {
  const slot = Number(text);
  if (/^[1-9]\d{0,5}$/.test(text) && isKnown(service, slot)) return slot;
  throw noSlot(service, text);
}

function isKnown(service: Service, slot: number): boolean {
  return slot <= (replicasOf(service.spec) ?? 0) || service.slots?.[slot] !== undefined;
}

function noSlot(service: Service, text: string): ClusterError {
  return new ClusterError(
    "not-found",
    `service ${service.spec.Name} has no slot ${JSON.stringify(text)}: it has 1 to ${replicasOf(service.spec) ?? 0}`,
  );
}

function slotLines(view: ClusterView, service: Service): SlotLine[] {
  const replicas = replicasOf(service.spec) ?? 0;
  const used = Array.from({ length: replicas }, (_, index) => index + 1);
  const remembered = Object.keys(service.slots ?? {}).map(Number);
  const tasks = view.tasksByService(service.id).filter(isWanted);
  return [...new Set([...used, ...remembered])]
    .sort((a, b) => a - b)
    .map((slot): SlotLine => {
      const { nodeId, addresses = {} } = service.slots?.[slot] ?? {};
      const node = nodeId === undefined ? undefined : view.node(nodeId);
      const state = tasks.findLast((task) => task.slot === slot)?.status.state;
      return {
        Slot: slot,
        Name: `${service.spec.Name}-${slot}`,
        ...(node
          ? { Node: { ID: node.id, Hostname: nodeName(node), State: node.status.state } }
          : {}),
        Addresses: Object.fromEntries(
          Object.entries(addresses).map(([id, address]) => [
            view.network(id)?.spec.Name ?? id,
            address,
          ]),
        ),
        ...(state === undefined ? {} : { TaskState: state }),
        IsUsed: slot <= replicas,
      };
    });
}
