/**
 * Runs on the leader: makes and drops the keys of encrypted networks when core/encryption/mesh-keys.ts says
 * so. The bytes are made here, and sealed by the data keys before they are proposed.
 */
import { planMeshKeys } from "../core/encryption/mesh-keys.ts";
import { ClusterError } from "../core/errors.ts";
import { newId } from "../core/ids.ts";
import type { MeshKey } from "../core/objects/cluster.ts";
import type { Random } from "../core/random.ts";
import type { StateOutput } from "../core/protocol.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";
import { sealMeshKey, type Vault } from "./vault.ts";

const PERIOD_MS = 5_000;
const KEY_BYTES = 32;

export type MeshKeysKeeper = {
  /** Looks at once when it may have something to do. */
  take(output: StateOutput): void;
  stop(): void;
};

export function startMeshKeys(options: {
  manager: Pick<Manager, "status" | "readLocal" | "propose">;
  vault: Vault;
  random: Random;
  log: Logger;
  nowMs?: () => number;
}): MeshKeysKeeper {
  const { manager, vault, random, log, nowMs = () => Date.now() } = options;
  let isRunning = false;
  let isStopped = false;

  const step = async (): Promise<void> => {
    if (!manager.status().isLeader) return;
    const atMs = nowMs();
    const { cluster, due } = manager.readLocal((view) => ({
      cluster: view.cluster(),
      due: planMeshKeys(view, atMs),
    }));
    if (!cluster || !due.isDue) return;
    const meshKeys: MeshKey[] = [...due.kept];
    if (due.isNewWanted) {
      const id = newId(random);
      const secret = sealMeshKey(vault, id, random.bytes(KEY_BYTES));
      meshKeys.push({ id, secret, createdAtMs: atMs });
    }
    const { id, version } = cluster;
    const base = { type: "update", table: "cluster", id, ifVersion: version } as const;
    await manager.propose([
      meshKeys.length > 0
        ? { ...base, set: { meshKeys } }
        : { ...base, set: {}, unset: ["meshKeys"] },
    ]);
    log.info(
      { keys: meshKeys.map((key) => key.id) },
      meshKeys.length === 0
        ? "Keys of encrypted networks dropped: there is none any more"
        : "Keys of encrypted networks changed",
    );
  };
  const run = () => {
    if (isRunning || isStopped) return;
    isRunning = true;
    step()
      .catch((error: unknown) => {
        // Leadership moved, another change of the cluster came first, no data key yet: the next look.
        if (!(error instanceof ClusterError)) throw error;
        log.debug({ err: error.message, code: error.code }, "Mesh keys not changed yet");
      })
      .finally(() => {
        isRunning = false;
      });
  };
  const timer = setInterval(run, PERIOD_MS);
  return {
    take: (output) => {
      if (output.type !== "applied") return;
      if (output.changes.some(({ table }) => table === "network")) run();
    },
    stop: () => {
      isStopped = true;
      clearInterval(timer);
    },
  };
}
