/**
 * What really runs, whatever anybody believes: on hosts that are members, no address twice, no task in
 * two containers, and no slot of a stateful service. Told by the engines.
 */
import { TASK_ID_LABEL } from "../../../../agent/reconciler/container-spec.ts";
import type { Report } from "../../checkers/report.ts";
import type { SimContainer } from "../engine.ts";

export function runningContainers(options: {
  report: Report;
  /** False once the host's node was removed: nobody can stop what runs there. */
  isMember(hostName: string): boolean;
}): {
  started(hostName: string, container: SimContainer): void;
  ended(container: SimContainer): void;
} {
  const running = new Map<string, { hostName: string; container: SimContainer }>();
  return {
    started: (hostName, container) => {
      for (const other of running.values()) {
        if (!options.isMember(other.hostName) || !options.isMember(hostName)) continue;
        const pair = `${container.name} on ${hostName} and ${other.container.name} on ${other.hostName}`;
        if (other.container.labels[TASK_ID_LABEL] === container.labels[TASK_ID_LABEL]) {
          options.report("containers", `one task runs twice: ${pair}`);
        }
        const slot = slotOf(container);
        if (slot !== undefined && slotOf(other.container) === slot) {
          options.report("containers", `one stateful slot runs twice: ${pair}`);
        }
        for (const [network, address] of container.legs) {
          if (other.container.legs.get(network) !== address) continue;
          options.report("containers", `${address} of ${network} is used twice: ${pair}`);
        }
      }
      running.set(container.id, { hostName, container });
    },
    ended: (container) => void running.delete(container.id),
  };
}

/** Of a stateful service only: nobody else's containers have a hostname here. */
function slotOf({ body, labels }: SimContainer): string | undefined {
  if (body.Hostname === undefined) return undefined;
  return `${labels["com.docker.swarm.service.id"]}/${body.Hostname}`;
}
