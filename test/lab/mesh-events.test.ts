/**
 * What happens around the mesh while it carries connections: rows 17, 21, 26, 29 and 30 of the design's
 * matrix, with real engines. The tests build on each other, in order, in one lab.
 */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";
import { bunMounts } from "./traffic/bun-container.ts";
import type { HoldResult } from "./traffic/hold.ts";

const PORT = 8_080;
const LATE_PORT = 9_100;
/** Of half-closed connections: longer than a moment, shorter than a test. */
const LATE_S = 4;
const DAY_S = 86_400;
const HOSTS = [1, 2, 3] as const;
const traffic = join(import.meta.dir, "traffic");
let lab: Lab;

const docker = (line: string, ...more: string[]) => lab.host(1).docker(...line.split(" "), ...more);
/** The running containers of a service on a host. */
const containersOf = async (service: string, host: number) => {
  const label = `label=com.docker.swarm.service.name=${service}`;
  const text = await lab.host(host).engine("ps", "-q", "--no-trunc", "--filter", label);
  return text.split("\n").filter((id) => id !== "");
};
const containerOf = (service: string, host: number) =>
  waitFor(
    `a container of ${service} on h${host}`,
    async () => (await containersOf(service, host))[0],
  );
const addressOn = (
  id: string,
  host: number,
  network: string,
  field: "IPAddress" | "GlobalIPv6Address" = "IPAddress",
) =>
  lab
    .host(host)
    .engine("inspect", "-f", `{{(index .NetworkSettings.Networks "${network}").${field}}}`, id);
/** The command line that runs in the network namespace of a container. */
const inContainer = async (id: string, host: number, command: string[]) => {
  const pid = await lab.host(host).engine("inspect", "-f", "{{.State.Pid}}", id);
  return ["nsenter", `--net=/proc/${pid}/ns/net`, ...command];
};
const virtualIpOf = async (service: string) =>
  (await docker("service inspect -f", "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}", service))
    .split(" ")[0]
    ?.split("/")[0] ?? "";

/** Starts holding a connection; the function that is returned ends it and tells how it was. */
async function hold(command: string[]): Promise<() => Promise<HoldResult>> {
  const child = Bun.spawn(command, { stdin: "pipe", stdout: "pipe" });
  let output = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) output += new TextDecoder().decode(chunk);
  })();
  await waitFor("the first answer", () => output.startsWith("ready") || child.exitCode !== null);
  return async () => {
    await child.stdin.write("\n");
    await child.stdin.end();
    await reading;
    // Printed by hold.ts.
    return JSON.parse(output.replace("ready\n", "")) as HoldResult;
  };
}
const holdCommand = (host: string, port: number) => [
  process.execPath,
  join(traffic, "hold.ts"),
  host,
  String(port),
];

