import { describe, expect, test } from "bun:test";
import {
  checkConntrack,
  checkDns,
  checkEncryption,
  checkEndpoints,
  checkFirewall,
  checkListeners,
  checkManagers,
  checkMesh,
  checkMtu,
  checkNode,
  checkPorts,
  checkSettings,
  checkTunnels,
} from "../../../agent/doctor/check-node.ts";
import type { NodeFacts, PeerFact, TcpOutcome } from "../../../agent/doctor/facts.ts";

const CONNECTED: TcpOutcome = { type: "connected", ms: 0.4 };
const REFUSED: TcpOutcome = { type: "refused", ms: 0.3 };
const SILENT: TcpOutcome = { type: "silent", ms: 1_000 };

const peer = (index: number, set: Partial<PeerFact> = {}): PeerFact => ({
  nodeId: `node${index}`,
  hostname: `h${index}`,
  dataPathAddr: `192.168.77.${index}`,
  meshAddress: `10.255.0.${index}`,
  tcp: REFUSED,
  ping: "answered",
  ...set,
});
const endpoint = (name: string, tcp: TcpOutcome, hostname = "h2") => ({
  name,
  taskId: name,
  service: name.split(".")[0] ?? "",
  hostname,
  isLocal: hostname === "h1",
  address: "10.0.1.5",
  port: 80,
  tcp,
});
const answered = (code: "NOERROR" | "NXDOMAIN", isAuthority = true) =>
  ({ type: "answered", code, isAuthority, ms: 1 }) as const;
const ACCEPT = "-m mark --mark 0x10000000/0x10000000 -j ACCEPT";

function makeFacts(set: Partial<NodeFacts> = {}): NodeFacts {
  return {
    nodeId: "node1",
    hostname: "h1",
    self: peer(1),
    dataPathPort: 4_789,
    mesh: { type: "status", backend: "nftables", repairs: {} },
    devices: {
      underlay: { name: "eth0", mtu: 1_500, prefixLength: 24 },
      mesh: { mtu: 1_450, isUp: true },
    },
    peers: [peer(2), peer(3)],
    managers: [{ nodeId: "node2", hostname: "h2", addr: "192.168.77.2:2377", tcp: CONNECTED }],
    endpoints: [endpoint("web.1.a", CONNECTED)],
    ports: [{ service: "web", address: "192.168.77.1", publishedPort: 8_080, tcp: CONNECTED }],
    dns: [
      {
        network: "shop",
        gateway: "10.0.1.1",
        unknown: answered("NXDOMAIN"),
        own: answered("NXDOMAIN"),
      },
    ],
    leftOut: { peers: 0, endpoints: 0, ports: 0, networks: 0 },
    conntrack: { count: 10, max: 100 },
    settings: {
      "net/ipv4/ip_forward": 1,
      "net/bridge/bridge-nf-call-iptables": 1,
      "net/ipv4/conf/shmesh/rp_filter": 2,
      "net/ipv4/conf/shmesh/forwarding": 1,
    },
    firewall: { forward: ["-j DOCKER-USER"], user: [ACCEPT, "-j RETURN"] },
    listeners: [],
    ...set,
  };
}
const severities = (findings: { severity: string }[]) => findings.map(({ severity }) => severity);

describe("a node's checks", () => {
  test("all is well: one line for each check, every target counted", () => {
    const findings = checkNode(makeFacts());
    expect(new Set(severities(findings))).toEqual(new Set(["ok"]));
    expect(findings.map(({ check, count }) => `${check} ${count}`)).toEqual([
      "mesh 1",
      "tunnel 2",
      "mtu 2",
      "managers 1",
      "endpoints 1",
      "ports 1",
      "dns 1",
      "conntrack 1",
      "settings 4",
      "firewall 1",
    ]);
  });

  test("every finding that is not ok says what to do", () => {
    const bad = checkNode(
      makeFacts({
        mesh: { type: "unknown", message: "no" },
        peers: [peer(2, { tcp: SILENT, smallPing: "silent" }), peer(3, { ping: "too-big" })],
        managers: [{ nodeId: "n", hostname: "h2", addr: "192.168.77.2:2377", tcp: SILENT }],
        endpoints: [endpoint("web.1.a", SILENT)],
        ports: [{ service: "web", address: "1.2.3.4", publishedPort: 80, tcp: REFUSED }],
        conntrack: { count: 99, max: 100 },
        settings: { "net/ipv4/ip_forward": 0 },
        firewall: { forward: [], user: [] },
        listeners: [{ port: 80, service: "web", process: "nginx (pid 4)" }],
      }),
    ).filter(({ severity }) => severity !== "ok");
    expect(bad.length).toBeGreaterThanOrEqual(10);
    for (const { fix } of bad) expect(fix?.length).toBeGreaterThan(10);
  });
});

