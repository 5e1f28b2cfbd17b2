/** Services of runtime plugin: the engine's plugin, from a registry with credentials, on every node. */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type Registry, startRegistry } from "../../scripts/lab/registry.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";
import { writePlugin } from "./lab-plugin.ts";

let lab: Lab;
let registry: Registry;
let auth = "";
const docker = (line: string, ...more: string[]) => lab.host(1).docker(...line.split(" "), ...more);
/** `name enabled from variables` of the plugins of a host. */
async function pluginsOf(host: number): Promise<string[]> {
  const answer = await fetch("http://d/plugins", { unix: lab.host(host).engineSocket() });
  // The engine's own answer.
  const listed = (await answer.json()) as {
    Name: string;
    Enabled: boolean;
    PluginReference: string;
    Settings: { Env: string[] };
  }[];
  return listed.map(({ Name, Enabled, PluginReference, Settings }) =>
    [Name, Enabled, PluginReference, ...Settings.Env].join(" "),
  );
}
const untilPlugins = (host: number, wanted: (string | RegExp)[]) =>
  waitFor(
    `host ${host} to have ${wanted.length} plugins`,
    async () => {
      const found = await pluginsOf(host);
      const isSo = (one: string, by: string | RegExp | undefined) =>
        typeof by === "string" ? one === by : by?.test(one) === true;
      return found.length === wanted.length && found.every((one, i) => isSo(one, wanted[i]));
    },
    { timeoutMs: 30_000 },
  );
const privileges = [
  { name: "network", value: ["host"] },
  { name: "capabilities", value: ["CAP_NET_ADMIN"] },
];
async function call(path: string, body?: unknown): Promise<{ status: number; body: unknown }> {
  const answer = await fetch(`http://d${path}`, {
    unix: lab.host(1).agentSocket(),
    headers: { "content-type": "application/json", "x-registry-auth": auth },
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: await answer.json() };
}
const service = (set: Record<string, unknown>, more: Record<string, unknown> = {}) => ({
  Name: "driver",
  TaskTemplate: {
    Runtime: "plugin",
    PluginSpec: { name: "driver", remote: `${registry.address}/lab:1`, privileges, ...set },
  },
  ...more,
});
async function update(set: Record<string, unknown>): Promise<void> {
  // The API's own answer.
  const found = (await call("/services/driver")).body as { Version: { Index: number } };
  const answer = await call(`/services/driver/update?version=${found.Version.Index}`, service(set));
  expect(answer.status).toBe(200);
}

describeLab("plugin services", { hosts: 2, agents: true, tools: ["docker-registry"] }, (made) => {
  beforeAll(async () => {
    lab = made();
    registry = await startRegistry(lab);
    const { address, user, password } = registry;
    auth = btoa(JSON.stringify({ username: user, password, serveraddress: address }));
    await docker(`login --username ${user} --password ${password} ${address}`);
    for (const version of ["1", "2"]) {
      const dir = join(lab.dir, `plugin-${version}`);
      writePlugin(dir, version);
      const name = `${address}/lab:${version}`;
      await docker(`plugin create ${name} ${dir}`);
      await docker(`plugin push ${name}`);
      await docker(`plugin rm ${name}`);
    }
    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    const token = await docker("swarm join-token -q worker");
    await lab.host(2).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
  }, 60_000);

  test("privileges that are not granted are told, and none are taken", async () => {
    const body = service({ privileges: [{ name: "network", value: ["host"] }] });
    expect((await call("/services/create", body)).status).toBe(201);
    const error = await waitFor("the refusal", async () => {
      const shown = await docker("service ps driver --no-trunc --format", "{{.Error}}");
      return /incorrect privileges.*/.exec(shown)?.[0];
    });
    expect(error).toContain("also wants capabilities [CAP_NET_ADMIN]");
    expect(await pluginsOf(1)).toEqual([]);
    await docker("service rm driver");
  }, 60_000);

  test("every node has it, enabled, with its settings", async () => {
    const answer = await call("/services/create", service({ env: ["COLOUR=blue"] }));
    expect(answer.status).toBe(201);
    const wanted = `driver:latest true ${registry.address}/lab:1 COLOUR=blue VERSION=1`;
    for (const host of [1, 2]) await untilPlugins(host, [wanted]);
    await waitFor("both tasks to run", async () =>
      (await docker("service ls --format", "{{.Mode}} {{.Replicas}}")).includes("global 2/2"),
    );
    // So tasks that want the driver find these nodes.
    const drivers = "{{range .Description.Engine.Plugins}}{{.Type}}/{{.Name}} {{end}}";
    for (const node of ["h1", "h2"]) {
      await waitFor(`the driver of ${node}`, async () =>
        (await docker(`node inspect ${node} --format`, drivers)).includes("Volume/driver:latest"),
      );
    }
    const shown = (await call("/services/driver")).body;
    expect(shown).toMatchObject({
      Spec: { Mode: { Global: {} }, TaskTemplate: { PluginSpec: { name: "driver" } } },
    });
    const logs = await lab.host(1).tryRun(["docker", "service", "logs", "driver"]);
    expect(logs.stderr).toContain("only supported on container tasks");
  }, 60_000);

  test("an agent that restarts, and a plugin disabled by hand, end as wanted", async () => {
    await lab.host(2).killAgent("SIGKILL");
    await lab.host(2).startAgent();
    const ids = await docker("service ps driver -q --filter node=h2");
    await docker("swarm update --task-history-limit 0");
    await lab.host(1).engine("plugin", "disable", "-f", "driver");
    await untilPlugins(1, [/^driver:latest false/]);
    await untilPlugins(1, [/^driver:latest true/]);
    // Nobody remembers the task that installed it: the plugin is that of the next one.
    await waitFor(
      "the ended task to be gone",
      async () => (await docker("service ps driver -q")).split("\n").length === 2,
    );
    expect(await docker("service ps driver -q --filter node=h2")).toBe(ids);
  }, 60_000);

  test("an update gives another version and other settings, or leaves it disabled", async () => {
    await update({ remote: `${registry.address}/lab:2`, env: ["COLOUR=red"] });
    for (const host of [1, 2]) {
      await untilPlugins(host, [/^driver:latest true .*lab:2 COLOUR=red VERSION=[12]$/]);
    }
    await update({ remote: `${registry.address}/lab:2`, env: ["COLOUR=red"], disabled: true });
    for (const host of [1, 2]) await untilPlugins(host, [/^driver:latest false .*lab:2 /]);
    await waitFor("both tasks to run", async () =>
      (await docker("service ls --format", "{{.Replicas}}")).includes("2/2"),
    );
  }, 60_000);

  test("what a user has installed is left alone, and what a service has goes with it", async () => {
    await docker("service rm driver");
    for (const host of [1, 2]) await untilPlugins(host, []);
    await docker(`plugin install --grant-all-permissions --alias driver ${registry.address}/lab:1`);
    await call("/services/create", service({}, { Name: "other" }));
    await untilPlugins(2, [/^driver:latest true/]);
    await waitFor("the refusal on host 1", async () =>
      (await docker("service ps other --no-trunc")).includes("plugin already exists: driver"),
    );
    await docker("service rm other");
    await untilPlugins(2, []);
    await untilPlugins(1, [/^driver:latest true/]);
  }, 60_000);
});
