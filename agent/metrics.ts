/**
 * The node's metrics as Prometheus text (exposition format 0.0.4). Base units are in the names.
 * Gathered from what the parts know anyway: asking costs nothing in between, and needs no quorum.
 */
import type { RaftStatus } from "../core/protocol.ts";
import type { LocalNode } from "./api/ports.ts";

export type NodeMetrics = {
  version: string;
  node: LocalNode;
  isSessionOpen: boolean;
  /** On managers; with progress and reachability on the leader only. */
  raft?: RaftStatus;
  /** While the node is in a cluster: kernel objects mended since the start, by kind. */
  meshRepairs?: Record<string, number>;
  /** New connections that this node has balanced, by service and by its address or published port. */
  connections?: { serviceName: string; family: string; face: string; connections: number }[];
  residentBytes: number;
  uptimeSeconds: number;
};

type Labels = Record<string, string>;
type Sample = { labels?: Labels; value: number };

/** One metric a paragraph: HELP, TYPE, samples. */
export function renderMetrics(metrics: NodeMetrics): string {
  const parts: string[] = [];
  const add = (name: string, type: "gauge" | "counter", help: string, samples: Sample[]) => {
    if (samples.length === 0) return;
    const lines = samples.map(
      ({ labels = {}, value }) => `${name}${renderLabels(labels)} ${value}`,
    );
    parts.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines);
  };
  const { node, raft } = metrics;
  add("shoal_info", "gauge", "Always 1; the labels say what this is.", [
    {
      labels: { version: metrics.version, node: node.nodeId ?? "", cluster: node.clusterId ?? "" },
      value: 1,
    },
  ]);
  add("shoal_node_state", "gauge", "1 for the state that the node is in.", [
    { labels: { state: node.state }, value: 1 },
  ]);
  add("shoal_session_open", "gauge", "Whether the session with the leader is open.", [
    { value: Number(metrics.isSessionOpen) },
  ]);
  add("shoal_process_resident_bytes", "gauge", "Resident memory of the agent.", [
    { value: metrics.residentBytes },
  ]);
  add("shoal_process_uptime_seconds", "gauge", "Since the agent was started.", [
    { value: metrics.uptimeSeconds },
  ]);
  const { certificate } = node;
  if (certificate) {
    add("shoal_certificate_end_seconds", "gauge", "Unix time of the certificate's end.", [
      { value: Math.floor(certificate.notAfterMs / 1_000) },
    ]);
    add(
      "shoal_certificate_renewal_failures_total",
      "counter",
      "Attempts to have the certificate renewed that failed.",
      [{ value: certificate.failureCount }],
    );
  }
  if (raft) {
    const voters = raft.members.filter((member) => !member.isLearner);
    add("shoal_raft_term", "gauge", "Current term.", [{ value: raft.term }]);
    add("shoal_raft_is_leader", "gauge", "Whether this manager leads.", [
      { value: Number(raft.isLeader) },
    ]);
    add("shoal_raft_has_leader", "gauge", "Whether this manager knows of a leader.", [
      { value: Number(raft.leaderId !== undefined) },
    ]);
    add("shoal_raft_commit_index", "gauge", "Last entry known to be committed.", [
      { value: raft.commitIndex },
    ]);
    add("shoal_raft_applied_index", "gauge", "Last entry applied to the state.", [
      { value: raft.appliedIndex },
    ]);
    add("shoal_raft_voters", "gauge", "Managers with a vote.", [{ value: voters.length }]);
    const labelsOf = (member: { nodeId: string; addr: string }) => ({
      member: member.nodeId,
      addr: member.addr,
    });
    add(
      "shoal_raft_member_reachable",
      "gauge",
      "Leader only: whether the member answered within an election timeout.",
      raft.members.flatMap((member) =>
        member.isReachable === undefined
          ? []
          : [{ labels: labelsOf(member), value: Number(member.isReachable) }],
      ),
    );
    add(
      "shoal_raft_member_lag_entries",
      "gauge",
      "Leader only: committed entries that the member has not acknowledged.",
      raft.members.flatMap((member) =>
        member.matchIndex === undefined
          ? []
          : [
              {
                labels: labelsOf(member),
                value: Math.max(0, raft.commitIndex - member.matchIndex),
              },
            ],
      ),
    );
  }
  add(
    "shoal_mesh_repairs_total",
    "counter",
    "Kernel objects that were found changed and mended, by kind.",
    Object.entries(metrics.meshRepairs ?? {}).map(([kind, value]) => ({ labels: { kind }, value })),
  );
  add(
    "shoal_service_connections_total",
    "counter",
    "New connections that this node has balanced, by service address and published port.",
    (metrics.connections ?? []).map(({ serviceName, family, face, connections }) => ({
      labels: { service: serviceName, family, face },
      value: connections,
    })),
  );
  return `${parts.join("\n")}\n`;
}

function renderLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) =>
      `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
  );
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
