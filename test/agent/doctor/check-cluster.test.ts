import { beforeEach, describe, expect, test } from "bun:test";
import {
  checkClock,
  checkDataPath,
  checkPools,
  checkServices,
  checkUnderlays,
  unanswered,
} from "../../../agent/doctor/check-cluster.ts";
import type { NetNodeReport } from "../../../net/rpc/methods.ts";
import {
  createFakePorts,
  type FakePorts,
  makeNode,
  makeTask,
  START_MS,
} from "../api/fake-ports.ts";

let ports: FakePorts;
beforeEach(() => {
  ports = createFakePorts("/nowhere");
});

const META = { version: 1, createdAtMs: START_MS, updatedAtMs: START_MS };
const networkOf = (subnet: string, gateway: string) => ({
  ...META,
  id: "small1aaaaaaaaaaaaaaaaaaa",
  spec: {
    Name: "small",
    Labels: {},
    Driver: "overlay",
    Options: {},
    Internal: false,
    Attachable: false,
    Ingress: false,
    EnableIPv6: false,
    IPAM: { Driver: "default", Config: [] },
  },
  subnet,
  gateway,
});
const serviceOf = (name: string, replicas: number, publishedPort?: number) => ({
  ...META,
  id: `${name}1aaaaaaaaaaaaaaaaaaaa`,
  specVersion: 1,
  spec: {
    Name: name,
    TaskTemplate: { ContainerSpec: { Image: "lab" } },
    Mode: { Replicated: { Replicas: replicas } },
  },
  endpoint: {
    specVersion: 1,
    mode: "vip" as const,
    virtualIps: [],
    ports:
      publishedPort === undefined
        ? []
        : [
            {
              Protocol: "tcp" as const,
              TargetPort: 80,
              PublishedPort: publishedPort,
              PublishMode: "ingress" as const,
            },
          ],
  },
});
/** Tasks that hold the first addresses of the small network. */
const fill = (count: number) => {
  const service = serviceOf("web", count);
  ports.put("service", service);
  for (let i = 0; i < count; i++) {
    const networks = [
      { networkId: "small1aaaaaaaaaaaaaaaaaaa", address: `10.9.0.${2 + i}`, aliases: [] },
    ];
    ports.put("task", makeTask(service, `task${i}aaaaaaaaaaaaaaaaaaaa`, { networks }));
  }
};
const wrong = (findings: { severity: string; about: string }[]) =>
  findings.flatMap(({ severity, about }) => (severity === "ok" ? [] : [`${severity} ${about}`]));

describe("addresses", () => {
  test.each([
    [9, []],
    [11, ["warning small"]],
    [13, ["error small"]],
  ] as const)("%d of 13 in use", (count, expected) => {
    ports.put("network", networkOf("10.9.0.0/28", "10.9.0.1"));
    fill(count);
    expect(wrong(checkPools(ports.rows))).toEqual([...expected]);
  });

  test("a full network is explained in a sentence with what to do", () => {
    ports.put("network", networkOf("10.9.0.0/29", "10.9.0.1"));
    fill(5);
    const found = checkPools(ports.rows).find(({ severity }) => severity === "error");
    expect(found?.seen).toStartWith('could not find an available IP on network "small": all ');
    expect(found?.fix).toContain("larger subnet");
  });
});

