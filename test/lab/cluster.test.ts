/**
 * The first promise, end to end: three hosts with real engines and the compiled agent, driven by the
 * stock docker CLI. The tests build on each other, in order, in one lab.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import { CommandError, waitFor } from "../../scripts/lab/command.ts";
import { CLIENT_ADDRESS } from "../../scripts/lab/fabric.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

const HOSTS = [1, 2, 3] as const;
let lab: Lab;

type Answer = { hostname: string; client: string; task: string };
function parseAnswer(line: string): Answer {
  const match = /^(\S+) client=(\S+) task=(\S*) version=/.exec(line);
  if (!match) throw new Error(`Not an answer of the lab's image: "${line}"`);
  return { hostname: match[1] ?? "", client: match[2] ?? "", task: match[3] ?? "" };
}
const ask = async (host: number, port: number) =>
  parseAnswer(await lab.client.curl(`http://${lab.host(host).address}:${port}/`));

const inspect = async <T>(...args: string[]) => JSON.parse(await lab.host(1).docker(...args)) as T;

/** Running tasks of a service by node name, as the CLI lists them. */
const runningTasks = async (service: string, from = 1) => {
  const text = await lab
    .host(from)
    .docker(
      "service",
      "ps",
      "--filter",
      "desired-state=running",
      "--format",
      "{{.Name}} {{.Node}} {{.CurrentState}}",
      service,
    );
  return text
    .split("\n")
    .filter((line) => line.includes(" Running "))
    .map((line) => line.split(" ")[1] ?? "");
};
/** Task containers that really run, over all hosts. */
const runningContainers = async (service: string, hosts: readonly number[] = HOSTS) => {
  const lists = await Promise.all(
    hosts.map((i) =>
      lab
        .host(i)
        .engine(
          "ps",
          "-q",
          "--no-trunc",
          "--filter",
          `label=com.docker.swarm.service.name=${service}`,
        ),
    ),
  );
  return lists.map((text) => text.split("\n").filter((line) => line !== ""));
};
/** The host that leads; one that was cut off a moment ago may not know yet. */
const leaderOf = async (from: number): Promise<number> =>
  waitFor("a leader in the list of nodes", async () => {
    const text = await lab
      .host(from)
      .docker("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}");
    const line = text.split("\n").find((l) => l.endsWith(" Leader"));
    return line === undefined ? undefined : Number(line.slice(1).split(" ")[0]);
  });
const refusal = async (host: number, ...args: string[]) => {
  const result = await lab.host(host).tryRun(["docker", ...args]);
  expect(result.code).not.toBe(0);
  return `${result.stdout}${result.stderr}`;
};

