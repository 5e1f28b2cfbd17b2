/**
 * A stateful service on real engines, by the stock docker CLI: its slots keep node, name, address and
 * volume. The tests build on each other: h1 is the manager, h2 and h3 are workers, `db` has a slot on each.
 */
import { beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
const docker = (...args: string[]) => lab.host(1).docker(...args);

/** Its slot's name is written down once; a slot that came to another volume would say so for ever. */
const PROGRAM = `
trap 'exit 0' TERM
[ -e /data/identity ] || echo "$SLOT on $NODE" > /data/identity
echo "$(hostname) starts" >> /data/starts
while :; do sleep 1 & wait $!; done`;

type Task = {
  ID: string;
  Slot: number;
  NodeID: string;
  DesiredState: string;
  Status: { State: string; Err?: string; ContainerStatus?: { ContainerID: string } };
  NetworksAttachments?: { Addresses?: string[] }[];
};

/** The wanted task of each slot. */
async function wantedTasks(): Promise<Map<number, Task>> {
  const filters = encodeURIComponent(JSON.stringify({ service: ["db"] }));
  const unix = lab.host(1).agentSocket();
  const answer = await fetch(`http://lab/tasks?filters=${filters}`, { unix });
  // The agent's own answer, whose form the API tests check.
  const tasks = (await answer.json()) as Task[];
  const wanted = tasks.filter(({ DesiredState }) => ["running", "ready"].includes(DesiredState));
  return new Map(wanted.map((task) => [task.Slot, task]));
}

const containerOf = (task: Task | undefined) => task?.Status.ContainerStatus?.ContainerID ?? "";
const errOf = (tasks: Map<number, Task>, slot: number) => tasks.get(slot)?.Status.Err ?? "";

/** Node and address of each slot, once `count` of them run. */
async function placesOf(count: number): Promise<Record<number, string>> {
  return waitFor(
    `${count} slots to run`,
    async () => {
      const tasks = await wantedTasks();
      const all = [...tasks.values()];
      if (all.length === count && all.every(({ Status }) => Status.State === "running")) {
        const place = ({ Slot, NodeID, NetworksAttachments = [] }: Task) =>
          [Slot, `${NodeID} ${NetworksAttachments[0]?.Addresses?.[0]}`] as const;
        return Object.fromEntries(all.map(place));
      }
      throw new Error(
        all.map(({ Slot, Status }) => `${Slot} ${Status.State} ${Status.Err}`).join("; "),
      );
    },
    { timeoutMs: 30_000, intervalMs: 100 },
  );
}

async function hostOf(task: Task | undefined) {
  for (const host of lab.hosts) {
    const id = await host.docker("info", "--format", "{{.Swarm.NodeID}}");
    if (id === task?.NodeID) return host;
  }
  throw new Error(`No host has task ${task?.ID}`);
}

async function inSlot(slot: number, ...command: string[]): Promise<string> {
  const task = (await wantedTasks()).get(slot);
  return (await hostOf(task)).engine("exec", containerOf(task), ...command);
}

/** What `shoal slots` says to what it does not do. */
async function refusalOf(...args: string[]): Promise<string> {
  const { code, stderr } = await lab.host(1).tryRun(["shoal", "slots", ...args]);
  expect(code).toBe(1);
  return stderr;
}

const nodeIs = (name: string, state: string) =>
  waitFor(
    `${name} to be ${state}`,
    async () =>
      (await docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}"))
        .split("\n")
        .includes(`${name} ${state}`),
    { timeoutMs: 60_000, intervalMs: 200 },
  );

describeLab("stateful services", { hosts: 3, agents: true }, (made) => {
  /** Where the slots were first. */
  let homes: Record<number, string>;

  beforeAll(async () => {
    lab = made();
    await docker("swarm", "init");
    const token = await docker("swarm", "join-token", "-q", "worker");
    const to = `${lab.host(1).address}:2377`;
    for (const worker of [2, 3]) {
      await lab.host(worker).docker("swarm", "join", "--token", token, to);
    }
    await Promise.all([nodeIs("h2", "Ready"), nodeIs("h3", "Ready")]);
    await docker("swarm", "update", "--dispatcher-heartbeat", "1s");
    await docker("network", "create", "-d", "overlay", "--attachable", "net");
    const options =
      "--detach --no-resolve-image --name db --replicas 3 --label shoal.stateful=true --network net " +
      "--mount type=volume,source=data-{{.Task.Slot}},target=/data --env SLOT={{.Task.Slot}} " +
      "--env NODE={{.Node.Hostname}} --restart-delay 200ms --update-monitor 500ms lab:latest";
    await docker("service", "create", ...options.split(" "), "sh", "-c", PROGRAM);
  }, 60_000);

  test("three slots on three nodes have their names as hostnames, and are found by them", async () => {
    homes = await placesOf(3);
    expect(new Set(Object.values(homes).map((home) => home.split(" ")[0])).size).toBe(3);
    for (const slot of [1, 2, 3]) {
      expect(await inSlot(slot, "hostname")).toBe(`db-${slot}`);
      expect(await inSlot(slot, "cat", "/data/identity")).toMatch(new RegExp(`^${slot} on h\\d$`));
      const address = homes[slot]?.split(" ")[1]?.split("/")[0] ?? "?";
      expect(await inSlot(1, "nslookup", `db-${slot}`)).toContain(address);
    }
  }, 40_000);

  test("a slot whose container dies has the same node, address and volume", async () => {
    const before = (await wantedTasks()).get(2);
    await (await hostOf(before)).engine("kill", containerOf(before));
    await waitFor("another task", async () => (await wantedTasks()).get(2)?.ID !== before?.ID);
    expect(await placesOf(3)).toEqual(homes);
    expect(await inSlot(2, "cat", "/data/starts")).toBe("db-2 starts\ndb-2 starts");
    expect(await inSlot(2, "cat", "/data/identity")).toStartWith("2 on ");
  }, 40_000);

  test("an update goes from the highest slot to the lowest and moves none", async () => {
    const before = await wantedTasks();
    await docker("service", "update", "--detach", "--env-add", "VERSION=2", "db");
    const order: number[] = [];
    await waitFor(
      "all slots to be updated",
      async () => {
        for (const [slot, { ID }] of await wantedTasks()) {
          if (ID !== before.get(slot)?.ID && !order.includes(slot)) order.push(slot);
        }
        return order.length === 3;
      },
      { timeoutMs: 40_000, intervalMs: 50 },
    );
    expect(order).toEqual([3, 2, 1]);
    expect(await placesOf(3)).toEqual(homes);
    expect(await inSlot(3, "cat", "/data/starts")).toBe("db-3 starts\ndb-3 starts");
  }, 60_000);

  test("scaled from 3 to 1 to 3, the slots are where they were, with their data", async () => {
    await docker("service", "scale", "--detach", "db=1");
    expect(await placesOf(1)).toEqual({ 1: homes[1] ?? "" });
    await docker("service", "scale", "--detach", "db=3");
    expect(await placesOf(3)).toEqual(homes);
    expect(await inSlot(2, "cat", "/data/identity")).toStartWith("2 on ");
    expect(await inSlot(3, "cat", "/data/starts")).toBe("db-3 starts\ndb-3 starts\ndb-3 starts");
  }, 60_000);

  test("a slot whose host is away is not replaced, and its container serves again", async () => {
    const before = await wantedTasks();
    const away = lab.host(3);
    const id = await away.docker("info", "--format", "{{.Swarm.NodeID}}");
    const lost = [...before.values()].find(({ NodeID }) => NodeID === id);
    if (!lost) throw new Error("h3 has no slot");
    await away.killAgent("SIGKILL");
    await away.stopDockerd();
    await nodeIs("h3", "Down");
    // The others go on: one of them dies, and is replaced where it was.
    const other = [...before.values()].find(({ NodeID }) => NodeID !== id);
    await (await hostOf(other)).engine("kill", containerOf(other));
    await waitFor(
      "the other slot's next task",
      async () => {
        const task = (await wantedTasks()).get(other?.Slot ?? 0);
        return task?.ID !== other?.ID && task?.Status.State === "running";
      },
      { timeoutMs: 20_000 },
    );
    expect((await wantedTasks()).get(lost.Slot)?.ID).toBe(lost.ID);
    await away.startDockerd();
    await away.startAgent();
    await nodeIs("h3", "Ready");
    expect(await placesOf(3)).toEqual(homes);
    const back = (await wantedTasks()).get(lost.Slot);
    expect([back?.ID, containerOf(back)]).toEqual([lost.ID, containerOf(lost)]);
    const running = await away.engine("ps", "--no-trunc", "--format", "{{.ID}}");
    expect(running.split("\n")).toContain(containerOf(lost));
  }, 90_000);

  test("a slot whose home is drained waits there and says so, and returns with it", async () => {
    const id = await lab.host(2).docker("info", "--format", "{{.Swarm.NodeID}}");
    const { Slot = 0 } = [...(await wantedTasks()).values()].find((one) => one.NodeID === id) ?? {};
    await docker("node", "update", "--availability", "drain", "h2");
    const said = await waitFor(
      "the slot to wait",
      async () => {
        const err = errOf(await wantedTasks(), Slot);
        return err.includes("lives on") ? err : undefined;
      },
      { timeoutMs: 20_000 },
    );
    expect(said).toStartWith(
      `slot ${Slot} lives on node h2, which is drained: activate it, or give the slot another home (`,
    );
    expect((await wantedTasks()).size).toBe(3);
    const other = String((Slot % 3) + 1);
    expect(await refusalOf("move", "db", other, "--node", "h2")).toContain(
      "cannot move to h2: its availability is drain",
    );
    await docker("node", "update", "--availability", "active", "h2");
    expect(await placesOf(3)).toEqual(homes);
    expect(await inSlot(Slot, "cat", "/data/identity")).toBe(`${Slot} on h2`);
  }, 60_000);

  test("a slot that is given another home goes there with its name and address", async () => {
    const id = await lab.host(1).docker("info", "--format", "{{.Swarm.NodeID}}");
    const slot = [2, 3].find((number) => !homes[number]?.startsWith(id)) ?? 0;
    await lab.host(1).run(["shoal", "slots", "move", "db", String(slot), "--node", "h1"]);
    const address = homes[slot]?.split(" ")[1];
    homes = { ...homes, [slot]: `${id} ${address}` };
    await waitFor("the slot on h1", async () => (await wantedTasks()).get(slot)?.NodeID === id);
    expect(await placesOf(3)).toEqual(homes);
    expect(await inSlot(slot, "hostname")).toBe(`db-${slot}`);
    // A volume of its own: data is not moved.
    expect(await inSlot(slot, "cat", "/data/identity")).toBe(`${slot} on h1`);
  }, 40_000);

  test("a slot that is scaled away is forgotten when its user says so", async () => {
    expect(await refusalOf("forget", "db", "3")).toContain("it is wanted");
    await docker("service", "scale", "--detach", "db=2");
    await waitFor("slot 3 to be gone", async () => {
      await lab.host(1).run(["shoal", "slots", "forget", "db", "3"]);
      return true;
    });
    expect(await lab.host(1).run(["shoal", "slots", "ls", "db"])).not.toContain("db-3");
  }, 30_000);

  test("a slot's room is nobody else's while it waits, and it does not move to where there is none", async () => {
    const options =
      "--detach --no-resolve-image --stop-grace-period 100ms --publish mode=host,published=9999,target=9999";
    const create = (...args: string[]) =>
      docker("service", "create", ...options.split(" "), ...args, "lab:latest", "sleep", "600");
    const line = async (name: string) => {
      const format = "{{.Node}}|{{.CurrentState}}|{{.Error}}";
      const lines = await docker("service", "ps", "--no-trunc", "--format", format, name);
      const [node = "", state = "", error = ""] = lines.split("\n")[0]?.split("|") ?? [];
      return { node, isRunning: state.startsWith("Running"), error };
    };
    const runs = (name: string) =>
      waitFor(`${name} to run`, async () => {
        const { node, isRunning } = await line(name);
        return isRunning && node;
      });
    await create("--name", "solo", "--label", "shoal.stateful=true");
    const home = await runs("solo");
    await create("--name", "rival");
    expect(await refusalOf("move", "solo", "1", "--node", await runs("rival"))).toContain(
      "port 9999/tcp of the host is rival.1.",
    );
    const update = (...args: string[]) => docker("service", "update", "--detach", ...args);
    await update("--constraint-add", "node.labels.none==1", "solo");
    await waitFor("solo to wait", async () => (await line("solo")).error.includes("lives on"));
    await update("--constraint-add", `node.hostname==${home}`, "rival");
    const why = () => lab.host(1).run(["shoal", "why", "rival"]);
    const reason = "port 9999/tcp of the host is slot 1 of solo's";
    await waitFor("rival to wait for the slot", async () => (await why()).includes(reason));
    await update("--constraint-rm", "node.labels.none==1", "solo");
    expect(await runs("solo")).toBe(home);
  }, 40_000);
});
