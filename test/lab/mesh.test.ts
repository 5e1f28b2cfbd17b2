/**
 * The mesh with real engines, by each back-end that this machine's kernel has: the rows of the design's
 * matrix that need containers. The agents are moved from one back-end to the other while clients ask,
 * and no answer may be missing. The finer rows run without Docker: test/net/mesh/kernel.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type CommandResult, run } from "../../scripts/lab/command.ts";
import { CLIENT_ADDRESS } from "../../scripts/lab/fabric.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const HOSTS = [1, 2, 3] as const;
/** The image has no program for UDP: a server of ours is put into a container's network namespace. */
const UDP_SERVER = `
  const [name, hostname] = process.argv.slice(-2);
  await Bun.udpSocket({ hostname, port: 9000, socket: {
    data: (socket, _bytes, port, peer) => void socket.send(name + " client=" + peer + "\\n", port, peer),
  } });
  console.log("ready");
`;
let lab: Lab;
/** Container ids by service and host, and the services' addresses. */
const containers = new Map<string, { host: number; id: string }[]>();
let webVip = "";
let farVip = "";

const containerOf = (service: string, host: number) =>
  containers.get(service)?.find((container) => container.host === host)?.id ?? "";
const isSameSet = (seen: Set<string | undefined>, wanted: string[]) =>
  Bun.deepEquals(seen, new Set<string | undefined>(wanted));
const idsOf = (service: string) =>
  (containers.get(service) ?? []).map(({ id }) => id.slice(0, 12)).sort();

/** "<container's short id> <client it saw>", or what went wrong. */
function answerOf({ stdout, stderr }: CommandResult): string {
  const match = /^(\S+) client=([\d.]+)/m.exec(stdout);
  if (match) return `${match[1]} ${match[2]}`;
  return /refused|Couldn't connect/i.test(stderr) ? "refused" : "no answer";
}
const fetchBy = (program: string, address: string, port: number) =>
  program === "curl"
    ? ["curl", "-sS", "--max-time", "4", `http://${address}:${port}/`]
    : ["timeout", "4", "wget", "-q", "-O", "-", `http://${address}:${port}/`];
const udpBy = (address: string, port: number) => [
  "timeout",
  "4",
  "bash",
  "-c",
  `exec 3<>/dev/udp/${address}/${port}; echo x >&3; head -n1 <&3`,
];
const fromClient = async (address: string, port: number) =>
  answerOf(await lab.client.tryRun(fetchBy("curl", address, port)));
const fromHost = async (host: number, address: string, port: number) =>
  answerOf(await lab.host(host).tryRun(fetchBy("curl", address, port)));
const fromContainer = async (service: string, host: number, address: string, port = 80) =>
  answerOf(
    await lab
      .host(host)
      .tryRun(["docker", "exec", containerOf(service, host), ...fetchBy("wget", address, port)], {
        engine: true,
      }),
  );
const addressOf = async (service: string, host: number, network: string) =>
  lab
    .host(host)
    .engine(
      "inspect",
      "-f",
      `{{(index .NetworkSettings.Networks "${network}").IPAddress}}`,
      containerOf(service, host),
    );

async function start(service: string, replicas: number, ...flags: string[]): Promise<void> {
  await lab
    .host(1)
    .docker(
      "service",
      "create",
      "--quiet",
      "--no-resolve-image",
      "--name",
      service,
      "--network",
      "front",
      ...flags,
      "lab:latest",
    );
  const found = await waitFor(`the tasks of ${service}`, async () => {
    const lists = await Promise.all(
      HOSTS.map(async (host) => {
        const label = `label=com.docker.swarm.service.name=${service}`;
        const text = await lab.host(host).engine("ps", "-q", "--no-trunc", "--filter", label);
        return text
          .split("\n")
          .filter((id) => id !== "")
          .map((id) => ({ host, id }));
      }),
    );
    return lists.flat().length === replicas ? lists.flat() : undefined;
  });
  containers.set(service, found);
}

