/**
 * `shoal net doctor`: a node looks at its own network; the leader has all nodes look and compares.
 *
 * 1. Nothing is changed anywhere, and nothing is kept but the turn of the samples.
 * 2. A node looks once at a time: who asks meanwhile gets the same report.
 * 3. The leader waits {@link NODE_TIMEOUT_MS} for a node; one that does not answer is a finding.
 * 4. A node's answer is checked for its shape before it is believed or shown.
 */
import { ClusterError } from "../../core/errors.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { MeshTable } from "../../net/mesh/table.ts";
import type { NetFinding, NetNodeReport, NetReport } from "../../net/rpc/methods.ts";
import type { RpcConnection } from "../../net/rpc/peer.ts";
import { findNode } from "../api/lookup.ts";
import {
  checkClock,
  checkDataPath,
  checkPools,
  checkServices,
  checkUnderlays,
  unanswered,
} from "./check-cluster.ts";
import { checkNode } from "./check-node.ts";
import type { NodeFacts } from "./facts.ts";
import { gatherFacts } from "./gather.ts";
import type { Probes } from "./probes.ts";
import { inOrder, makeReport, parseNodeReport } from "./report.ts";

export const NODE_TIMEOUT_MS = 5_000;
/** The leader's answer comes within this time. */
export const DOCTOR_TIMEOUT_MS = 9_000;
/** Nodes in one report, asked at once; with ?node= each can be had. */
const NODES_MAX = 256;

/** This node's own look. */
export type NodeDoctor = {
  /** Within {@link NODE_TIMEOUT_MS}. */
  examine(): Promise<NetNodeReport>;
};

export function createNodeDoctor(options: {
  probes: Probes;
  loadTable(): Promise<MeshTable>;
  meshStatus(timeoutMs: number): Promise<NodeFacts["mesh"]>;
  nowMs(): number;
}): NodeDoctor {
  let turn = 0;
  let running: Promise<Omit<NetNodeReport, "receivedAtMs" | "answeredAtMs">> | undefined;
  const look = async () => {
    const facts = await gatherFacts({ ...options, turn: turn++ });
    const underlay = facts.devices?.underlay;
    return {
      findings: inOrder(checkNode(facts)),
      ...(underlay
        ? { underlayMtu: underlay.mtu, underlayPrefixLength: underlay.prefixLength }
        : {}),
    };
  };
  return {
    examine: async () => {
      const receivedAtMs = options.nowMs();
      running ??= look().finally(() => {
        running = undefined;
      });
      const found = await running;
      return { ...found, receivedAtMs, answeredAtMs: options.nowMs() };
    },
  };
}

/** The report of one node alone, with why it is no more. */
export async function examineHere(options: {
  doctor: NodeDoctor;
  nodeId: string;
  hostname: string;
  note: string;
}): Promise<NetReport> {
  const { nodeId, hostname, note } = options;
  const { findings } = await options.doctor.examine();
  return makeReport({ scope: "node", note, cluster: [], nodes: [{ nodeId, hostname, findings }] });
}

export type ClusterDoctorPorts = {
  read<T>(read: (view: ClusterView) => T): Promise<T>;
  sessionOf(nodeId: string): RpcConnection | undefined;
  selfId: string;
  doctor: NodeDoctor;
  nowMs(): number;
};

type Seen = { node: NodeObject; hostname: string; findings: NetFinding[]; report?: NetNodeReport };

/**
 * On the leader: every node, or the one that `ref` names.
 * @throws {ClusterError} not-found, invalid-argument for `ref`; as read.
 */
export async function examineCluster(ports: ClusterDoctorPorts, ref?: string): Promise<NetReport> {
  const { nodes, cluster, leftOut } = await ports.read((view) => {
    const all = ref === undefined ? [...view.nodes()] : [findNode(view, ref)];
    const findings =
      ref === undefined ? [...checkPools(view), ...checkServices(view, ports.nowMs())] : [];
    return {
      nodes: all.slice(0, NODES_MAX),
      leftOut: all.length - NODES_MAX,
      cluster: findings,
    };
  });
  const seen = await Promise.all(nodes.map((node) => askNode(ports, node)));
  return makeReport({
    scope: "cluster",
    ...(leftOut > 0
      ? { note: `${leftOut} nodes were not asked: ask for each by shoal net doctor --node` }
      : {}),
    cluster: [...cluster, ...checkUnderlays(seen)],
    nodes: seen.map(({ node, hostname, findings }) => ({ nodeId: node.id, hostname, findings })),
  });
}

async function askNode(ports: ClusterDoctorPorts, node: NodeObject): Promise<Seen> {
  const hostname = node.description?.Hostname ?? node.id;
  const sentAtMs = ports.nowMs();
  let report: NetNodeReport;
  try {
    report = await askForReport(ports, node);
  } catch (failure) {
    if (!(failure instanceof ClusterError)) throw failure;
    const findings = [unanswered(node, hostname, failure.message)];
    return { node, hostname, findings };
  }
  const gotAtMs = ports.nowMs();
  const findings = [
    ...report.findings,
    ...(node.id === ports.selfId
      ? []
      : [checkClock({ hostname, sentAtMs, gotAtMs, answer: report })]),
    ...checkDataPath(node, hostname, report.underlayPrefixLength),
  ];
  return { node, hostname, findings, report };
}

async function askForReport(ports: ClusterDoctorPorts, node: NodeObject): Promise<NetNodeReport> {
  if (node.id === ports.selfId) return ports.doctor.examine();
  const session = ports.sessionOf(node.id);
  if (!session) throw new ClusterError("unavailable", "it has no session with the leader");
  const { report } = await session
    .request("net-check", {}, { timeoutMs: NODE_TIMEOUT_MS })
    .catch((failure: unknown) => {
      if (!(failure instanceof ClusterError)) throw failure;
      if (failure.code !== "deadline") throw failure;
      throw new ClusterError("deadline", `nothing came in ${NODE_TIMEOUT_MS} ms`);
    });
  return parseNodeReport(report);
}