describe("mesh", () => {
  test("what was left out, and what was mended", () => {
    const status = { type: "status", backend: "iptables", repairs: { rules: 2, link: 0 } } as const;
    const [conflict] = checkMesh(
      makeFacts({ mesh: { ...status, lastError: "Left out: port 80 twice" } }),
    );
    expect(conflict).toMatchObject({
      severity: "error",
      seen: "iptables: Left out: port 80 twice",
      fix: expect.stringContaining("remove one of the two"),
    });
    const [mended] = checkMesh(makeFacts({ mesh: status }));
    expect(mended).toMatchObject({
      severity: "ok",
      seen: "iptables, mended since the start: rules 2",
    });
    const [, lack] = checkMesh(makeFacts({ mesh: { ...status, notes: ["iptables: no hash"] } }));
    expect(lack).toMatchObject({ severity: "warning", seen: "iptables: no hash" });
  });

  test("no device, no data path address, no table", () => {
    const noDevice = checkMesh(makeFacts({ devices: {} }));
    expect(noDevice.map(({ seen }) => seen)).toEqual([
      "the device shmesh is not there",
      "no network device of this host has the data path address 192.168.77.1",
    ]);
    const { self: _, ...rest } = makeFacts();
    expect(severities(checkMesh(rest))).toEqual(["warning"]);
  });
});

describe("encryption", () => {
  test("is not looked at without an encrypted network", () => {
    expect(checkEncryption(makeFacts())).toEqual([]);
  });

  test("a kernel that cannot is told with the module, and is a warning", () => {
    const [found] = checkEncryption(
      makeFacts({ encryption: { lack: "kernel lacks ESP: load module esp4" } }),
    );
    expect(found).toMatchObject({ severity: "warning", about: "this node" });
    expect(found?.seen).toEndWith("kernel lacks ESP: load module esp4");
    expect(found?.fix).toContain("modprobe esp4");
  });

  test("silence of the encrypted way alone names the protocol to open", () => {
    const encryptedAddress = "169.254.16.2";
    const findings = checkEncryption(
      makeFacts({
        encryption: {},
        peers: [
          peer(2, { encryptedAddress, encryptedTcp: SILENT }),
          peer(3, { encryptedAddress, encryptedTcp: REFUSED }),
          // The tunnel's own check tells of this one.
          peer(4, { encryptedAddress, encryptedTcp: SILENT, tcp: SILENT }),
          peer(5),
        ],
      }),
    );
    expect(findings).toMatchObject([
      {
        severity: "error",
        about: "h2",
        fix: expect.stringContaining(
          "open IP protocol 50 (ESP) between 192.168.77.1 and 192.168.77.2, in both directions",
        ),
      },
      { severity: "ok", about: "h3", count: 1 },
    ]);
  });
});

describe("tunnels", () => {
  test("silence names both addresses, the port and what the host itself says", () => {
    const [bad, good] = checkTunnels(
      makeFacts({
        dataPathPort: 4_800,
        peers: [peer(2, { tcp: SILENT, smallPing: "silent", underlayPing: "answered" }), peer(3)],
      }),
    );
    expect(bad).toMatchObject({ severity: "error", about: "h2" });
    expect(bad?.seen).toContain("the host itself answers at 192.168.77.2, so it is a firewall");
    expect(bad?.fix).toContain(
      "open UDP 4800 between 192.168.77.1 and 192.168.77.2, in both directions",
    );
    expect(good).toMatchObject({ severity: "ok", about: "h3", count: 1 });
  });

  test("a peer that answers ping alone has a firewall of its own: a warning", () => {
    const [found] = checkTunnels(
      makeFacts({ peers: [peer(2, { tcp: SILENT, smallPing: "answered" })] }),
    );
    expect(found).toMatchObject({
      severity: "warning",
      seen: expect.stringContaining("answers ping"),
    });
  });

  test("no route is told as it is, and what was not looked at is counted", () => {
    const failed: TcpOutcome = { type: "failed", message: "EHOSTUNREACH" };
    const [bad, good] = checkTunnels(
      makeFacts({
        peers: [peer(2, { tcp: failed }), peer(3)],
        leftOut: { peers: 7, endpoints: 0, ports: 0, networks: 0 },
      }),
    );
    expect(bad?.seen).toBe("10.255.0.2 cannot be tried: EHOSTUNREACH");
    expect(good?.seen).toEndWith("; 7 are left for the next runs");
  });
});

