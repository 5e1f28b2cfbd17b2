/**
 * `docker service logs` and `docker events`, on three hosts: two managers, of which the one that
 * does not lead is asked, and a worker. The tests build on each other, in order.
 */
import { afterEach, beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
/** The manager that does not lead. */
const asked = () => lab.host(2);
const docker = (...args: string[]) => asked().docker(...args);
const create = (name: string, flags: string[], script: string) =>
  docker(
    ...words("service create -d --no-resolve-image --stop-grace-period 1s --name"),
    name,
    ...flags,
    ...words("lab:latest sh -c"),
    script,
  );
const words = (text: string) => text.split(" ");
const lines = (text: string) => text.split("\n").filter((line) => line !== "");
/** `name.slot.task@host    | text` */
const hostOf = (line: string) => /@(\S+) +\| /.exec(line)?.[1] ?? "";

type Watched = { out(): string[]; err(): string[]; stop(): Promise<void> };
let watched: Watched[] = [];

/** A CLI that goes on until it is stopped. */
function watch(host: number, ...args: string[]): Watched {
  const child = Bun.spawn(lab.host(host).enter(["docker", ...args]), {
    stdout: "pipe",
    stderr: "pipe",
  });
  let out = "";
  let err = "";
  const gather = async (from: ReadableStream<Uint8Array>, take: (text: string) => void) => {
    for await (const bytes of from) take(Buffer.from(bytes).toString());
  };
  const ends = [
    gather(child.stdout, (text) => (out += text)),
    gather(child.stderr, (text) => (err += text)),
  ];
  const made = {
    out: () => lines(out),
    err: () => lines(err),
    stop: async () => {
      child.kill("SIGKILL");
      await Promise.all([child.exited, ...ends]);
    },
  };
  watched.push(made);
  return made;
}

const runningHosts = async (service: string) => {
  const text = await docker(
    ...words("service ps --filter desired-state=running --format"),
    "{{.Node}} {{.CurrentState}}",
    service,
  );
  return lines(text)
    .filter((line) => line.includes(" Running "))
    .map((line) => line.split(" ")[0] ?? "")
    .sort();
};

describeLab("logs and events", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    const leader = lab.host(1);
    await leader.docker("swarm", "init");
    for (const [host, role] of [
      [2, "manager"],
      [3, "worker"],
    ] as const) {
      const token = await leader.docker("swarm", "join-token", "-q", role);
      await lab.host(host).docker("swarm", "join", "--token", token, `${leader.address}:2377`);
    }
  }, 60_000);
  afterEach(async () => {
    for (const one of watched) await one.stop();
    watched = [];
  });

  test("service logs come from the tasks of all hosts, in the order of their times", async () => {
    await create(
      "all",
      ["--mode", "global"],
      'for i in 1 2 3; do echo "out $i"; echo "err $i" >&2; sleep 0.3; done; sleep 3600',
    );
    const text = await waitFor("all lines of three tasks", async () => {
      const { stdout, stderr, code } = await asked().tryRun(
        words("docker service logs --timestamps all"),
      );
      return code === 0 && lines(stdout).length === 9 && lines(stderr).length === 9 && stdout;
    });
    const times = lines(text).map((line) => line.slice(0, 30));
    expect(times).toEqual([...times].sort());
    expect(times[0]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
    for (const host of ["h1", "h2", "h3"]) {
      const said = lines(text).filter((line) => hostOf(line) === host);
      expect(said.map((line) => line.split(" | ")[1])).toEqual(["out 1", "out 2", "out 3"]);
    }
  }, 60_000);

  test("--tail is per task, --since cuts off what is older", async () => {
    const { stdout, stderr } = await asked().tryRun(words("docker service logs --tail 2 all"));
    // Lines of both streams count.
    const tail = [...lines(stdout), ...lines(stderr)];
    expect(tail.map(hostOf).sort()).toEqual(["h1", "h1", "h2", "h2", "h3", "h3"]);
    expect(tail.every((line) => line.endsWith(" 3"))).toBe(true);
    const all = lines(await docker("service", "logs", "--timestamps", "all"));
    const middle = all[4]?.slice(0, 30) ?? "";
    const since = lines(await docker("service", "logs", "--since", middle, "all"));
    expect(since).toHaveLength(all.filter((line) => line >= middle).length);
    expect(lines(await docker("service", "logs", "--tail", "0", "all"))).toEqual([]);
  }, 30_000);

  test("a task's log is its own, and wrong requests are refused", async () => {
    const [task = ""] = lines(
      await docker("service", "ps", "-q", "--no-trunc", "--filter", "node=h3", "all"),
    );
    const own = lines(await docker("service", "logs", task));
    expect(own.map(hostOf)).toEqual(["h3", "h3", "h3"]);
    const ask = async (path: string) => {
      const socket = ["--unix-socket", "/run/shoal/docker.sock"];
      return asked().run(["curl", "-s", "-w", " %{http_code}", ...socket, `http://d${path}`]);
    };
    expect(await ask("/services/all/logs")).toContain("must choose at least one stream");
    expect(await ask("/services/all/logs?stdout=1&tail=x")).toEndWith(" 400");
    expect(await ask("/services/nothing/logs?stdout=1")).toBe(
      '{"message":"service nothing not found"}\n 404',
    );
  }, 30_000);

  test("a terminal's log is given raw", async () => {
    await create(
      "tty",
      ["--tty", "--constraint", "node.hostname==h3"],
      "echo from a terminal; sleep 3600",
    );
    await waitFor("the line", async () => {
      const text = await docker("service", "logs", "--raw", "tty");
      return text === "from a terminal";
    });
  }, 30_000);

  test("--follow takes in tasks that begin later, on other hosts", async () => {
    await create(
      "some",
      ["--replicas-max-per-node", "1", "--replicas", "1"],
      "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.3; done",
    );
    await waitFor("the first task", async () => (await runningHosts("some")).length === 1);
    const log = watch(2, "service", "logs", "--follow", "some");
    await waitFor("the first lines", () => log.out().length >= 2);
    await docker("service", "scale", "-d", "some=3");
    await waitFor("lines from all hosts", () => new Set(log.out().map(hostOf)).size === 3);
    for (const host of ["h1", "h2", "h3"]) {
      const said = log.out().filter((line) => hostOf(line) === host);
      // From the first line on, none twice, none left out.
      expect(said.map((line) => line.split(" | ")[1])).toEqual(
        said.map((_, at) => `line ${at + 1}`),
      );
    }
    expect(log.err()).toEqual([]);
  }, 60_000);

  test("events of the cluster and of the engine come in one stream", async () => {
    const [all, ofContainer, ofWorker] = [
      watch(2, "events", "--format", "{{json .}}"),
      watch(2, "events", "--filter", "type=container", "--format", "{{json .}}"),
      watch(3, "events", "--format", "{{json .}}"),
    ];
    type Event = {
      Type: string;
      Action: string;
      Actor: { Attributes: Record<string, string> };
      scope: string;
    };
    const events = (from: Watched) => from.out().map((line) => JSON.parse(line) as Event);
    const has = (from: Watched, type: string, action: string, attributes: Record<string, string>) =>
      events(from).some(
        (event) =>
          event.Type === type &&
          event.Action === action &&
          Object.entries(attributes).every(([key, value]) => event.Actor.Attributes[key] === value),
      );
    // The CLI says nothing when its stream is open.
    const beganAtMs = await waitFor("the streams", async () => {
      const atMs = Date.now();
      await docker("node", "update", "--availability", "pause", "h3");
      await docker("node", "update", "--availability", "active", "h3");
      return has(all, "node", "update", { name: "h3", "availability.new": "active" }) && atMs;
    });
    await create("ev", ["--constraint", "node.hostname==h2"], "sleep 3600");
    await waitFor("the container's event", () => has(all, "container", "start", {}));
    await docker("service", "scale", "-d", "ev=2");
    await docker("service", "rm", "ev");
    await waitFor("the removal", () => has(all, "service", "remove", { name: "ev" }));
    expect(has(all, "service", "create", { name: "ev" })).toBe(true);
    const scaled = { name: "ev", "replicas.old": "1", "replicas.new": "2" };
    expect(has(all, "service", "update", scaled)).toBe(true);
    expect(events(ofContainer).every((event) => event.Type === "container")).toBe(true);
    expect(has(ofContainer, "container", "start", {})).toBe(true);
    expect(events(ofWorker).some((event) => event.scope === "swarm")).toBe(false);

    const past = await docker(
      ...words(`events --since ${beganAtMs / 1_000} --until ${Date.now() / 1_000}`),
      ...words("--filter type=service --format"),
      "{{.Action}} {{.Actor.Attributes.name}}",
    );
    expect(lines(past)).toContain("create ev");
    expect(lines(past).at(-1)).toBe("remove ev");
  }, 90_000);

  test("a node that is away is named, and its lines come when it is back", async () => {
    await lab.host(3).cutOff();
    await waitFor("the node to be down", async () =>
      (await docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}")).includes("h3 Down"),
    );
    const id = await docker("node", "inspect", "h3", "--format", "{{.ID}}");
    const sentence = `warning: incomplete log stream. some logs could not be retrieved for the following reasons: node ${id} is not available`;
    const whole = await asked().tryRun(["docker", "service", "logs", "all"]);
    expect(whole.code).not.toBe(0);
    expect(whole.stderr).toContain(sentence);
    expect(new Set(lines(whole.stdout).map(hostOf))).toEqual(new Set(["h1", "h2"]));

    const log = watch(2, "service", "logs", "--follow", "some");
    await waitFor("the node to be named", () => log.err().some((l) => l.endsWith(sentence)));
    await waitFor("the others' lines", () => new Set(log.out().map(hostOf)).size >= 2);
    expect(log.out().some((line) => hostOf(line) === "h3")).toBe(false);
    await lab.host(3).reconnect();
    await waitFor("the node's lines", () => log.out().some((line) => hostOf(line) === "h3"));
  }, 90_000);

  test("--follow goes on after its leader is gone, no line twice and none left out", async () => {
    await docker("node", "promote", "h3");
    await waitFor("three managers", async () => {
      const text = await docker("node", "ls", "--format", "{{.ManagerStatus}}");
      return lines(text).length === 3 && lines(text).every((l) => l !== "");
    });
    const log = watch(2, "service", "logs", "--follow", "--tail", "1", "some");
    const from2 = () => log.out().filter((line) => hostOf(line) === "h2");
    await waitFor("lines", () => from2().length > 1);
    await lab.host(1).killAgent("SIGKILL");
    const before = from2().length;
    await waitFor("lines after it", () => from2().length > before + 20, { timeoutMs: 40_000 });
    const numbers = from2().map((line) => Number(line.split(" | line ")[1]));
    expect(numbers).toEqual(numbers.map((_, at) => (numbers[0] ?? 0) + at));
  }, 90_000);
});
