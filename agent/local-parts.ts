/**
 * The parts of every node, manager or not: the reconciler, the mesh and DNS, a thread each. They run from
 * their own journals from the first moment, whether or not a manager can be reached.
 *
 * Here they are started and stopped, told what they must have, and spoken with; what they do is in
 * reconciler/ and net/mesh/.
 */
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { assert } from "../core/assert.ts";
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import type { NodeEncryption } from "../core/objects/node.ts";
import type { BackendName } from "../net/mesh/backend.ts";
import type { MeshAnswer, MeshInput, MeshOutput } from "../net/mesh/protocol.ts";
import { meshDir, takeDnsThread } from "./dns-thread.ts";
import type { Logger } from "./logger.ts";
import type { ReconcilerAnswer, ReconcilerInput, ReconcilerOutput } from "./reconciler/protocol.ts";
import { spawnWorker } from "./spawn-workers.ts";
import { type WorkerClient, workerClient } from "./worker-client.ts";

/** Words to the leader that wait for the mesh; the leader does not wait for long either. */
const ACKS_MAX = 1_000;
const DESCRIBE_TIMEOUT_MS = 10_000;
const WIPE_CONTAINERS_TIMEOUT_MS = 60_000;
const WIPE_MESH_TIMEOUT_MS = 30_000;

export type LocalParts = {
  reconciler: WorkerClient<ReconcilerInput, ReconcilerAnswer, ReconcilerOutput>;
  mesh: WorkerClient<MeshInput, MeshAnswer, MeshOutput>;
  /** Gives the message to both. `applied` is called once this node balances by it, if the message wants that. */
  assign(message: AssignmentsMessage, applied: () => void): void;
  /** What the engine and this host are. */
  describe(): Promise<Extract<ReconcilerAnswer, { type: "description" }>["description"]>;
  /** `wipe`: containers, networks and kernel state too, as for a node that leaves. */
  stop(wipe: boolean): Promise<void>;
};

/** @throws {ClusterError} unavailable when the host or its engine lacks what a node needs. */
export async function startLocalParts(options: {
  dataDir: string;
  engineSocket: string;
  meshBackend: "auto" | BackendName;
  log: Logger;
  /** A container of whoever, or a leg of one, is gone from the engine. */
  onContainerGone(): void;
  onStatuses(statuses: Extract<ReconcilerOutput, { type: "statuses" }>["statuses"]): void;
  /** What `describe` gives is not what it was. */
  onDescriptionChanged(): void;
  /** What the mesh says of encrypted networks has changed. */
  onEncryption(encryption: NodeEncryption): void;
  /** A thread ended unasked: the process must end. */
  fatal(message: string, details: Record<string, unknown>): never;
}): Promise<LocalParts> {
  const { log } = options;
  const dns = takeDnsThread(options.dataDir);
  const reconciler = workerClient<ReconcilerInput, ReconcilerAnswer, ReconcilerOutput>(
    spawnWorker("reconciler"),
    "reconciler",
  );
  const mesh = workerClient<MeshInput, MeshAnswer, MeshOutput>(spawnWorker("mesh"), "mesh");
  for (const [name, client] of [
    ["reconciler", reconciler],
    ["mesh", mesh],
    ["dns", dns.client],
  ] as const) {
    client.onExit((exit) => {
      if (exit.wasAsked) return;
      const details = { code: exit.code, err: exit.error?.stack };
      options.fatal(`The ${name} worker ended unasked`, details);
    });
  }
  const acks = createAcks();
  reconciler.onOutput((output) => {
    if (output.type === "statuses") options.onStatuses(output.statuses);
    else if (output.type === "container-gone") options.onContainerGone();
    else if (output.type === "networks-present") {
      mesh.notify({ type: "networks-present", networkIds: output.networkIds });
    } else if (output.type === "network-failed") {
      log.warn({ network: output.networkId, err: output.message }, "The engine refuses a network");
    } else {
      log.info({ engine: output.description.Engine.EngineVersion }, "The engine changed");
      options.onDescriptionChanged();
    }
  });
  mesh.onOutput((output) => {
    if (output.type === "applied") acks.applied(output.mark);
    else if (output.type === "encryption") options.onEncryption(output.encryption);
    else if (output.type === "repaired") log.warn({ what: output.what }, "Mesh drift mended");
    else log.error({ err: output.message }, "Mesh could not be programmed");
  });
  const stopBoth = () =>
    Promise.all([reconciler.stop({ type: "stop" }), mesh.stop({ type: "stop" })]);
  const stopAll = async () => {
    await stopBoth();
    await dns.client.stop({ type: "stop" });
  };
  const { engineSocket, dataDir } = options;
  try {
    const line = new MessageChannel();
    await dns.client.request({ type: "link" }, { port: line.port1 });
    const ready = await mesh.request(
      { type: "init", dir: meshDir(dataDir), backend: options.meshBackend, engineSocket },
      { port: line.port2 },
    );
    await dns.ready;
    assert(ready.type === "ready", "init is answered by ready");
    await reconciler.request({ type: "init", engineSocket, dir: join(dataDir, "node") });
    log.info({ backend: ready.backend }, "Mesh ready");
  } catch (error) {
    await stopAll();
    throw error;
  }
  return {
    reconciler,
    mesh,
    assign: ({ type, put, removed, isAckWanted }, applied) => {
      const assignments = {
        type: "assignments" as const,
        isComplete: type === "complete",
        put,
        removed,
      };
      // It keeps what it is given on disk, and has no use for these.
      const kept = put.filter(({ kind }) => kind !== "mesh-keys");
      reconciler.notify({ ...assignments, put: kept });
      mesh.notify(isAckWanted ? { ...assignments, mark: acks.expect(applied) } : assignments);
    },
    describe: async () => {
      const answer = await reconciler.request(
        { type: "describe" },
        { timeoutMs: DESCRIBE_TIMEOUT_MS },
      );
      assert(answer.type === "description", "describe is answered by description");
      return answer.description;
    },
    stop: async (wipe) => {
      if (wipe) {
        await reconciler.request({ type: "wipe" }, { timeoutMs: WIPE_CONTAINERS_TIMEOUT_MS });
        await mesh.request({ type: "wipe" }, { timeoutMs: WIPE_MESH_TIMEOUT_MS });
      }
      // A process that ends answers names to the last.
      if (wipe) await stopAll();
      else await stopBoth();
    },
  };
}

/** Who waits for which mark; one word covers all before it. */
function createAcks() {
  let newest = 0;
  const waiting = new Map<number, () => void>();
  return {
    expect: (applied: () => void): number => {
      newest += 1;
      waiting.set(newest, applied);
      if (waiting.size > ACKS_MAX) waiting.delete(newest - ACKS_MAX);
      return newest;
    },
    applied: (upTo: number): void => {
      for (const [mark, applied] of waiting) {
        if (mark > upTo) break;
        waiting.delete(mark);
        applied();
      }
    },
  };
}