describe("mtu", () => {
  test("large packets that are lost where small ones come through", () => {
    const [bad, good] = checkMtu(
      makeFacts({ peers: [peer(2, { ping: "silent", smallPing: "answered" }), peer(3)] }),
    );
    expect(bad).toMatchObject({
      severity: "error",
      seen: expect.stringContaining("packets of 1450 bytes do not come through"),
      fix: expect.stringContaining("an MTU of 1500"),
    });
    expect(good).toMatchObject({ severity: "ok", count: 1 });
  });

  test("without ping it is said not to be checked, and no check is counted", () => {
    for (const set of [{ ping: "no-tool" }, { ping: "silent", smallPing: "silent" }] as const) {
      const [found, ...more] = checkMtu(makeFacts({ peers: [peer(2, set)] }));
      expect(found).toMatchObject({ severity: "ok", count: 0 });
      expect(found?.seen).toStartWith("not checked: ");
      expect(more).toEqual([]);
    }
  });

  test("a mesh device that is smaller than it could be", () => {
    const devices = {
      underlay: { name: "eth0", mtu: 9_000, prefixLength: 24 },
      mesh: { mtu: 1_450, isUp: true },
    };
    const [found] = checkMtu(makeFacts({ devices, peers: [] }));
    expect(found?.seen).toContain("8950 would fit");
  });
});

describe("managers", () => {
  test("one that cannot be reached is named with its port", () => {
    const manager = { nodeId: "n", hostname: "h2", addr: "192.168.77.2:2378" };
    const [bad, none] = checkManagers(makeFacts({ managers: [{ ...manager, tcp: SILENT }] }));
    expect(bad).toMatchObject({
      seen: "manager h2 at 192.168.77.2:2378: no answer in 1000 ms",
      fix: expect.stringContaining("open TCP 2378"),
    });
    expect(none).toBeUndefined();
  });
});

describe("endpoints", () => {
  test("failures are grouped by service, node and kind", () => {
    const findings = checkEndpoints(
      makeFacts({
        endpoints: [
          endpoint("web.1.a", SILENT),
          endpoint("web.2.b", SILENT),
          endpoint("api.1.c", REFUSED, "h1"),
          endpoint("web.3.d", CONNECTED, "h3"),
        ],
      }),
    );
    expect(findings.map(({ about, severity, count }) => [about, severity, count])).toEqual([
      ["web on h2", "error", 2],
      ["api on h1 (this node)", "error", 1],
      ["web", "ok", 1],
    ]);
    expect(findings[0]?.seen).toContain("web.1.a (10.0.1.5), web.2.b (10.0.1.5)");
    expect(findings[1]?.fix).toContain("listens on 0.0.0.0:80");
  });
});

describe("ports", () => {
  test("a published port that does not answer", () => {
    const [bad] = checkPorts(
      makeFacts({
        ports: [{ service: "web", address: "192.168.77.1", publishedPort: 8_080, tcp: REFUSED }],
      }),
    );
    expect(bad?.seen).toBe(
      "192.168.77.1:8080 on this node: the connection is refused, though web has ready tasks",
    );
    expect(bad?.fix).toContain("rules are at fault");
  });

  test("behind a task that does not answer it is that task's fault", () => {
    const [bad] = checkPorts(
      makeFacts({
        endpoints: [endpoint("web.1.a", SILENT)],
        ports: [{ service: "web", address: "192.168.77.1", publishedPort: 8_080, tcp: SILENT }],
      }),
    );
    expect(bad?.fix).toBe("mend the endpoints of web first (above)");
  });
});