describeLab("three managers", { hosts: 3, agents: true }, (made) => {
  beforeAll(() => {
    lab = made();
  });

  describe("cluster", () => {
    test("refuses cluster calls on a node that is in no swarm", async () => {
      expect(await refusal(1, "node", "ls")).toContain("This node is not a swarm manager");
      expect(await refusal(1, "swarm", "leave")).toContain("This node is not part of a swarm");
    });

    test("refuses a wrong token and a wrong CA digest, and nothing of the join stays", async () => {
      await lab.host(1).docker("swarm", "init");
      const token = await lab.host(1).docker("swarm", "join-token", "-q", "worker");
      const [, , digest = "", secret = ""] = token.split("-");
      const join = (text: string) =>
        refusal(2, "swarm", "join", "--token", text, `${lab.host(1).address}:2377`);
      const flip = (text: string) => `${text.startsWith("1") ? "2" : "1"}${text.slice(1)}`;
      expect(await join("SWMTKN-1-nonsense")).toContain("invalid join token");
      expect(await join(`SWMTKN-1-${digest}-${flip(secret)}`)).toContain(
        "A valid join token is necessary to join this cluster",
      );
      expect(await join(`SWMTKN-1-${flip(digest)}-${secret}`)).toContain(
        "remote CA does not match fingerprint",
      );
      expect(await refusal(2, "swarm", "join", "--token", token, "192.168.77.250:2377")).toContain(
        "192.168.77.250",
      );
      const state = await lab.host(2).docker("info", "--format", "{{.Swarm.LocalNodeState}}");
      expect(state).toBe("inactive");
      expect(await lab.host(2).run(["find", "/var/lib/shoal", "-type", "f"])).toBe("");
      expect(await lab.host(1).docker("node", "ls", "-q")).not.toContain("\n");
    }, 60_000);

    test("forms of three managers by join", async () => {
      const token = await lab.host(1).docker("swarm", "join-token", "-q", "manager");
      for (const i of [2, 3]) {
        await lab.host(i).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
      }
      const seen = await waitFor("three ready nodes", async () => {
        const text = await lab
          .host(2)
          .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}");
        const lines = text.split("\n").sort();
        return lines.length === 3 && lines.every((l) => / Ready (Leader|Reachable)$/.test(l))
          ? lines
          : undefined;
      });
      expect(seen.map((l) => l.split(" ")[0])).toEqual(["h1", "h2", "h3"]);
      expect(seen.filter((l) => l.endsWith("Leader"))).toHaveLength(1);
    }, 90_000);

    test("refuses what is wrong, with the reason, and changes nothing", async () => {
      const token = await lab.host(1).docker("swarm", "join-token", "-q", "worker");
      expect(await refusal(1, "swarm", "init")).toContain("already part of a swarm");
      expect(
        await refusal(2, "swarm", "join", "--token", token, `${lab.host(1).address}:2377`),
      ).toContain("already part of a swarm");
      expect(
        await refusal(
          1,
          "service",
          "create",
          "-d",
          "--no-resolve-image",
          "--network",
          "nowhere",
          "lab:latest",
        ),
      ).toMatch(/network nowhere not found|No such network: nowhere/);
      expect(
        await refusal(
          1,
          "service",
          "create",
          "-d",
          "--no-resolve-image",
          "--constraint",
          "node.role~worker",
          "lab:latest",
        ),
      ).toContain("constraint expected one operator from ==, !=");
      expect(await refusal(1, "service", "inspect", "nothing")).toContain(
        "no such service: nothing",
      );
      expect(await lab.host(1).docker("service", "ls", "-q")).toBe("");
    }, 30_000);
  });

  describe("services", () => {
    test("are created, and every entry host answers for tasks elsewhere, with the client's address", async () => {
      await lab.host(1).docker("network", "create", "-d", "overlay", "net1");
      for (const i of HOSTS) {
        await lab
          .host(1)
          .docker(
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--name",
            `on${i}`,
            "--network",
            "net1",
            "-p",
            `${8080 + i}:80`,
            "--constraint",
            `node.hostname==h${i}`,
            "--env",
            "TASK={{.Task.Name}}",
            "lab:latest",
          );
      }
      for (const entry of HOSTS) {
        for (const target of HOSTS) {
          const answer = await waitFor(
            `h${entry} to answer for on${target}`,
            () => ask(entry, 8080 + target).catch(() => undefined),
            { timeoutMs: 30_000 },
          );
          expect(answer.task).toStartWith(`on${target}.1.`);
          expect(answer.client).toBe(CLIENT_ADDRESS);
        }
      }
    }, 120_000);

    test("resolve by name to their VIP in a container on another host", async () => {
      const [service] = await inspect<
        { Endpoint: { VirtualIPs: { NetworkID: string; Addr: string }[] } }[]
      >("service", "inspect", "on1");
      const [network] = await inspect<{ Id: string }[]>("network", "inspect", "net1");
      const vip =
        service?.Endpoint.VirtualIPs.find((v) => v.NetworkID === network?.Id)?.Addr.split("/")[0] ??
        "none";
      const container = (await runningContainers("on3"))[2]?.[0];
      expect(container).toBeDefined();
      const lookup = await lab.host(3).engine("exec", container ?? "", "nslookup", "on1");
      expect(lookup).toContain(vip);
      expect(
        await lab
          .host(3)
          .engine("exec", container ?? "", "timeout", "3", "wget", "-qO-", "http://on1/"),
      ).toContain("task=on1.1.");
    }, 30_000);

    test("refuse a port already published, and an image that does not exist is said on the task", async () => {
      const text = await refusal(
        2,
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "-p",
        "8081:80",
        "lab:latest",
      );
      expect(text).toContain("port '8081' is already in use by service 'on1'");
      await lab
        .host(2)
        .docker(
          "service",
          "create",
          "-d",
          "--no-resolve-image",
          "--name",
          "ghost",
          "--restart-condition",
          "none",
          "ghost:none",
        );
      const error = await waitFor(
        "the task's error",
        async () =>
          (
            await lab
              .host(2)
              .docker(
                "service",
                "ps",
                "--no-trunc",
                "--format",
                "{{.CurrentState}}|{{.Error}}",
                "ghost",
              )
          )
            .split("\n")
            .find((l) => l.startsWith("Rejected")),
        { timeoutMs: 30_000 },
      );
      expect(error).toContain("No such image: ghost:none");
      await lab.host(2).docker("service", "rm", "ghost");
    }, 60_000);

    test("converge from 3 to 10 to 2 replicas", async () => {
      await lab
        .host(3)
        .docker(
          "service",
          "create",
          "-d",
          "--no-resolve-image",
          "--name",
          "web",
          "--network",
          "net1",
          "-p",
          "8080:80",
          "--replicas",
          "3",
          "--env",
          "TASK={{.Task.Name}}",
          "lab:latest",
        );
      for (const count of [3, 10, 2]) {
        if (count !== 3) await lab.host(3).docker("service", "scale", "-d", `web=${count}`);
        await waitFor(
          `${count} running tasks`,
          async () => {
            const containers = (await runningContainers("web")).flat();
            return containers.length === count && (await runningTasks("web")).length === count
              ? true
              : undefined;
          },
          { timeoutMs: 60_000 },
        );
      }
      const tasks = new Set<string>();
      for (let i = 0; i < 30; i++) tasks.add((await ask((i % 3) + 1, 8080)).task);
      expect(tasks.size).toBe(2);
    }, 150_000);

    test("let the CLI's progress bars converge", async () => {
      const result = await lab
        .host(1)
        .tryRun(["docker", "service", "scale", "web=4"], { timeoutMs: 60_000 });
      expect(`${result.stdout}${result.stderr}`).toMatch(/Service (web )?converged/);
    }, 70_000);
  });

  describe("failures", () => {
    test("kill -9 of the leader's agent: no request is lost, the next write is acknowledged within 3 s, same containers", async () => {
      const leader = await leaderOf(1);
      const survivor = (leader % 3) + 1;
      const before = await runningContainers("web");
      let isOver = false;
      let count = 0;
      const lost: string[] = [];
      const loop = (async () => {
        while (!isOver) {
          for (const host of HOSTS) {
            try {
              await ask(host, 8080);
            } catch (error) {
              lost.push(
                error instanceof CommandError ? `h${host}: ${error.message}` : String(error),
              );
            }
            count++;
          }
        }
      })();
      await lab.host(leader).killAgent("SIGKILL");
      const killedAtMs = performance.now();
      await lab.host(survivor).docker("network", "create", "-d", "overlay", "after-leader");
      const tookMs = performance.now() - killedAtMs;
      await lab.host(leader).startAgent();
      await waitFor(
        "three ready nodes again",
        async () => {
          const text = await lab
            .host(survivor)
            .docker("node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}");
          return text.split("\n").filter((l) => /^Ready (Leader|Reachable)$/.test(l)).length === 3
            ? true
            : undefined;
        },
        { timeoutMs: 30_000 },
      );
      isOver = true;
      await loop;
      expect(lost).toEqual([]);
      expect(count).toBeGreaterThan(20);
      expect(tookMs).toBeLessThan(3_000);
      expect(await runningContainers("web")).toEqual(before);
      console.log(
        `leader killed: next write after ${Math.round(tookMs)} ms, ${count} requests, none lost`,
      );
    }, 90_000);

    test("a host cut off: its tasks run elsewhere; it returns: exactly the wanted count runs", async () => {
      await lab.host(1).docker("service", "scale", "-d", "web=6");
      await waitFor(
        "6 running tasks",
        async () => ((await runningContainers("web")).flat().length === 6 ? true : undefined),
        { timeoutMs: 60_000 },
      );
      const leader = await leaderOf(1);
      const victim = (leader % 3) + 1;
      const watcher = HOSTS.find((i) => i !== victim) ?? 1;
      const rest = HOSTS.filter((i) => i !== victim);
      await lab.host(victim).cutOff();
      const cutAtMs = performance.now();
      await waitFor(
        "the node to be down",
        async () => {
          const text = await lab
            .host(watcher)
            .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}");
          return text.includes(`h${victim} Down`) ? true : undefined;
        },
        { timeoutMs: 20_000 },
      );
      const tookMs = performance.now() - cutAtMs;
      await waitFor(
        "6 tasks on the others",
        async () => ((await runningContainers("web", rest)).flat().length === 6 ? true : undefined),
        { timeoutMs: 60_000 },
      );
      for (const host of rest) expect((await ask(host, 8080)).client).toBe(CLIENT_ADDRESS);
      await lab.host(victim).reconnect();
      await waitFor(
        "exactly 6 tasks everywhere",
        async () => {
          const all = (await runningContainers("web")).flat().length;
          const text = await lab
            .host(watcher)
            .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}");
          return all === 6 &&
            text.includes(`h${victim} Ready`) &&
            (await runningTasks("web", watcher)).length === 6
            ? true
            : undefined;
        },
        { timeoutMs: 60_000 },
      );
      expect(tookMs).toBeLessThan(6_000);
      console.log(`host cut off: down after ${Math.round(tookMs)} ms`);
    }, 180_000);

    test("the leader's own host cut off: another leads, and finds it dead", async () => {
      const leader = await leaderOf(1);
      const watcher = (leader % 3) + 1;
      await lab.host(leader).cutOff();
      const cutAtMs = performance.now();
      await waitFor("the old leader's node to be down", async () => {
        const text = await lab
          .host(watcher)
          .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}");
        return text.includes(`h${leader} Down`) ? true : undefined;
      });
      const tookMs = performance.now() - cutAtMs;
      await lab.host(leader).reconnect();
      await waitFor(
        "three ready nodes again, and 6 tasks",
        async () => {
          // Not of the one that was cut off: until it knows the leader its answers are stale.
          const text = await lab
            .host(watcher)
            .docker("node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}");
          const isReady =
            text.split("\n").filter((l) => /^Ready (Leader|Reachable)$/.test(l)).length === 3;
          const count = (await runningContainers("web")).flat().length;
          return isReady && count === 6 ? true : undefined;
        },
        { timeoutMs: 60_000 },
      );
      expect(tookMs).toBeLessThan(9_000);
      console.log(`leader's host cut off: down after ${Math.round(tookMs)} ms`);
    }, 120_000);

    test("a manager is demoted, promoted and the cluster still writes", async () => {
      const leader = await leaderOf(1);
      const other = (leader % 3) + 1;
      await lab.host(leader).docker("node", "demote", `h${other}`);
      await waitFor(
        "the demoted node to be a worker",
        async () => {
          const text = await lab
            .host(leader)
            .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}");
          const info = await lab
            .host(other)
            .docker("info", "--format", "{{.Swarm.ControlAvailable}}");
          return text.split("\n").includes(`h${other} Ready `.trimEnd()) ||
            (text.split("\n").some((l) => l.trim() === `h${other} Ready`) && info === "false")
            ? true
            : undefined;
        },
        { timeoutMs: 30_000 },
      );
      expect(await refusal(other, "node", "ls")).toContain(
        "Worker nodes can't be used to view or modify cluster state",
      );
      await lab.host(leader).docker("node", "promote", `h${other}`);
      await waitFor(
        "the promoted node to answer as a manager",
        async () => {
          const result = await lab
            .host(other)
            .tryRun(["docker", "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
          return result.stdout.includes(`h${other} Reachable`) ? true : undefined;
        },
        { timeoutMs: 30_000 },
      );
      await lab.host(other).docker("node", "update", "--label-add", "zone=a", `h${other}`);
    }, 90_000);

    test("drain moves a node's tasks, active lets it be used again", async () => {
      await lab.host(1).docker("node", "update", "--availability", "drain", "h2");
      await waitFor(
        "no task on h2",
        async () => {
          const [a, b, c] = await runningContainers("web");
          return b?.length === 0 && (a?.length ?? 0) + (c?.length ?? 0) === 6 ? true : undefined;
        },
        { timeoutMs: 60_000 },
      );
      await lab.host(1).docker("node", "update", "--availability", "active", "h2");
    }, 90_000);

    test("leave removes a node's tasks and state, rm takes it off the list", async () => {
      await lab.host(1).docker("service", "rm", "on1", "on2", "on3", "web");
      // At once, as `docker stack rm` does, while the containers still stop.
      await lab.host(1).docker("network", "rm", "net1");
      await waitFor(
        "no container of a service",
        async () => {
          const lists = await Promise.all(
            ["on1", "on2", "on3", "web"].map((s) => runningContainers(s)),
          );
          return lists.flat(2).length === 0 ? true : undefined;
        },
        { timeoutMs: 60_000 },
      );
      const leader = await leaderOf(1);
      const other = (leader % 3) + 1;
      expect(await refusal(other, "swarm", "leave")).toContain("participating as a manager");
      await lab.host(other).docker("swarm", "leave", "--force");
      expect(await lab.host(other).docker("info", "--format", "{{.Swarm.LocalNodeState}}")).toBe(
        "inactive",
      );
      await waitFor(
        "the node to be removable",
        async () => {
          const result = await lab.host(leader).tryRun(["docker", "node", "rm", `h${other}`]);
          return result.code === 0 ? true : undefined;
        },
        { timeoutMs: 20_000 },
      );
      expect(
        await lab
          .host(leader)
          .docker("node", "ls", "-q")
          .then((t) => t.split("\n").length),
      ).toBe(2);
    }, 120_000);
  });
});
