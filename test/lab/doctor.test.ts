/**
 * `shoal net doctor` on three hosts: a healthy cluster has no errors; then one thing at a time is broken,
 * and the report says which, where, and what to do.
 */
import { beforeAll, expect, test } from "bun:test";
import type { NetFinding, NetReport } from "../../net/rpc/methods.ts";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;

const doctor = (host: number, ...flags: string[]) =>
  lab.host(host).tryRun(["shoal", "net", "doctor", ...flags]);
/** What is wrong, as `node check about`, with the findings themselves. */
async function examine(host = 1, ...flags: string[]) {
  const { stdout, stderr, code } = await doctor(host, "--json", ...flags);
  if (stdout === "") throw new Error(stderr);
  // Printed by the binary under test.
  const report = JSON.parse(stdout) as NetReport;
  const wrong = new Map<string, NetFinding>();
  const groups = [{ hostname: "cluster", findings: report.cluster }, ...report.nodes];
  for (const { hostname, findings } of groups) {
    for (const finding of findings) {
      if (finding.severity === "ok") continue;
      wrong.set(`${hostname} ${finding.check} ${finding.about}`, finding);
    }
  }
  return { report, wrong, code };
}
const untilHealthy = () =>
  waitFor(
    "a report without errors",
    async () => {
      const { report, wrong } = await examine();
      const isWhole = report.nodes.every(({ findings }) =>
        findings.some(({ check, count }) => check === "endpoints" && count === 3),
      );
      if (report.errors === 0 && report.warnings === 0 && isWhole) return report;
      throw new Error(JSON.stringify([...wrong.values()]));
    },
    { timeoutMs: 30_000 },
  );