/** All rows by the back-end that runs now. */
function describeRows(backend: "nftables" | "iptables"): void {
  describe(`rows by ${backend}`, () => {
    test("the agents say that they use it, and the other left nothing", async () => {
      for (const host of HOSTS) {
        const lines = lab.host(host).agentLog().trim().split("\n");
        const ready = lines.findLast((line) => line.includes('"Mesh ready"'));
        expect(ready).toContain(`"backend":"${backend}"`);
        const tables = await lab.host(host).run(["nft", "list", "tables"]);
        const chains = await lab.host(host).run(["iptables-save", "-t", "nat"]);
        expect(tables.includes("table ip shoal")).toBe(backend === "nftables");
        expect(chains.includes("-j SH-PRE")).toBe(backend === "iptables");
      }
    });

    test("a service address spreads over all tasks and keeps the client's address", async () => {
      const own = await addressOf("far", 3, "front");
      await waitFor("all tasks of web to answer", async () => {
        const answers = await Promise.all(
          Array.from({ length: 12 }, () => fromContainer("far", 3, webVip)),
        );
        expect(new Set(answers.map((answer) => answer.split(" ")[1]))).toEqual(new Set([own]));
        const ids = new Set(answers.map((answer) => answer.split(" ")[0]));
        return isSameSet(ids, idsOf("web"));
      });
    }, 40_000);

    test("a published port answers at every host, with or without a task, and keeps the client's address", async () => {
      const [far = ""] = idsOf("far");
      for (const host of HOSTS) {
        const answer = await fromClient(lab.host(host).address, 8081);
        expect([host, answer]).toEqual([host, `${far} ${CLIENT_ADDRESS}`]);
        const udp = answerOf(await lab.client.tryRun(udpBy(lab.host(host).address, 9001)));
        expect([host, udp]).toEqual([host, `${far} ${CLIENT_ADDRESS}`]);
      }
      const seen = new Set<string>();
      await waitFor("all tasks of web to answer", async () => {
        const [id = "", client] = (await fromClient(lab.host(2).address, 8080)).split(" ");
        expect(client).toBe(CLIENT_ADDRESS);
        seen.add(id);
        return isSameSet(seen, idsOf("web"));
      });
    }, 40_000);

    test("hosts, containers and a task itself reach published ports and service addresses", async () => {
      const [far = ""] = idsOf("far");
      const rows: [string, Promise<string>][] = [
        ["host by its loopback", fromHost(1, "127.0.0.1", 8081)],
        ["host by its own address", fromHost(1, lab.host(1).address, 8081)],
        ["the task's host", fromHost(3, lab.host(3).address, 8081)],
        ["container by its host", fromContainer("web", 1, lab.host(1).address, 8081)],
        ["container by another host", fromContainer("web", 1, lab.host(2).address, 8081)],
        ["the task by its own host", fromContainer("far", 3, lab.host(3).address, 8081)],
        ["the task by its own service address", fromContainer("far", 3, farVip)],
        ["host to service address elsewhere", fromHost(1, farVip, 80)],
        ["host to service address here", fromHost(3, farVip, 80)],
      ];
      const seen = await Promise.all(rows.map(async ([row, probe]) => [row, await probe] as const));
      const wrong = seen.filter(([, answer]) => !answer.startsWith(`${far} `));
      expect(wrong).toEqual([]);
    }, 30_000);

    test("labels of a service say where its connections go, and they are counted", async () => {
      const label = (service: string, ...flags: string[]) =>
        lab.host(1).docker("service", "update", "--detach", "--quiet", ...flags, service);
      const [far = ""] = idsOf("far");
      const fromAll = () =>
        Promise.all(HOSTS.map((host) => fromClient(lab.host(host).address, 8081)));

      await label("far", "--label-add", "shoal.publish.8081/tcp=local");
      await waitFor("only the task's host to answer", async () =>
        Bun.deepEquals(await fromAll(), ["refused", "refused", `${far} ${CLIENT_ADDRESS}`]),
      );
      await label("far", "--label-add", "shoal.publish.8081/tcp=snat");
      await waitFor("all hosts to answer in their own name", async () =>
        (await fromAll()).every(
          (answer) => answer.startsWith(`${far} `) && !answer.endsWith(CLIENT_ADDRESS),
        ),
      );
      await label("far", "--label-rm", "shoal.publish.8081/tcp");
      await waitFor("the client's address again", async () =>
        (await fromAll()).every((answer) => answer === `${far} ${CLIENT_ADDRESS}`),
      );

      const askedOf = async (ask: () => Promise<string>) =>
        new Set(
          (await Promise.all(Array.from({ length: 8 }, ask))).map((text) => text.split(" ")[0]),
        );
      const here = containerOf("web", 3).slice(0, 12);
      const byAddress = () => fromContainer("far", 3, webVip);
      const byPort = () => fromClient(lab.host(3).address, 8080);
      await label("web", "--label-add", "shoal.balance.prefer=local");
      await waitFor("the tasks here to be preferred", async () =>
        isSameSet((await askedOf(byAddress)).union(await askedOf(byPort)), [here]),
      );
      const affinity = ["--label-add", "shoal.balance.affinity=client"];
      await label("web", "--label-rm", "shoal.balance.prefer", ...affinity);
      await waitFor("one client to have one task", async () => {
        const [byHost, byOther] = [await askedOf(byPort), await askedOf(byAddress)];
        return byHost.size === 1 && byOther.size === 1;
      });
      await label("web", "--label-rm", "shoal.balance.affinity");
      // On the host whose rules the next row throws away: a change under way would make them again.
      const byFirst = () => fromClient(lab.host(1).address, 8080);
      await waitFor("any task again", async () => (await askedOf(byFirst)).size > 1);

      const socket = ["--unix-socket", lab.host(3).agentSocket()];
      const metrics = await run(["curl", "-sS", ...socket, "http://shoal/shoal/v1/metrics"]);
      expect(metrics).toMatch(/shoal_service_connections_total\{[^}]*service="web"[^}]*\} [1-9]/);
    }, 60_000);

    test("a port in host mode answers on its host only", async () => {
      const answer = await fromClient(lab.host(2).address, 8090);
      expect(answer.split(" ")[0]).toBe(idsOf("hostmode")[0] ?? "");
      expect(await fromClient(lab.host(1).address, 8090)).toBe("refused");
    });

    test("rules that somebody flushed are there again without a human", async () => {
      const flush = {
        nftables: ["nft", "delete", "table", "ip", "shoal"],
        iptables: ["iptables", "-t", "nat", "-F"],
      };
      await lab.host(1).run(flush[backend]);
      const startMs = performance.now();
      await waitFor("the published port to answer again", async () =>
        (await fromClient(lab.host(1).address, 8081)).endsWith(CLIENT_ADDRESS),
      );
      expect(performance.now() - startMs).toBeLessThan(15_000);
      const socket = ["--unix-socket", lab.host(1).agentSocket()];
      const kind = { nftables: "nft-table", iptables: "iptables-chains" }[backend];
      const isCounted = new RegExp(`shoal_mesh_repairs_total\\{kind="${kind}"\\} [1-9]`);
      // The rules stand a moment before the round that made them is over, and counted.
      await waitFor("the repair to be counted", async () =>
        isCounted.test(await run(["curl", "-sS", ...socket, "http://shoal/shoal/v1/metrics"])),
      );
    }, 40_000);
  });
}

