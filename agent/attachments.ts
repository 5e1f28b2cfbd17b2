/**
 * Containers that users put on overlay networks by hand, on this node: asks the leader for an address,
 * and gives addresses back that no container has any more.
 *
 * What this node holds it knows from its assignments (endpoints of no service). An address is in use
 * while a container of the engine, running or not, is configured with it; a container that is being
 * created is given GRACE_MS to appear. A network of a local driver is in use while such a container is on
 * it, whatever its address. Nothing here is kept over a restart: the next complete set tells.
 */
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import { NETWORK_ID_LABEL } from "../net/mesh/docker-network.ts";
import type { RpcMethods } from "../net/rpc/methods.ts";
import { DETACH_MAX } from "../net/rpc/schemas.ts";
import type { Logger } from "./logger.ts";
import { TASK_ID_LABEL } from "./reconciler/container-spec.ts";

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
  /** By assignment key; since when this process knows of them. `use`: an address, or a network's id. */
  const held = new Map<string, { id: string; use: string; sinceMs: number }>();
  /** Their containers were made: those that are not there any more are gone, not still to come. */
  const made = new Set<string>();
  /** Of networks of local drivers: others may use them as well. */
  const shared = new Set<string>();

  const release = async () => {
    if (held.size === 0) return;
    const used = await usesOf(options.engineSocket);
    const nowMs = performance.now();
    for (const { id, use } of held.values()) if (used.has(use)) made.add(id);
    const free = [...held.values()].filter(
      ({ id, use, sinceMs }) => !used.has(use) && (made.has(id) || nowMs - sinceMs >= graceMs),
    );
    if (free.length === 0) return;
    const ids = free.slice(0, DETACH_MAX).map(({ id }) => id);
    await options.ask("detach", { ids }, RPC_TIMEOUT_MS);
    log.info({ addresses: free.map(({ use }) => use) }, "Addresses given back");
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
    attach: async (request) => {
      const given = await options.ask("attach", request, RPC_TIMEOUT_MS);
      if (given.address === "") {
        shared.add(given.id);
        // It may be there for others that go just now: the new container has its time to come.
        made.delete(given.id);
        for (const one of held.values()) if (one.id === given.id) one.sinceMs = performance.now();
      }
      return given;
    },
    settle: (id, isMade) => {
      if (isMade || shared.has(id)) {
        made.add(id);
        if (!isMade) checkSoon();
      } else options.ask("detach", { ids: [id] }, RPC_TIMEOUT_MS).catch(notYet);
    },
    containerGone: checkSoon,
    take: ({ type, put, removed }) => {
      const before = new Map(held);
      if (type === "complete") held.clear();
      for (const key of removed) held.delete(key);
      for (const { key, kind, body } of put) {
        if (kind !== "endpoint" || body.serviceId !== "" || body.nodeId !== options.nodeId())
          continue;
        const use = body.addresses[0]?.address ?? body.localNetworkId ?? "";
        const sinceMs = before.get(key)?.sinceMs ?? performance.now();
        held.set(key, { id: body.taskId, use, sinceMs });
      }
      const ids = new Set([...held.values()].map(({ id }) => id));
      if (type !== "complete") return;
      for (const id of made) if (!ids.has(id)) made.delete(id);
      for (const id of shared) if (!ids.has(id)) shared.delete(id);
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
  Labels?: Record<string, string>;
  NetworkSettings?: {
    Networks?: Record<
      string,
      { NetworkID?: string; IPAddress?: string; IPAMConfig?: { IPv4Address?: string } | null }
    >;
  };
};
type EngineNetwork = { Id: string; Name: string; Labels?: Record<string, string> | null };

/** Addresses of containers, and ids of the cluster's networks that users' containers are on. */
async function usesOf(engineSocket: string): Promise<Set<string>> {
  const containers = await list<EngineContainer>(engineSocket, "/containers/json?all=1");
  const networks = await list<EngineNetwork>(engineSocket, "/networks");
  const uses = new Set<string>();
  const clusterIds = new Map<string, string>();
  for (const { Id, Name, Labels } of networks) {
    const clusterId = Labels?.[NETWORK_ID_LABEL];
    // A container that has not been started is on a network by name only.
    if (clusterId !== undefined) clusterIds.set(Id, clusterId).set(Name, clusterId);
  }
  for (const { Labels, NetworkSettings } of containers) {
    for (const [name, leg] of Object.entries(NetworkSettings?.Networks ?? {})) {
      uses.add(leg.IPAddress ?? "").add(leg.IPAMConfig?.IPv4Address ?? "");
      const clusterId = clusterIds.get(leg.NetworkID ?? "") ?? clusterIds.get(name);
      if (clusterId !== undefined && Labels?.[TASK_ID_LABEL] === undefined) uses.add(clusterId);
    }
  }
  return uses;
}

async function list<T>(engineSocket: string, path: string): Promise<T[]> {
  try {
    const answer = await fetch(`http://engine${path}`, {
      unix: engineSocket,
      signal: AbortSignal.timeout(ENGINE_TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    // The engine's own answer.
    return (await answer.json()) as T[];
  } catch (cause) {
    throw new ClusterError("unavailable", `The engine does not answer ${path}`, { cause });
  }
}
