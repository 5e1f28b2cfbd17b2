import { describe, expect, test } from "bun:test";
import { type NodeMetrics, renderMetrics } from "../../agent/metrics.ts";

const worker: NodeMetrics = {
  version: "1.2.3",
  node: { state: "active", nodeId: "n1", clusterId: "c1", isManager: false, managers: [] },
  isSessionOpen: true,
  residentBytes: 1000,
  uptimeSeconds: 5,
};

describe("renderMetrics()", () => {
  test("gives a worker's metrics without those of consensus", () => {
    const text = renderMetrics(worker);
    expect(text).toContain('shoal_info{version="1.2.3",node="n1",cluster="c1"} 1\n');
    expect(text).toContain("shoal_session_open 1\n");
    expect(text).not.toContain("raft");
  });

  test("tells the certificate's end and what of its renewal failed", () => {
    const certificate = { notAfterMs: 1_900_000_000_500, failure: "why", failureCount: 3 };
    const text = renderMetrics({ ...worker, node: { ...worker.node, certificate } });
    expect(text).toContain("shoal_certificate_end_seconds 1900000000\n");
    expect(text).toContain("shoal_certificate_renewal_failures_total 3\n");
    expect(renderMetrics(worker)).not.toContain("certificate");
  });

  test("tells a leader's members apart by reachability and lag", () => {
    const text = renderMetrics({
      ...worker,
      raft: {
        term: 3,
        leaderId: "n1",
        isLeader: true,
        commitIndex: 100,
        appliedIndex: 99,
        members: [
          { nodeId: "n1", addr: "a:1", isLearner: false, matchIndex: 100, isReachable: true },
          { nodeId: "n2", addr: "b:1", isLearner: false, matchIndex: 60, isReachable: false },
        ],
      },
      meshRepairs: { sysctl: 2 },
    });
    expect(text).toContain('shoal_raft_member_reachable{member="n2",addr="b:1"} 0\n');
    expect(text).toContain('shoal_raft_member_lag_entries{member="n2",addr="b:1"} 40\n');
    expect(text).toContain('shoal_mesh_repairs_total{kind="sysctl"} 2\n');
  });

  test("counts connections by service and by the address or port that was asked", () => {
    const web = { serviceName: "web", family: "ipv4", connections: 7 };
    const text = renderMetrics({
      ...worker,
      connections: [
        { ...web, face: "10.0.1.2" },
        { ...web, face: "8080/tcp", connections: 3 },
      ],
    });
    expect(text).toContain(
      'shoal_service_connections_total{service="web",family="ipv4",face="10.0.1.2"} 7\n',
    );
    expect(text).toContain(
      'shoal_service_connections_total{service="web",family="ipv4",face="8080/tcp"} 3\n',
    );
  });

  test("escapes label values, and every line is a comment or a sample", () => {
    const text = renderMetrics({ ...worker, version: 'a"b\\c\nd' });
    expect(text).toContain('version="a\\"b\\\\c\\nd"');
    for (const line of text.trimEnd().split("\n")) {
      expect(line).toMatch(/^(# (HELP|TYPE) shoal_|shoal_[a-z_]+(\{.*\})? [0-9.]+$)/);
    }
  });
});