describe("dns", () => {
  const at = (set: Partial<NodeFacts["dns"][number]>) =>
    checkDns(
      makeFacts({
        dns: [
          {
            network: "shop",
            gateway: "10.0.1.1",
            unknown: answered("NXDOMAIN"),
            own: answered("NXDOMAIN"),
            task: { container: "web.1.a", name: "web" },
            ...set,
          },
        ],
      }),
    )[0];

  test.each([
    [{ unknown: { type: "silent" } as const }, "does not answer"],
    [{ unknown: answered("NXDOMAIN", false) }, "another DNS server answers"],
    [{ unknown: answered("NOERROR") }, "another DNS server answers"],
    [{ own: answered("NXDOMAIN", false) }, "does not know network shop yet"],
    [{ inside: { type: "silent" } as const }, "this host does (asked in web.1.a)"],
    [{ inside: answered("NXDOMAIN") }, "service web is not found on network shop (NXDOMAIN"],
  ])("%j", (set, words) => {
    expect(at(set)).toMatchObject({ severity: "error", seen: expect.stringContaining(words) });
  });
});

describe("conntrack", () => {
  test.each([
    [79, "ok"],
    [80, "warning"],
    [94, "warning"],
    [95, "error"],
  ])("%d of 100 is %s", (count, severity) => {
    expect(severities(checkConntrack(makeFacts({ conntrack: { count, max: 100 } })))).toEqual([
      severity,
    ]);
  });

  test("a kernel that does not tell is not judged", () => {
    const { conntrack: _, ...facts } = makeFacts();
    expect(checkConntrack(facts)).toMatchObject([{ severity: "ok", count: 0 }]);
  });
});

describe("settings", () => {
  test("a wrong one is named in sysctl's words; one that the kernel lacks is not judged", () => {
    const findings = checkSettings(
      makeFacts({ settings: { "net/ipv4/ip_forward": 0, "net/ipv4/conf/shmesh/rp_filter": 2 } }),
    );
    expect(findings.map(({ about, severity, count }) => [about, severity, count])).toEqual([
      ["net.ipv4.ip_forward", "error", 1],
      ["kernel", "ok", 1],
    ]);
  });
});

describe("firewall", () => {
  const at = (forward: string[], user: string[]) =>
    checkFirewall(makeFacts({ firewall: { forward, user } }));

  test("another rule before the jump, no jump, no accept", () => {
    expect(at(["-j ufw-before", "-j DOCKER-USER"], [ACCEPT])).toMatchObject([
      { severity: "warning", seen: expect.stringContaining("first: -j ufw-before") },
    ]);
    expect(at(["-j OTHER"], [ACCEPT])).toMatchObject([
      { severity: "error", seen: expect.stringContaining("no jump to DOCKER-USER") },
    ]);
    expect(at(["-j DOCKER-USER"], ["-j RETURN"])).toMatchObject([
      { severity: "error", seen: expect.stringContaining("lacks the accept") },
    ]);
  });

  test("a rule of the user that drops everything; one with a condition is the user's business", () => {
    expect(at(["-j DOCKER-USER"], ["-j DROP", ACCEPT])).toMatchObject([
      { severity: "error", fix: expect.stringContaining("iptables -D DOCKER-USER -j DROP") },
    ]);
    expect(severities(at(["-j DOCKER-USER"], ["-i eth1 -j DROP", ACCEPT]))).toEqual(["ok"]);
  });

  test("where iptables cannot be read it is not judged", () => {
    const { firewall: _, ...facts } = makeFacts();
    expect(checkFirewall(facts)).toMatchObject([{ severity: "ok", count: 0 }]);
  });
});

describe("listeners", () => {
  test("the program, its port and the service", () => {
    const [found] = checkListeners(
      makeFacts({ listeners: [{ port: 8_080, service: "web", process: "nginx (pid 4)" }] }),
    );
    expect(found).toMatchObject({
      severity: "error",
      seen: expect.stringMatching(/^nginx \(pid 4\) on this host listens on port 8080, .* web /),
    });
  });
});