describeLab("shoal net doctor", { agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await lab.host(1).docker("swarm", "init");
    const to = `${lab.host(1).address}:2377`;
    for (const [host, role] of [
      [2, "manager"],
      [3, "worker"],
    ] as const) {
      const token = await lab.host(1).docker("swarm", "join-token", "-q", role);
      await lab.host(host).docker("swarm", "join", "--token", token, to);
    }
    await lab.host(1).docker("network", "create", "-d", "overlay", "shop");
    const service = ["service", "create", "--detach", "--no-resolve-image", "--mode", "global"];
    const on = ["--name", "web", "--network", "shop", "-p", "8080:80", "lab:latest"];
    await lab.host(1).docker(...service, ...on);
  }, 60_000);

  test("a healthy cluster has no errors, by each manager; a worker speaks for itself", async () => {
    const report = await untilHealthy();
    expect(report.scope).toBe("cluster");
    for (const { hostname, findings } of report.nodes) {
      const counts = new Map(findings.map(({ check, count }) => [check, count]));
      const wanted = { tunnel: 2, managers: hostname === "h3" ? 2 : 1, endpoints: 3, ports: 1 };
      for (const [check, count] of Object.entries({ ...wanted, dns: 1, mesh: 1, conntrack: 1 })) {
        expect([hostname, check, counts.get(check)]).toEqual([hostname, check, count]);
      }
    }
    const { stdout, code } = await doctor(2);
    expect([stdout, code]).toEqual([
      expect.stringMatching(/\n\d\d checks, 0 warnings, 0 errors\n$/),
      0,
    ]);
    expect(stdout).toContain("on 1 of 1 asked in a container too");
    const alone = await doctor(3);
    expect(alone.stdout).toStartWith("Note: this node only: this node is no manager");
    expect(alone.code).toBe(0);
    const one = await examine(2, "--node", "h3");
    expect(one.report.nodes.map(({ hostname }) => hostname)).toEqual(["h3"]);
    const unknown = await doctor(1, "--node", "h9");
    expect([unknown.code, unknown.stderr]).toEqual([1, "node h9 not found\n"]);
  }, 40_000);

  test("what is broken on hosts is named, with what to do", async () => {
    const drop = ["PREROUTING", "-p", "udp", "-j", "DROP", "--dport"];
    const tunnel = [...drop, "4789", "-s", lab.host(2).address];
    const dns = [...drop, "53"];
    // The host's own questions take another way: only a container notices.
    const inside = [...drop, "53", "-i", "sh+"];
    await lab.host(1).run(["iptables", "-t", "raw", "-I", ...tunnel]);
    await lab.host(2).run(["iptables", "-t", "raw", "-I", ...inside]);
    await lab.host(3).run(["iptables", "-t", "raw", "-I", ...dns]);
    const listener = Bun.spawn(
      lab.host(3).enter(["timeout", "60", "busybox", "nc", "-ll", "-p", "8080", "-e", "true"]),
    );
    const { wrong, code } = await waitFor("the listener to be seen", async () => {
      const seen = await examine(2);
      if (seen.wrong.has("h3 listeners 8080/tcp")) return seen;
      throw new Error([...seen.wrong.keys()].join(", "));
    });
    expect(code).toBe(1);
    // By turns the published port leads to the task that is behind the broken tunnel.
    const sure = [...wrong.keys()].filter((key) => !/^h[12] ports 8080/.test(key));
    expect(sure.toSorted()).toEqual([
      "h1 endpoints web on h2",
      "h1 tunnel h2",
      "h2 dns shop (10.0.1.1)",
      "h2 endpoints web on h1",
      "h2 tunnel h1",
      "h3 dns shop (10.0.1.1)",
      "h3 listeners 8080/tcp",
    ]);
    expect(wrong.get("h2 tunnel h1")).toMatchObject({
      severity: "error",
      seen: expect.stringContaining("nothing comes back through the tunnel"),
      fix: expect.stringContaining(
        "open UDP 4789 between 192.168.77.2 and 192.168.77.1, in both directions",
      ),
    });
    expect(wrong.get("h3 listeners 8080/tcp")?.seen).toMatch(
      /^busybox \(pid \d+\) on this host listens on port 8080, which service web publishes/,
    );
    expect(wrong.get("h2 dns shop (10.0.1.1)")).toMatchObject({
      seen: expect.stringContaining("containers on network shop get no answer"),
      fix: expect.stringContaining("a firewall of this host drops UDP 53"),
    });
    expect(wrong.get("h3 dns shop (10.0.1.1)")).toMatchObject({
      seen: expect.stringContaining("does not answer: containers on it find no names"),
      fix: expect.stringContaining("let UDP and TCP 53 in to 10.0.1.1"),
    });
    await lab.host(1).run(["iptables", "-t", "raw", "-D", ...tunnel]);
    await lab.host(2).run(["iptables", "-t", "raw", "-D", ...inside]);
    await lab.host(3).run(["iptables", "-t", "raw", "-D", ...dns]);
    listener.kill();
    await listener.exited;
    await untilHealthy();
  }, 60_000);

  // The program is not on every machine; without it the report says that this was not checked.
  test.skipIf(Bun.which("ping") === null)(
    "a network that carries smaller packets than the others is named",
    async () => {
      await lab.host(3).run(["ip", "link", "set", "eth0", "mtu", "1400"]);
      const { wrong } = await waitFor("the MTU to be seen", async () => {
        const seen = await examine();
        if (seen.wrong.has("h1 mtu h3") && seen.wrong.has("cluster mtu underlay")) return seen;
        throw new Error([...seen.wrong.keys()].join(", "));
      });
      await lab.host(3).run(["ip", "link", "set", "eth0", "mtu", "1500"]);
      expect(wrong.get("h1 mtu h3")?.seen).toContain("packets of 1450 bytes do not come through");
      expect(wrong.get("cluster mtu underlay")?.seen).toMatch(/1400 on h3/);
      expect(wrong.has("h1 mtu h2")).toBeFalse();
    },
    20_000,
  );

  test("a node that is cut off is named, and the others say that it is silent", async () => {
    await lab.host(3).cutOff();
    try {
      const { wrong } = await waitFor(
        "the node's session to end",
        async () => {
          const seen = await examine(2);
          if (seen.wrong.get("h3 node h3")?.seen.includes("docker node ls: down")) return seen;
          throw new Error([...seen.wrong.values()].map((one) => one.seen).join(", "));
        },
        { timeoutMs: 20_000 },
      );
      expect(wrong.get("h3 node h3")?.seen).toBe(
        "h3 does not answer: it has no session with the leader (docker node ls: down)",
      );
      expect(wrong.get("h1 tunnel h3")?.severity).toBe("error");
      expect(wrong.has("h1 tunnel h2")).toBeFalse();
    } finally {
      await lab.host(3).reconnect();
    }
  }, 40_000);

  test("without a leader a manager speaks for itself, and says so", async () => {
    await lab.host(1).killAgent();
    const said = await waitFor("the leader to be missed", async () => {
      const { stdout } = await doctor(2);
      if (stdout.startsWith("Note: this node only: there is no leader")) return stdout;
      throw new Error(stdout);
    });
    expect(said).toMatch(/ERROR {2}managers +.*h1/);
    const other = await doctor(2, "--node", "h3");
    expect([other.code, other.stderr]).toEqual([
      1,
      "Cannot ask node h3: there is no leader, who alone can ask the others\n",
    ]);
  }, 30_000);
});
