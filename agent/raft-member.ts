/**
 * Keeps a manager in raft for as long as it manages: joins it, again when the others have taken it out,
 * under its new address when that has changed; and sees to it that it has the keys of secrets, and that
 * nothing lies in the store in clear.
 */
import { ClusterError } from "../core/errors.ts";
import type { StoreAction } from "../core/store/action.ts";
import type { ClusterView } from "../core/store/view.ts";
import type { ManagerAddress } from "../net/rpc/methods.ts";
import type { RpcPool } from "../net/rpc/pool.ts";
import type { AskManagers } from "./ask-managers.ts";
import { sealedParts } from "./cluster-secrets.ts";
import { planActivation, planPossession, planReseal } from "./data-keys.ts";
import type { NodeIdentity } from "./identity.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";
import type { ManagerRpc } from "./manager-handlers.ts";
import { sealSecret, type Vault } from "./vault.ts";

export const RAFT_JOIN_TIMEOUT_MS = 25_000;
/** Telling a new address: nothing to catch up with, and this node may be the leader itself by then. */
const SET_ADDRESS_TIMEOUT_MS = 3_000;
const RPC_TIMEOUT_MS = 5_000;
const RETRY_MS = 500;
/** A manager that the others have taken out asks to be let in again within so long. */
const RAFT_CHECK_MS = 5_000;
/** Every manager has asked for a new data key by then. */
const KEY_SPREAD_MS = 60_000;
/** While a data key is on its way to the managers. */
const KEY_CHECK_MS = 250;
/** Proposals in one round of sealing anew; then other work has its turn. */
const RESEAL_BATCHES_MAX = 20;
/** Somebody may have sealed by the old key while the new one was being made known. */
const RESEAL_AGAIN_MS = 60_000;

type Parts = { manager: Manager; rpc: ManagerRpc };

export type RaftMemberPorts = {
  me: () => Omit<NodeIdentity, "formatVersion">;
  otherManagers: () => ManagerAddress[];
  pool: () => RpcPool;
  ask: AskManagers;
  vault: Vault;
  log: Logger;
};

export type RaftMember = {
  /**
   * Becomes a member of raft at this node's address, unless it is one.
   * @throws {ClusterError} when it could not in that time.
   */
  join(manager: Manager, timeoutMs: number): Promise<void>;
  /**
   * Gets the keys of secrets from the other managers; where nobody has any, the leader makes the first.
   * Nothing is kept of the answers once `isCurrent` is false.
   */
  learnDataKeys(parts: Parts, isCurrent: () => boolean): Promise<void>;
  /** Joins, and looks after this manager until `isCurrent` is false. */
  keep(parts: Parts, isCurrent: () => boolean): Promise<void>;
  /** The cluster object may have changed. */
  wake(): void;
};

