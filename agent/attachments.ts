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
/** One look for all that go together. */
const GONE_DELAY_MS = 200;
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
  /** What came of an address: a container is configured with it, or there is none and it goes back. */
  settle(id: string, isMade: boolean): void;
  /** A container or a leg of one is gone: looks soon whether an address is free. */
  containerGone(): void;
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
  /** Their containers were made: those that are not there any more are gone, not still to come. */
  const made = new Set<string>();

  const release = async () => {
    if (held.size === 0) return;
    const used = await usedAddresses(options.engineSocket);
    const nowMs = performance.now();
    for (const { id, address } of held.values()) if (used.has(address)) made.add(id);
    const free = [...held.values()].filter(
      ({ id, address, sinceMs }) =>
        !used.has(address) && (made.has(id) || nowMs - sinceMs >= graceMs),
    );
    if (free.length === 0) return;
    const ids = free.slice(0, DETACH_MAX).map(({ id }) => id);
    await options.ask("detach", { ids }, RPC_TIMEOUT_MS);
    log.info({ addresses: free.map(({ address }) => address) }, "Addresses given back");
  };
  const notYet = (error: unknown) => {
    if (!(error instanceof ClusterError)) throw error;
    log.debug({ err: error.message }, "Addresses not given back yet");
  };
  let isReleasing = false;
  const check = () => {
    if (isReleasing) return;
    isReleasing = true;
    release()
      .catch(notYet)
      .finally(() => {
        isReleasing = false;
      });
  };
  const timer = setInterval(check, options.checkPeriodMs ?? CHECK_PERIOD_MS);
  timer.unref();
  let soon: Timer | undefined;
  const checkSoon = () => {
    if (held.size === 0) return;
    soon ??= setTimeout(() => {
      soon = undefined;
      check();
    }, GONE_DELAY_MS);
  };

  return {
    attach: (request) => options.ask("attach", request, RPC_TIMEOUT_MS),
    settle: (id, isMade) => {
      if (isMade) made.add(id);
      else options.ask("detach", { ids: [id] }, RPC_TIMEOUT_MS).catch(notYet);
    },
    containerGone: checkSoon,
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
      const ids = new Set([...held.values()].map(({ id }) => id));
      if (type !== "complete") return;
      for (const id of made) if (!ids.has(id)) made.delete(id);
      // After a restart: which of them have their containers?
      checkSoon();
    },
    stop: () => {
      clearInterval(timer);
      clearTimeout(soon);
    },
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
