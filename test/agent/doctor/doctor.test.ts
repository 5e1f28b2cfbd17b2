import { describe, expect, test } from "bun:test";
import {
  createNodeDoctor,
  examineCluster,
  examineHere,
  type NodeDoctor,
} from "../../../agent/doctor/doctor.ts";
import { renderReport } from "../../../agent/doctor/render.ts";
import {
  error,
  FINDINGS_MAX,
  inOrder,
  ok,
  parseNodeReport,
  warning,
} from "../../../agent/doctor/report.ts";
import { ClusterError } from "../../../core/errors.ts";
import { emptyTable } from "../../../net/mesh/table.ts";
import type { NetFinding, NetNodeReport } from "../../../net/rpc/methods.ts";
import type { RpcConnection } from "../../../net/rpc/peer.ts";
import { createFakePorts, makeNode, NODE_ID, START_MS } from "../api/fake-ports.ts";

const OTHER_ID = "node2aaaaaaaaaaaaaaaaaaaa";
const reportOf = (findings: NetFinding[]): NetNodeReport => ({
  findings,
  receivedAtMs: START_MS,
  answeredAtMs: START_MS,
});
const doctorOf = (findings: NetFinding[]): NodeDoctor => ({
  examine: async () => reportOf(findings),
});
/** A session that answers so. */
const sessionOf = (answer: () => Promise<unknown>): RpcConnection => ({
  peer: { address: "" },
  // The answer of another build may be anything.
  request: answer as RpcConnection["request"],
  note: () => true,
  onNote: () => {},
  onClose: () => {},
  close: () => {},
});

function makeCluster(session?: RpcConnection) {
  const ports = createFakePorts("/nowhere");
  for (const { id } of ports.rows.nodes()) if (id !== NODE_ID) ports.rows.delete("node", id);
  ports.put("node", makeNode(OTHER_ID, "beta"));
  return {
    read: ports.read,
    sessionOf: (nodeId: string) => (nodeId === OTHER_ID ? session : undefined),
    selfId: NODE_ID,
    doctor: doctorOf([ok("mesh", "data path", "fine")]),
    nowMs: () => START_MS,
  };
}
const named = (findings: NetFinding[] | undefined) =>
  findings?.map(({ check, severity }) => `${check} ${severity}`);

describe("the leader", () => {
  test("asks itself and every session; groups with errors come first", async () => {
    const session = sessionOf(async () => ({
      report: reportOf([
        ok("mesh", "data path", "fine"),
        error("dns", "shop", "silent", "open it"),
      ]),
    }));
    const report = await examineCluster(makeCluster(session));
    expect(report.nodes.map(({ hostname }) => hostname)).toEqual(["beta", "alpha"]);
    expect(named(report.nodes[0]?.findings)).toEqual(["dns error", "mesh ok", "clock ok"]);
    expect(named(report.nodes[1]?.findings)).toEqual(["mesh ok"]);
    expect(report).toMatchObject({ scope: "cluster", errors: 1 });
  });

  test.each([
    ["no session", undefined, "it has no session with the leader"],
    [
      "silence",
      async () => Promise.reject(new ClusterError("deadline", "x")),
      "nothing came in 5000 ms",
    ],
    [
      "an older build",
      async () => Promise.reject(new ClusterError("not-implemented", '"net-check" is no method')),
      '"net-check" is no method',
    ],
    ["rubbish", async () => ({ report: { findings: 7 } }), "its answer cannot be read"],
  ])("names a node with %s", async (_what, answer, words) => {
    const session = answer && sessionOf(answer);
    const report = await examineCluster(makeCluster(session), "beta");
    expect(report.nodes).toHaveLength(1);
    expect(report.nodes[0]?.findings).toMatchObject([
      { check: "node", severity: "error", seen: expect.stringContaining(words) },
    ]);
  });

  test("one node only, by name; an unknown one is refused", async () => {
    const session = sessionOf(async () => ({ report: reportOf([]) }));
    const report = await examineCluster(makeCluster(session), "alpha");
    expect(report.nodes.map(({ hostname }) => hostname)).toEqual(["alpha"]);
    expect(report.cluster).toEqual([]);
    const failure = await examineCluster(makeCluster(session), "gamma").catch(String);
    expect(failure).toContain("node gamma not found");
  });
});

describe("a node", () => {
  test("looks once for all who ask at the same time", async () => {
    let looks = 0;
    const doctor = createNodeDoctor({
      probes: {
        tcp: async () => ({ type: "silent", ms: 1 }),
        ping: async () => "no-tool",
        dns: async () => ({ type: "silent" }),
        dnsOf: async () => undefined,
        interfaces: async () => [],
        setting: async () => undefined,
        firewall: async () => undefined,
        listeners: async () => [],
        processes: async () => new Map(),
      },
      loadTable: async () => {
        looks += 1;
        return emptyTable();
      },
      meshStatus: async () => ({ type: "unknown", message: "not there" }),
      nowMs: () => START_MS,
    });
    const [first, second] = await Promise.all([doctor.examine(), doctor.examine()]);
    expect(looks).toBe(1);
    expect(first).toEqual(second);
    expect(named(first.findings)?.[0]).toBe("mesh error");
    expect(parseNodeReport(first)).toEqual(first);
    await doctor.examine();
    expect(looks).toBe(2);
  });

  test("alone says why it is alone", async () => {
    const report = await examineHere({
      doctor: doctorOf([ok("mesh", "data path", "fine")]),
      nodeId: NODE_ID,
      hostname: "h3",
      note: "this node only: no manager",
    });
    expect(report).toMatchObject({ scope: "node", note: "this node only: no manager", checks: 1 });
  });
});

describe("reports", () => {
  test("findings are bounded, worst first, and none is lost from the sums", () => {
    const many = Array.from({ length: FINDINGS_MAX + 10 }, (_, i) =>
      i % 2 === 0 ? ok("a", String(i), "fine") : warning("b", String(i), "bad", "mend it"),
    );
    const bounded = inOrder(many);
    expect(bounded).toHaveLength(FINDINGS_MAX);
    expect(bounded[0]?.severity).toBe("warning");
    expect(bounded.reduce((sum, { count }) => sum + count, 0)).toBe(many.length);
  });

  test("text from a node cannot steer the terminal", () => {
    const bad = { ...ok("mesh", "x", "\u001b[2Jgone\nnext"), seen: "\u001b[2Jgone\nnext" };
    const parsed = parseNodeReport(reportOf([bad]));
    expect(parsed.findings[0]?.seen).toBe(" [2Jgone next");
    expect(() => parseNodeReport(undefined)).toThrow("cannot be read");
  });

  test("as text: a group for each node, what to do below what is wrong, the sums last", () => {
    const text = renderReport({
      scope: "cluster",
      cluster: [ok("services", "2 services", "have ready tasks", 2)],
      nodes: [
        {
          nodeId: OTHER_ID,
          hostname: "h2",
          findings: [
            error("tunnel", "h1", "nothing comes back through the tunnel", "open UDP 4789"),
            ok("mesh", "data path", "nftables"),
          ],
        },
      ],
      checks: 4,
      warnings: 0,
      errors: 1,
    });
    expect(text).toBe(`cluster
  ok     services  2 services: have ready tasks

h2
  ERROR  tunnel    h1: nothing comes back through the tunnel
                   → open UDP 4789
  ok     mesh      data path: nftables

4 checks, 0 warnings, 1 error`);
  });
});