/** The manager itself is given with each call: it comes and goes with the node's role. */
export function createRaftMember(ports: RaftMemberPorts): RaftMember {
  const { vault, log } = ports;

  /**
   * Whether the others see this node as the manager that it is. What the own log says of it may be
   * over: it was taken out and promoted again while it was away, or before it noticed. And a join may
   * have ended half way.
   */
  const isInRaft = (manager: Manager): boolean => {
    const me = ports.me();
    const { members, leaderId } = manager.status();
    const self = members.find((m) => m.nodeId === me.nodeId);
    const isVoter = self !== undefined && !self.isLearner && self.addr === me.advertiseAddr;
    if (!isVoter || leaderId === undefined) return false;
    return manager.readLocal((view) => view.node(me.nodeId)?.managerAddr === me.advertiseAddr);
  };

  /** Becomes a member of raft at this address, unless it is one. */
  const join = async (manager: Manager, timeoutMs: number) => {
    const me = ports.me();
    if (isInRaft(manager)) return;
    const self = manager.status().members.find((m) => m.nodeId === me.nodeId);
    if (self && manager.status().isLeader) {
      // Its address has changed: nobody else can say so.
      if (self.addr !== me.advertiseAddr) {
        const { nodeId, advertiseAddr: addr } = me;
        await manager.changeMembership({ type: "set-addr", nodeId, addr });
      }
      const set = { managerAddr: me.advertiseAddr };
      await manager.propose([{ type: "update", table: "node", id: me.nodeId, set }]);
      return;
    }
    if (ports.otherManagers().length === 0) {
      // The only one, and about to lead.
      throw new ClusterError("not-leader", "This manager does not lead yet");
    }
    await ports.ask("raft-join", { addr: me.advertiseAddr }, timeoutMs, ports.otherManagers());
  };

  /** Gets the keys of secrets from the other managers; where nobody has any, the leader makes the first. */
  const learnDataKeys = async ({ manager, rpc }: Parts, isCurrent: () => boolean) => {
    if (!vault.isWanting()) return;
    for (const { nodeId, addr } of ports.otherManagers()) {
      if (!vault.isWanting()) break;
      try {
        const limits = { timeoutMs: RPC_TIMEOUT_MS };
        const { keys } = await ports.pool().request(nodeId, addr, "data-keys", {}, limits);
        if (isCurrent() && vault.learn(keys)) rpc.keysLearned();
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        log.warn({ manager: nodeId, err: error.message }, "Keys of secrets not had from a manager");
      }
    }
    if (isCurrent() && vault.keys().length === 0 && manager.status().isLeader) {
      vault.make(Date.now());
      log.info("Key of secrets made");
    }
  };

  /** What an older shoal, or a backup of its, has stored in clear. */
  const sealOldSecrets = async (manager: Manager) => {
    if (!manager.status().isLeader || vault.isWanting()) return;
    const inClear = manager.readLocal((view) =>
      view.secrets().filter((secret) => secret.spec.Data !== undefined),
    );
    for (const { id, version, spec } of inClear) {
      const set = { spec: sealSecret(vault, id, spec) };
      try {
        await manager.propose([{ type: "update", table: "secret", id, ifVersion: version, set }]);
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        log.warn({ secret: id, err: error.message }, "Secret not sealed yet, will try again");
      }
    }
    const cluster = manager.readLocal((view) => view.cluster());
    const set = cluster && sealedParts(vault, cluster);
    if (!cluster || !set) return;
    // With a key that only this manager has, the cluster's CA would be lost with it.
    const isKeyEverywhere = vault
      .keys()
      .every((key) => Date.now() - key.createdAtMs > KEY_SPREAD_MS);
    if (!isKeyEverywhere && ports.otherManagers().length > 0) return;
    const { id, version } = cluster;
    await manager.propose([{ type: "update", table: "cluster", id, ifVersion: version, set }]);
  };

  /** What was looked through last, as the leader, and until when that has to be done again. */
  let resealed: { keyId: string; untilMs: number } | undefined;
  /** The steps of data-keys.ts; how soon they are to be looked at again. */
  const followDataKeys = async (manager: Manager): Promise<number> => {
    const dataKeys = manager.readLocal((view) => view.cluster()?.dataKeys);
    vault.follow(dataKeys);
    if (!dataKeys) return RAFT_CHECK_MS;
    const propose = async (plan: (view: ClusterView) => StoreAction[], mode?: "each") => {
      const actions = manager.readLocal(plan);
      if (actions.length > 0) await manager.propose(actions, mode);
      return actions.length;
    };
    await propose((view) => planPossession(view, vault, ports.me().nodeId));
    if (!manager.status().isLeader) {
      resealed = undefined;
      return dataKeys.nextId === undefined ? RAFT_CHECK_MS : KEY_CHECK_MS;
    }
    if (dataKeys.nextId !== undefined) {
      await propose(planActivation);
      return KEY_CHECK_MS;
    }
    const { sealingId } = dataKeys;
    if (sealingId === undefined || !vault.has(sealingId)) return RAFT_CHECK_MS;
    if (resealed?.keyId === sealingId && Date.now() > resealed.untilMs) return RAFT_CHECK_MS;
    for (let batch = 0; batch < RESEAL_BATCHES_MAX; batch++) {
      let failure: ClusterError | undefined;
      const fail = (error: ClusterError) => {
        failure ??= error;
      };
      if ((await propose((view) => planReseal(view, vault, fail), "each")) === 0) {
        if (failure) {
          log.warn({ err: failure.message }, "Something cannot be sealed by the present data key");
        }
        if (resealed?.keyId !== sealingId) {
          resealed = { keyId: sealingId, untilMs: Date.now() + RESEAL_AGAIN_MS };
          log.info({ key: sealingId }, "Everything is sealed by the present data key");
        }
        return RAFT_CHECK_MS;
      }
    }
    return KEY_CHECK_MS;
  };

  let wakeUp: (() => void) | undefined;
  const pause = async (waitMs: number) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    wakeUp = resolve;
    const timer = setTimeout(resolve, waitMs);
    await promise;
    clearTimeout(timer);
  };

  const keep = async (parts: Parts, isCurrent: () => boolean) => {
    const { manager } = parts;
    while (isCurrent()) {
      let waitMs = RAFT_CHECK_MS;
      try {
        await learnDataKeys(parts, isCurrent);
        const { nodeId } = ports.me();
        const { members } = manager.status();
        const isVoter = members.some((m) => m.nodeId === nodeId && !m.isLearner);
        await join(manager, isVoter ? SET_ADDRESS_TIMEOUT_MS : RAFT_JOIN_TIMEOUT_MS);
        await sealOldSecrets(manager);
        waitMs = await followDataKeys(manager);
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        log.warn({ err: error.message }, "Cannot join raft yet");
        waitMs = RETRY_MS;
      }
      await pause(waitMs);
    }
  };

  return { join, learnDataKeys, keep, wake: () => wakeUp?.() };
}
