/**
 * The data key changes while the cluster runs (`shoal vault rotate`; also when the lock is switched on or the unlock
 * key rotated, since the old key has lain about since):
 *
 * 1. Some manager makes a key, keeps it (vault.ts, isNext) and names it in the cluster object (`nextId`).
 * 2. Every manager gets it from the others, as any key that it misses, and says so on its node object once it is on
 *    disk.
 * 3. When all managers that are there have it, and a majority in any case, the leader makes it the one that seals
 *    (`sealingId`). From then on nothing new is sealed by the old one.
 * 4. The leader seals anew what the old keys have sealed, a bounded number of objects a proposal, each only if it has
 *    not changed meanwhile.
 *
 * Every step is found again from what is stored, whoever leads. Old keys stay in the managers' files: the log, a
 * follower that is behind, and a backup may still hold what they have sealed. A manager that was away gets the new
 * key when it comes back, and until then makes no new secrets.
 */
import { ClusterError } from "../core/errors.ts";
import type { NodeId } from "../core/ids.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import type { ServiceSpec } from "../core/objects/service.ts";
import type { TaskSpec } from "../core/objects/task.ts";
import type { StoreAction } from "../core/store/action.ts";
import type { ClusterView } from "../core/store/view.ts";
import { resealedParts } from "./cluster-secrets.ts";
import { openSecret, resealMeshKeys, resealRegistryAuth, sealSecret, type Vault } from "./vault.ts";

/** Objects in one proposal. */
const BATCH_MAX = 50;
/** Counted for people. */
const STALE_MAX = 1_000;

type DataKeys = NonNullable<Cluster["dataKeys"]>;

/** This manager says that it has the key that is to seal next. */
export function planPossession(view: ClusterView, vault: Vault, nodeId: NodeId): StoreAction[] {
  const nextId = view.cluster()?.dataKeys?.nextId;
  const node = view.node(nodeId);
  if (nextId === undefined || !node || node.dataKeyId === nextId || !vault.has(nextId)) return [];
  return [{ type: "update", table: "node", id: nodeId, set: { dataKeyId: nextId } }];
}

/** For the leader: the next key seals once the managers have it. */
export function planActivation(view: ClusterView): StoreAction[] {
  const cluster = view.cluster();
  const nextId = cluster?.dataKeys?.nextId;
  if (!cluster || nextId === undefined) return [];
  const managers = view.nodes().filter((node) => node.managerAddr !== undefined);
  const isHolder = (node: (typeof managers)[number]) => node.dataKeyId === nextId;
  const holders = managers.filter(isHolder).length;
  const areAllThere = managers.every((node) => isHolder(node) || node.status.state === "down");
  if (!areAllThere || holders <= managers.length / 2) return [];
  const dataKeys: DataKeys = { sealingId: nextId };
  const { id, version } = cluster;
  return [{ type: "update", table: "cluster", id, ifVersion: version, set: { dataKeys } }];
}

/**
 * For the leader: the next objects to seal anew, at most `limit`; none when all is sealed by the present key. What
 * cannot be opened stays as it is, and is told.
 */
export function planReseal(
  view: ClusterView,
  vault: Vault,
  onFailure: (error: ClusterError) => void,
  limit = BATCH_MAX,
): StoreAction[] {
  const actions: StoreAction[] = [];
  for (const plan of candidates(view, vault)) {
    if (actions.length >= limit) break;
    try {
      const action = plan();
      if (action) actions.push(action);
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      onFailure(error);
    }
  }
  return actions;
}

/** One for each object that may have something sealed. */
function* candidates(
  view: ClusterView,
  vault: Vault,
): Generator<() => StoreAction | undefined, void> {
  const cluster = view.cluster();
  if (cluster) {
    const { id, version } = cluster;
    yield () => {
      const parts = resealedParts(vault, cluster);
      const meshKeys = resealMeshKeys(vault, cluster.meshKeys ?? []);
      if (!parts && !meshKeys) return undefined;
      const set = { ...parts, ...(meshKeys ? { meshKeys } : {}) };
      return { type: "update", table: "cluster", id, ifVersion: version, set };
    };
  }
  for (const { id, version, spec } of view.secrets()) {
    if (spec.Sealed !== undefined && vault.isCurrent(spec.Sealed)) continue;
    yield () => {
      const set = { spec: sealSecret(vault, id, openSecret(vault, id, spec)) };
      return { type: "update", table: "secret", id, ifVersion: version, set };
    };
  }
  for (const { id, version, spec, previousSpec } of view.services()) {
    yield () => {
      const next = resealedService(vault, spec);
      const previous = previousSpec && resealedService(vault, previousSpec);
      if (!next && !previous) return undefined;
      const set = {
        ...(next ? { spec: next } : {}),
        ...(previous ? { previousSpec: previous } : {}),
      };
      return { type: "update", table: "service", id, ifVersion: version, set, isSameSpec: true };
    };
  }
  for (const { id, version, spec } of view.tasks()) {
    yield () => {
      const next = resealedTemplate(vault, spec);
      return next && { type: "update", table: "task", id, ifVersion: version, set: { spec: next } };
    };
  }
}

function resealedService(vault: Vault, spec: ServiceSpec): ServiceSpec | undefined {
  const template = resealedTemplate(vault, spec.TaskTemplate);
  return template && { ...spec, TaskTemplate: template };
}

function resealedTemplate(vault: Vault, spec: TaskSpec): TaskSpec | undefined {
  const stored = spec.ContainerSpec.PullOptions?.RegistryAuth;
  const auth = stored === undefined ? undefined : resealRegistryAuth(vault, stored);
  if (auth === undefined) return undefined;
  return {
    ...spec,
    ContainerSpec: { ...spec.ContainerSpec, PullOptions: { RegistryAuth: auth } },
  };
}

export type VaultStatus = {
  /** The key that seals; absent before the first rotation. */
  sealingKeyId?: string;
  /** The one that is to seal next, and the managers that do not have it yet. */
  nextKeyId?: string;
  lateManagers: NodeId[];
  /** Objects that are sealed by an older key, up to 1,000. */
  staleCount: number;
};

/** What a rotation still waits for. */
export function vaultStatus(view: ClusterView, vault: Vault): VaultStatus {
  const { sealingId, nextId } = view.cluster()?.dataKeys ?? {};
  const managers = view.nodes().filter((node) => node.managerAddr !== undefined);
  const late = nextId === undefined ? [] : managers.filter((node) => node.dataKeyId !== nextId);
  return {
    ...(sealingId === undefined ? {} : { sealingKeyId: sealingId }),
    ...(nextId === undefined ? {} : { nextKeyId: nextId }),
    lateManagers: late.map(({ id }) => id),
    staleCount: planReseal(view, vault, () => {}, STALE_MAX).length,
  };
}

/** Begins a rotation: the actions that name the key just made. One under way gives way to it. */
export function planRotation(cluster: Cluster, nextId: string): StoreAction[] {
  const dataKeys: DataKeys = { ...cluster.dataKeys, nextId };
  const { id, version } = cluster;
  return [{ type: "update", table: "cluster", id, ifVersion: version, set: { dataKeys } }];
}
