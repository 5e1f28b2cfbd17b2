/**
 * node.json: who this node is, beside its certificate in `pki/`. Written last when a cluster is made
 * or joined and removed first when it is left, so its presence is the commit point: a crash before
 * it leaves a node that is in no cluster, whatever other files exist.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ClusterError } from "../core/errors.ts";
import type { Proposal } from "../core/store/action.ts";
import { readText, syncDirectory, writeAtomically } from "../net/pki/atomic-file.ts";
import type { ManagerAddress } from "../net/rpc/methods.ts";

const FORMAT_VERSION = 1;

export type NodeIdentity = {
  formatVersion: typeof FORMAT_VERSION;
  nodeId: string;
  clusterId: string;
  /** `host:port` on which a manager listens. */
  listenAddr: string;
  /** `host:port` that others are told; the host is the node's own address. */
  advertiseAddr: string;
  /** Underlay IPv4 address for VXLAN. */
  dataPathAddr: string;
  /** Managers known last, to find the cluster again. */
  managers: ManagerAddress[];
  /**
   * The founder's first proposal (cluster, node, networks), kept until it is applied, so that a
   * crash between the two cannot leave a cluster without its objects.
   */
  pendingInit?: Proposal;
  /** --force-new-cluster has begun and is not finished: it is done again at the next start. */
  isForcePending?: boolean;
  /** Managers that --force-new-cluster cut off. Their consensus is not listened to, see manager.ts. */
  formerManagers?: string[];
};

/** @throws {ClusterError} internal when the file is damaged or of a newer format. */
export function loadIdentity(dataDir: string): NodeIdentity | undefined {
  const text = readText(join(dataDir, "node.json"));
  if (text === undefined) return undefined;
  const damaged = (cause?: unknown) =>
    new ClusterError(
      "internal",
      `Cannot read "${dataDir}/node.json": it is damaged; restore it or leave with the file removed`,
      { cause },
    );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(error);
  }
  if (typeof value !== "object" || value === null || !("formatVersion" in value)) throw damaged();
  if (value.formatVersion !== FORMAT_VERSION) {
    throw new ClusterError(
      "internal",
      `Cannot use "${dataDir}/node.json": format ${String(value.formatVersion)}, this shoal knows ${FORMAT_VERSION}; start the version that wrote it`,
    );
  }
  // Written by saveIdentity() of this format and renamed into place whole.
  return value as NodeIdentity;
}

/** Replaces node.json atomically: a crash leaves the old file or the new one, on disk. */
export function saveIdentity(dataDir: string, identity: Omit<NodeIdentity, "formatVersion">): void {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const text = JSON.stringify({ formatVersion: FORMAT_VERSION, ...identity }, null, 2);
  writeAtomically(join(dataDir, "node.json"), text, 0o600);
  syncDirectory(dataDir);
}

/** Forgets the cluster: node.json first, then everything that belongs to it. */
export function removeIdentity(dataDir: string): void {
  rmSync(join(dataDir, "node.json"), { force: true });
  syncDirectory(dataDir);
  for (const name of ["pki", "raft", "raft.rebuild", "raft.damaged", "state", "node", "mesh"]) {
    rmSync(join(dataDir, name), { recursive: true, force: true });
  }
}