describeLab("events around the mesh", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker("swarm init");
    const token = await docker("swarm join-token -q worker");
    for (const host of lab.hosts.slice(1)) {
      await host.docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    }
    await docker("network create -d overlay front");
    await docker(
      "network create -d overlay --ipv6 --subnet 10.99.0.0/29 --subnet fd99::/64 narrow",
    );
    const create = "service create -d --no-resolve-image --network front";
    await docker(
      `${create} --name web --constraint node.hostname==h2 --publish ${PORT}:80 --env VERSION=1`,
      ...bunMounts(),
      ..."lab:latest /bin/bun /traffic/server.ts".split(" "),
    );
    // Answers after the other side has said that it sends no more.
    await docker(
      `${create} --name late --constraint node.hostname==h2 --publish ${LATE_PORT}:${LATE_PORT} lab:latest`,
      "nc",
      "-ll",
      "-p",
      String(LATE_PORT),
      "-e",
      "sh",
      "-c",
      `cat > /dev/null; sleep ${LATE_S}; echo late`,
    );
    await docker(`${create} --name client --constraint node.hostname==h1 lab:latest`);
    await waitFor("the published ports to answer", async () => {
      const answer = await lab.client.curl(`http://${lab.host(3).address}:${PORT}/`);
      return answer.startsWith("1 ");
    });
    await containerOf("late", 2);
    await containerOf("client", 1);
  }, 120_000);

  test("open streams go on while agents are killed and engines restart", async () => {
    const client = await containerOf("client", 1);
    const streams = await Promise.all([
      hold(await inContainer(client, 1, holdCommand(await virtualIpOf("web"), 80))),
      hold(lab.client.enter(holdCommand(lab.host(3).address, PORT))),
      hold(lab.client.enter(holdCommand(lab.host(2).address, PORT))),
    ]);
    for (const host of HOSTS) {
      await lab.host(host).killAgent("SIGKILL");
      await lab.host(host).startAgent();
    }
    await lab.host(2).killDockerd();
    await lab.host(2).startDockerd();
    await lab.host(1).stopDockerd();
    await lab.host(1).startDockerd();
    // Two checks of the mesh after what the engines did to the rules.
    await Bun.sleep(6_000);
    const results = await Promise.all(streams.map((end) => end()));
    for (const { failure, answers, answerCount, longestGapMs } of results) {
      expect(failure).toBeUndefined();
      expect(answers).toHaveLength(1);
      expect(answerCount).toBeGreaterThan(50);
      expect(longestGapMs).toBeLessThan(1_000);
    }
    console.log(`longest gaps: ${results.map((result) => result.longestGapMs).join(", ")} ms`);
    const answer = await lab.client.curl(`http://${lab.host(1).address}:${PORT}/`);
    expect(answer).toBe(`1 ${lab.client.address}`);
  }, 90_000);

  test("one client port through three hosts makes three connections to one task", async () => {
    const targets = HOSTS.map((host) => `${lab.host(host).address}:${PORT}`);
    const command = ["python3", join(traffic, "sockets.py"), "collide", ...targets];
    const answers: unknown = JSON.parse(await lab.client.run(command));
    const fine = `1 ${lab.client.address}`;
    expect(answers).toEqual(HOSTS.map(() => [fine, fine]));
  }, 30_000);

  test("a half-closed connection gets its late answer, and flows are kept for long", async () => {
    const command = ["python3", join(traffic, "sockets.py"), "halfclose"];
    const asked = lab.client.run([...command, lab.host(3).address, String(LATE_PORT)]);
    const client = await containerOf("client", 1);
    const vip = await virtualIpOf("late");
    const inside = await inContainer(client, 1, [...command, vip, String(LATE_PORT)]);
    const askedInside = lab.host(1).run(inside);
    const idle = await hold(lab.client.enter(holdCommand(lab.host(3).address, PORT)));
    // What is left of each flow: half-closed ones an hour, open ones a day, on both hosts of the way.
    const leftOf = async (host: number, port: number, state: string) => {
      const flows = await lab.host(host).run(["conntrack", "-L", "-p", "tcp", "--state", state]);
      const found = flows.split("\n").filter((line) => line.includes(`dport=${port} `));
      return found.map((line) => Number(line.split(/\s+/)[2]));
    };
    for (const host of [2, 3]) {
      const targetPort = host === 2 ? 80 : PORT;
      const left = await leftOf(host, targetPort, "ESTABLISHED");
      expect([host, Math.max(...left) > DAY_S - 600]).toEqual([host, true]);
      const half = await waitFor(`a half-closed flow on h${host}`, async () => {
        const found = await leftOf(host, LATE_PORT, "CLOSE_WAIT");
        return found.length > 0 ? found : undefined;
      });
      expect([host, Math.max(...half) > 3_000]).toEqual([host, true]);
    }
    expect(JSON.parse(await asked)).toBe("late");
    expect(JSON.parse(await askedInside)).toBe("late");
    // Somebody sets the time-outs down, as tuning guides say: it does not last.
    await lab
      .host(3)
      .run(["sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=30"]);
    await waitFor("the time-out to be as before", async () => {
      const key = "net.netfilter.nf_conntrack_tcp_timeout_established";
      return Number(await lab.host(3).run(["sysctl", "-n", key])) >= DAY_S;
    });
    await waitFor(
      "the stream's flow to be kept long again",
      async () => Math.max(...(await leftOf(3, PORT, "ESTABLISHED"))) > DAY_S - 600,
    );
    expect((await idle()).failure).toBeUndefined();
  }, 60_000);

  test("a task's container restarted by hand: its address and its port answer afterwards", async () => {
    const client = await containerOf("client", 1);
    await lab.host(2).engine("restart", "-t", "1", await containerOf("web", 2));
    const startMs = performance.now();
    const vip = await virtualIpOf("web");
    const fetch = ["exec", client, "timeout", "2", "wget", "-q", "-O", "-", `http://${vip}/`];
    await waitFor("all ways to answer", async () => {
      expect(await lab.host(1).engine(...fetch)).toStartWith("1 ");
      for (const host of HOSTS) {
        const answer = await lab.client.curl(`http://${lab.host(host).address}:${PORT}/`);
        expect(answer).toBe(`1 ${lab.client.address}`);
      }
      return true;
    });
    console.log(`answers ${Math.round(performance.now() - startMs)} ms after docker restart`);
    expect(performance.now() - startMs).toBeLessThan(15_000);
  }, 60_000);

  test("a program on a host that listens on a published port is named, and the service has the port", async () => {
    const listen = `import socket, time; s = socket.create_server(("0.0.0.0", ${PORT})); print("ready", flush=True); time.sleep(60)`;
    const program = Bun.spawn(lab.host(3).enter(["python3", "-c", listen]), { stdout: "pipe" });
    try {
      await program.stdout.getReader().read();
      const said = await lab.host(1).run(["shoal", "why", "web"]);
      expect(said).toContain("1 of 1 tasks of web run");
      expect(said).toMatch(
        new RegExp(`- h3: python3\\S* .*listens on port ${PORT}, which service web`),
      );
      const answer = await lab.client.curl(`http://${lab.host(3).address}:${PORT}/`);
      expect(answer).toBe(`1 ${lab.client.address}`);
    } finally {
      program.kill();
      await program.exited;
    }
  }, 30_000);

  test("an address that moves to another node is answered there at once, for those who used it before", async () => {
    // Six addresses: gateway, two askers, two that only hold one, so that what moves has to get its own again.
    const create =
      "service create -d --no-resolve-image --network narrow --endpoint-mode dnsrr --restart-condition none";
    await docker(`${create} --name asks1 --constraint node.hostname==h1 lab:latest`);
    await docker(`${create} --name asks2 --constraint node.hostname==h2 lab:latest`);
    await docker(`${create} --name holds --replicas 2 --constraint node.hostname==h3 lab:latest`);
    await docker(`${create} --name moves --constraint node.hostname==h1 lab:latest`);
    const first = await containerOf("moves", 1);
    const address = await addressOn(first, 1, "narrow");
    const address6 = await addressOn(first, 1, "narrow", "GlobalIPv6Address");
    const askers = [
      { host: 1, id: await containerOf("asks1", 1) },
      { host: 2, id: await containerOf("asks2", 2) },
    ];
    /** Short tries one after the other until one is answered. */
    const reachBy = async (name: string, { host, id }: { host: number; id: string }) => {
      const startMs = performance.now();
      const pid = await lab.host(host).engine("inspect", "-f", "{{.State.Pid}}", id);
      const ask = ["nsenter", `--net=/proc/${pid}/ns/net`, "curl", "-s", "-m", "0.3"];
      await waitFor(
        `${name} to answer on h${host}`,
        async () => (await lab.host(host).tryRun([...ask, `http://${name}/`])).code === 0,
        { timeoutMs: 60_000, intervalMs: 20 },
      );
      return Math.round(performance.now() - startMs);
    };
    const names = [address, `[${address6}]`];
    const reachAll = () =>
      Promise.all(names.flatMap((name) => askers.map((asker) => reachBy(name, asker))));
    let at = 1;
    const took: number[] = [];
    for (const to of [2, 1, 3]) {
      await reachAll();
      await docker("service scale -d moves=0");
      await waitFor("its end", async () => (await containersOf("moves", at)).length === 0);
      await docker(
        `service update -d --constraint-rm node.hostname==h${at} --constraint-add node.hostname==h${to} moves`,
      );
      // Its address is free once the managers know of the end.
      await waitFor("the task's end", async () => {
        const states = await docker("service ps --format {{.CurrentState}} moves");
        return !/^(Running|Starting|Ready|Preparing)/m.test(states);
      });
      await docker("service scale -d moves=1");
      const id = await containerOf("moves", to);
      expect(await addressOn(id, to, "narrow")).toBe(address);
      expect(await addressOn(id, to, "narrow", "GlobalIPv6Address")).toBe(address6);
      took.push(...(await reachAll()));
      at = to;
    }
    console.log(`${names.join(" and ")} answered ${took.join(", ")} ms after it had moved`);
    expect(Math.max(...took)).toBeLessThan(1_000);
  }, 180_000);
});
