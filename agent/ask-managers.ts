/** Calls that any manager passes on to the leader: asked in turn until one answers. */
import { ClusterError } from "../core/errors.ts";
import type { ManagerAddress, RpcMethod, RpcMethods } from "../net/rpc/methods.ts";
import type { RpcPool } from "../net/rpc/pool.ts";

const RETRY_MS = 500;
/** They say nothing of the call itself: the next manager, or the next round, may do better. */
const PASSING = new Set(["unavailable", "deadline", "busy", "proposal-dropped", "no-quorum"]);

export type AskManagers = <M extends RpcMethod>(
  method: M,
  params: RpcMethods[M]["params"],
  timeoutMs: number,
  targets: ManagerAddress[],
) => Promise<RpcMethods[M]["result"]>;

/**
 * Asks the targets in turn, round after round until the time is over; one that does not lead names the
 * leader when the method needs it.
 * @throws {ClusterError} unavailable on a node that is in no cluster; the first refusal that is one of the call;
 * else the last failure.
 */
export function createAskManagers(options: {
  /** Absent on a node that is in no cluster. */
  pool: () => RpcPool | undefined;
  isStopping: () => boolean;
}): AskManagers {
  return async (method, params, timeoutMs, targets) => {
    const peers = options.pool();
    if (!peers) throw new ClusterError("unavailable", "This node is in no cluster");
    const deadlineMs = Date.now() + timeoutMs;
    let failure: unknown = new ClusterError("unavailable", "No manager is known");
    let hint: ManagerAddress | undefined;
    while (Date.now() < deadlineMs && !options.isStopping()) {
      const round: ManagerAddress[] = hint ? [hint] : targets;
      hint = undefined;
      for (const target of round) {
        try {
          return await peers.request(target.nodeId, target.addr, method, params, {
            timeoutMs: Math.max(1, deadlineMs - Date.now()),
          });
        } catch (error) {
          failure = error;
          if (!(error instanceof ClusterError)) throw error;
          if (error.code === "not-leader") {
            hint = error.details["leader"] as ManagerAddress | undefined;
            if (hint) break;
          } else if (!PASSING.has(error.code)) {
            throw error;
          }
        }
      }
      if (!hint) await Bun.sleep(RETRY_MS);
    }
    throw failure;
  };
}