/** Agents start again with another back-end, one after the other, while clients ask. */
async function move(backend: "nftables" | "iptables"): Promise<{ asked: number; lost: string[] }> {
  const result = { asked: 0, lost: new Array<string>() };
  const state = { isMoving: true };
  const asking = HOSTS.map(async (host) => {
    while (state.isMoving) {
      const answer = await fromClient(lab.host(host).address, 8081);
      result.asked += 1;
      if (!answer.endsWith(CLIENT_ADDRESS)) result.lost.push(`h${host}: ${answer}`);
    }
  });
  for (const host of HOSTS) {
    await lab.host(host).killAgent();
    await lab.host(host).startAgent(["--mesh-backend", backend]);
    await waitFor(`the new rules on h${host}`, async () => {
      const tables = await lab.host(host).run(["nft", "list", "tables"]);
      const chains = await lab.host(host).run(["iptables-save", "-t", "nat"]);
      const isNft = tables.includes("table ip shoal");
      const isIptables = chains.includes("SH-");
      return backend === "nftables" ? isNft && !isIptables : isIptables && !isNft;
    });
  }
  state.isMoving = false;
  await Promise.all(asking);
  return result;
}

describeLab("mesh", { hosts: 3, agents: true }, (made) => {
  let udpServer: Bun.Subprocess<"ignore", "pipe", "inherit"> | undefined;
  beforeAll(() => {
    lab = made();
  });
  afterAll(async () => {
    udpServer?.kill();
    await udpServer?.exited;
  });

  test("a cluster with services on every host", async () => {
    await lab.host(1).docker("swarm", "init");
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "worker");
    for (const host of [2, 3]) {
      await lab.host(host).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    }
    await lab.host(1).docker("network", "create", "-d", "overlay", "front");
    await start("web", 3, "--mode", "global", "-p", "8080:80");
    await start(
      "far",
      1,
      "--constraint",
      "node.hostname==h3",
      "-p",
      "8081:80",
      "-p",
      "9001:9000/udp",
    );
    await start(
      "hostmode",
      1,
      "--constraint",
      "node.hostname==h2",
      "-p",
      "mode=host,published=8090,target=80",
    );
    const lookup = async (name: string) => {
      const found = await lab
        .host(3)
        .engine("exec", containerOf("far", 3), "nslookup", "-type=a", name);
      return /Name:.*\nAddress: (\S+)/.exec(found)?.[1] ?? "";
    };
    webVip = await lookup("web");
    farVip = await lookup("far");
    expect(webVip).not.toBe("");
    const far = containerOf("far", 3);
    const pid = await lab.host(3).engine("inspect", "-f", "{{.State.Pid}}", far);
    udpServer = Bun.spawn(
      [
        "nsenter",
        `--net=/proc/${pid}/ns/net`,
        process.execPath,
        "-e",
        UDP_SERVER,
        far.slice(0, 12),
        await addressOf("far", 3, "front"),
      ],
      { stdin: "ignore", stdout: "pipe", stderr: "inherit" },
    );
    await udpServer.stdout.getReader().read();
    await waitFor("the published port to answer", async () =>
      (await fromClient(lab.host(1).address, 8081)).endsWith(CLIENT_ADDRESS),
    );
  }, 90_000);

  describeRows("nftables");

  test("the agents move to iptables while clients ask, and no answer is lost", async () => {
    const { asked, lost } = await move("iptables");
    expect(lost).toEqual([]);
    expect(asked).toBeGreaterThan(30);
  }, 90_000);

  describeRows("iptables");

  test("and back to nftables", async () => {
    const { asked, lost } = await move("nftables");
    expect(lost).toEqual([]);
    expect(asked).toBeGreaterThan(30);
  }, 90_000);
});