describe("services", () => {
  const check = (afterMs: number) => checkServices(ports.rows, START_MS + afterMs);

  test("without a ready task: a warning at first, then an error that names the closed ports", () => {
    ports.put("service", serviceOf("lost", 2, 8_080));
    const find = (afterMs: number) => check(afterMs).find(({ about }) => about === "lost");
    expect(find(1_000)?.severity).toBe("warning");
    expect(find(120_000)).toMatchObject({
      severity: "error",
      seen: "lost has no ready task, and connections to 8080/tcp are refused",
      fix: "shoal why lost",
    });
  });

  test("scaled to 0: of interest only when it publishes a port", () => {
    ports.put("service", serviceOf("quiet", 0));
    ports.put("service", serviceOf("closed", 0, 8_081));
    const found = check(120_000).filter(({ severity }) => severity !== "ok");
    expect(found.filter(({ about }) => about === "quiet")).toEqual([]);
    expect(found.find(({ about }) => about === "closed")).toMatchObject({
      severity: "warning",
      seen: "closed publishes 8081/tcp and is scaled to 0: connections are refused",
    });
  });

  test("with a running task it is counted as well", () => {
    const before = check(0).find(({ severity }) => severity === "ok")?.count ?? 0;
    fill(1);
    expect(check(0).find(({ severity }) => severity === "ok")?.count).toBe(before + 1);
  });
});

describe("clocks", () => {
  const at = (aheadMs: number, takenMs = 100) =>
    checkClock({
      hostname: "h2",
      sentAtMs: 1_000,
      gotAtMs: 1_000 + takenMs,
      answer: { receivedAtMs: 1_000 + aheadMs, answeredAtMs: 1_000 + takenMs + aheadMs },
    });

  test.each([
    [0, "ok"],
    [500, "ok"],
    [-501, "warning"],
    [5_000, "warning"],
    [5_001, "error"],
    [-60_000, "error"],
  ])("%d ms is %s", (aheadMs, severity) => {
    expect(at(aheadMs).severity).toBe(severity as "ok");
  });

  test("how long the node took does not count", () => {
    expect(at(0, 4_900)).toMatchObject({ severity: "ok", seen: "0 ms off the leader's" });
    expect(at(-60_000, 4_900).seen).toBe("its clock is 60 s behind the leader's");
    expect(at(700).seen).toBe("its clock is 700 ms ahead of the leader's");
  });
});

describe("between nodes", () => {
  const report = (underlayMtu: number): NetNodeReport => ({
    findings: [],
    receivedAtMs: 0,
    answeredAtMs: 0,
    underlayMtu,
  });

  test("different MTUs below the mesh are named with their nodes", () => {
    const nodes = [
      { hostname: "h1", report: report(1_500) },
      { hostname: "h2", report: report(1_400) },
      { hostname: "h3", report: report(1_500) },
    ];
    const [found] = checkUnderlays(nodes);
    expect(found?.severity).toBe("warning");
    expect(found?.seen).toContain("1500 on h1, h3; 1400 on h2");
    expect(found?.fix).toContain("mtu 1400");
    expect(checkUnderlays(nodes.slice(0, 1))).toEqual([]);
    expect(checkUnderlays([{ hostname: "h4" }, ...nodes.slice(1)])).toHaveLength(1);
  });

  test("a data path in another network than the connection", () => {
    const node = makeNode("node2aaaaaaaaaaaaaaaaaaaa", "h2", {
      status: { state: "ready", message: "", addr: "203.0.113.4" },
    });
    expect(checkDataPath(node, "h2", 24)).toMatchObject([
      { severity: "warning", fix: expect.stringContaining("--data-path-addr 203.0.113.4") },
    ]);
    const same = makeNode("node2aaaaaaaaaaaaaaaaaaaa", "h2");
    expect(checkDataPath(same, "h2", 24)).toMatchObject([{ severity: "ok" }]);
    // The leader to itself, and a node that could not say.
    expect(checkDataPath(node, "h2", undefined)).toEqual([]);
    const local = { ...node, status: { ...node.status, addr: "127.0.0.1" } };
    expect(checkDataPath(local, "h2", 24)).toEqual([]);
  });

  test("a node that does not answer", () => {
    const node = makeNode("node2aaaaaaaaaaaaaaaaaaaa", "h2");
    expect(unanswered(node, "h2", "nothing came in 5000 ms")).toMatchObject({
      severity: "error",
      seen: "h2 does not answer: nothing came in 5000 ms (docker node ls: ready)",
      fix: expect.stringContaining("last seen at 192.168.77.11"),
    });
  });
});
