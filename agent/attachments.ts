/**
 * Containers that users put on overlay networks by hand, on this node: asks the leader for an address,
 * and gives addresses back that no container has any more.
 *
 * What this node holds it knows from its assignments (endpoints of no service). An address is in use
 * while a container of the engine, running or not, is configured with it; a container that is being
 * created is given GRACE_MS to appear. Nothing here is kept over a restart: the next complete set tells.
 */
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import type { RpcMethods } from "../net/rpc/methods.ts";
import { DETACH_MAX } from "../net/rpc/schemas.ts";
import type { Logger } from "./logger.ts";

const CHECK_PERIOD_MS = 20_000;
const GRACE_MS = 60_000;
const ENGINE_TIMEOUT_MS = 20_000;
const RPC_TIMEOUT_MS = 10_000;

type Ask = <M extends "attach" | "detach">(
  method: M,
  params: RpcMethods[M]["params"],
  timeoutMs: number,
) => Promise<RpcMethods[M]["result"]>;

export type Attachments = {
  /** @throws {ClusterError} as core/allocator/attachments.ts planAttachment; unavailable without a leader. */
  attach(request: RpcMethods["attach"]["params"]): Promise<RpcMethods["attach"]["result"]>;
  take(message: AssignmentsMessage): void;
  stop(): void;
};

/** `ask` finds the leader. */
export function startAttachments(options: {
  nodeId: () => string | undefined;
  engineSocket: string;
  ask: Ask;
  log: Logger;
  checkPeriodMs?: number;
  graceMs?: number;
}): Attachments {
  const { log, graceMs = GRACE_MS } = options;
  /** By assignment key; since when this process knows of them. */
  const held = new Map<string, { id: string; address: string; sinceMs: number }>();

  const release = async () => {
    if (held.size === 0) return;
    const used = await usedAddresses(options.engineSocket);
    const nowMs = performance.now();
    const free = [...held.values()].filter(
      ({ address, sinceMs }) => !used.has(address) && nowMs - sinceMs >= graceMs,
    );
    if (free.length === 0) return;
    const ids = free.slice(0, DETACH_MAX).map(({ id }) => id);
    await options.ask("detach", { ids }, RPC_TIMEOUT_MS);
    log.info({ addresses: free.map(({ address }) => address) }, "Addresses given back");
  };
  let isReleasing = false;
  const timer = setInterval(() => {
    if (isReleasing) return;
    isReleasing = true;
    release()
      .catch((error: unknown) => {
        if (!(error instanceof ClusterError)) throw error;
        log.debug({ err: error.message }, "Addresses not given back yet");
      })
      .finally(() => {
        isReleasing = false;
      });
  }, options.checkPeriodMs ?? CHECK_PERIOD_MS);
  timer.unref();

  return {
    attach: (request) => options.ask("attach", request, RPC_TIMEOUT_MS),
    take: ({ type, put, removed }) => {
      const before = new Map(held);
      if (type === "complete") held.clear();
      for (const key of removed) held.delete(key);
      for (const { key, kind, body } of put) {
        if (kind !== "endpoint" || body.serviceId !== "" || body.nodeId !== options.nodeId())
          continue;
        const address = body.addresses[0]?.address ?? "";
        const sinceMs = before.get(key)?.sinceMs ?? performance.now();
        held.set(key, { id: body.taskId, address, sinceMs });
      }
    },
    stop: () => clearInterval(timer),
  };
}

type EngineContainer = {
  NetworkSettings?: {
    Networks?: Record<string, { IPAddress?: string; IPAMConfig?: { IPv4Address?: string } | null }>;
  };
};

async function usedAddresses(engineSocket: string): Promise<Set<string>> {
  let containers: EngineContainer[];
  try {
    const answer = await fetch("http://engine/containers/json?all=1", {
      unix: engineSocket,
      signal: AbortSignal.timeout(ENGINE_TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    // The engine's own answer.
    containers = (await answer.json()) as EngineContainer[];
  } catch (cause) {
    throw new ClusterError("unavailable", "The engine does not list its containers", { cause });
  }
  const networks = containers.flatMap(({ NetworkSettings }) =>
    Object.values(NetworkSettings?.Networks ?? {}),
  );
  return new Set(
    networks.flatMap(({ IPAddress, IPAMConfig }) => [
      IPAddress ?? "",
      IPAMConfig?.IPv4Address ?? "",
    ]),
  );
}
