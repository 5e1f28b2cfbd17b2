/**
 * `docker stack` by the stock CLI with a compose file that uses most of what compose has. h1 is the
 * manager, h2 a worker. The tests build on each other, in order, in one lab.
 */
import { beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
const docker = (...args: string[]) => lab.host(1).docker(...args);
const lines = (text: string) => text.split("\n").filter((line) => line !== "");

type Compose = Record<"services" | "networks" | "secrets" | "configs" | "volumes", Parts>;
type Parts = Record<string, Record<string, unknown>>;

/** The command of the job. */
const JOB = ["sh", "-c", "wget -q -O - http://db/ && echo migrated"];

/** What the first deploy is of; later ones change it. */
function compose(): Compose & { version: string } {
  const quick = { parallelism: 2, monitor: "1s" };
  return {
    version: "3.9",
    services: {
      web: {
        image: "lab:latest",
        hostname: "{{.Service.Name}}-{{.Task.Slot}}",
        environment: { TASK: "{{.Task.Name}}", LEVEL: "one" },
        labels: { tier: "front" },
        networks: { front: {}, back: { aliases: ["site"] } },
        ports: [{ target: 80, published: 8081 }],
        secrets: [{ source: "password", target: "db-password", mode: 0o400, uid: "1000" }],
        configs: [{ source: "motd", target: "/www/motd.txt" }],
        healthcheck: {
          test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"],
          interval: "500ms",
          timeout: "2s",
          retries: 3,
        },
        stop_grace_period: "1s",
        deploy: {
          replicas: 3,
          labels: { "com.example.owner": "shop" },
          endpoint_mode: "vip",
          placement: {
            preferences: [{ spread: "node.labels.zone" }],
            max_replicas_per_node: 2,
          },
          resources: { reservations: { cpus: "0.01", memory: "8M" }, limits: { memory: "64M" } },
          update_config: { ...quick, order: "start-first", failure_action: "rollback" },
          rollback_config: quick,
          restart_policy: { condition: "on-failure", delay: "200ms" },
        },
      },
      db: {
        image: "lab:latest",
        command: ["sh", "-c", "echo kept > /data/file; exec serve"],
        networks: ["back"],
        volumes: ["data:/data", { type: "tmpfs", target: "/scratch" }],
        stop_grace_period: "1s",
        deploy: { placement: { constraints: ["node.hostname == h2"] }, endpoint_mode: "dnsrr" },
      },
      agent: {
        image: "lab:latest",
        networks: ["back"],
        stop_grace_period: "1s",
        deploy: { mode: "global" },
      },
      migrate: {
        image: "lab:latest",
        command: JOB,
        networks: ["back"],
        deploy: {
          mode: "replicated-job",
          restart_policy: { condition: "on-failure", delay: "1s" },
        },
      },
    },
    networks: { front: {}, back: { internal: true, labels: { kind: "inner" } } },
    secrets: { password: { file: "./password" } },
    configs: { motd: { file: "./motd" } },
    volumes: { data: {} },
  };
}

async function deploy(file: Compose, ...flags: string[]): Promise<void> {
  const path = "/etc/shop/stack.json";
  const command = ["docker", "stack", "deploy", ...flags, "--resolve-image", "never", "-c", path];
  const { migrate, ...others } = file.services;
  for (const services of [file.services, others]) {
    const stdin = JSON.stringify({ ...file, services });
    await lab.host(1).run(["sh", "-c", `cat > ${path}`], { stdin });
    const { code, stderr } = await lab.host(1).tryRun([...command, "shop"]);
    if (code === 0) break;
    // The CLI 20.10 knows jobs as services, but not in stacks.
    if (!migrate || !stderr.includes("Unknown mode: replicated-job")) throw new Error(stderr);
  }
  if (!migrate || (await docker("service", "ls", "-q", "--filter", "name=shop_migrate")) !== "")
    return;
  const labels = ["--label", "com.docker.stack.namespace=shop"];
  const rules = ["--mode", "replicated-job", "--restart-delay", "1s", "--network", "shop_back"];
  const names = ["-d", "--no-resolve-image", "--name", "shop_migrate", ...labels];
  await docker("service", "create", ...names, ...rules, "lab:latest", ...JOB);
}
const replicas = async () =>
  Object.fromEntries(
    lines(await docker("stack", "services", "--format", "{{.Name}} {{.Replicas}}", "shop")).map(
      (line) => [line.split(" ")[0] ?? "", line.slice(line.indexOf(" ") + 1)],
    ),
  );
const untilReplicas = (wanted: Record<string, string>) =>
  waitFor(
    JSON.stringify(wanted),
    async () => {
      const found = await replicas();
      if (Bun.deepEquals(found, wanted)) return true;
      throw new Error(JSON.stringify(found));
    },
    { timeoutMs: 40_000 },
  );
const inspect = async (what: string, name: string) =>
  // The agent's own answer, whose form the API tests check.
  (JSON.parse(await docker(what, "inspect", name)) as [Record<string, never>])[0];
/** Output of a command in one running container of the service, and the host it is on. */
async function inTask(service: string, ...command: string[]): Promise<string> {
  for (const host of lab.hosts) {
    const filter = `label=com.docker.swarm.service.name=${service}`;
    const [id] = lines(await host.engine("ps", "-q", "--filter", filter));
    if (id !== undefined) return host.engine("exec", id, ...command);
  }
  throw new Error(`No container of ${service} runs`);
}
const updateState = (service: string) =>
  docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", service);

const DEPLOYED = {
  shop_agent: "2/2",
  shop_db: "1/1",
  shop_migrate: "0/1 (1/1 completed)",
  shop_web: "3/3 (max 2 per node)",
};

describeLab("stack", { hosts: 2, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker("swarm", "init");
    const token = await docker("swarm", "join-token", "-q", "worker");
    await lab.host(2).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    for (const i of [1, 2]) {
      await docker("node", "update", "--label-add", `zone=z${i}`, `h${i}`);
    }
    const files = "mkdir /etc/shop; cd /etc/shop; echo secret1 > password; echo hello1 > motd";
    await lab.host(1).run(["sh", "-c", files]);
  }, 60_000);

  test("deploys services, networks, secrets, configs, volumes and a job", async () => {
    await deploy(compose());
    await untilReplicas(DEPLOYED);
    expect(await docker("stack", "ls", "--format", "{{.Name}} {{.Services}}")).toBe("shop 4");
    const processes = lines(
      await docker("stack", "ps", "--format", "{{.Name}} {{.CurrentState}}", "shop"),
    );
    expect(processes.filter((line) => line.includes("Running"))).toHaveLength(6);
    expect(processes.filter((line) => /^shop_migrate\.\S+ Complete/.test(line))).toHaveLength(1);
    // What each service was given, seen from inside.
    expect(await inTask("shop_web", "cat", "/run/secrets/db-password", "/www/motd.txt")).toBe(
      "secret1\nhello1",
    );
    expect(await inTask("shop_web", "stat", "-c", "%a %u", "/run/secrets/db-password")).toBe(
      "400 1000",
    );
    expect(await inTask("shop_db", "cat", "/data/file")).toBe("kept");
    expect(await inTask("shop_web", "hostname")).toMatch(/^shop_web-[123]$/);
    expect(await docker("service", "logs", "--raw", "shop_migrate")).toContain("migrated");
    // Names: short ones and aliases in their networks only; a dnsrr service has no VIP.
    expect(await inTask("shop_agent", "wget", "-q", "-O", "-", "http://site/")).toContain(
      "task=shop_web.",
    );
    expect(await inTask("shop_web", "wget", "-q", "-O", "-", "http://db/")).toContain("client=");
    const answers = new Set<string>();
    for (let i = 0; i < 12; i += 1) {
      answers.add(await lab.client.curl(`http://${lab.host(2).address}:8081/motd.txt`));
    }
    expect([...answers]).toEqual(["hello1"]);
  }, 60_000);

  test("a deploy of the same file changes nothing", async () => {
    // But a job, which any update runs again, as in stock Swarm.
    const names = ["shop_web", "shop_db", "shop_agent"];
    const tasks = async () => lines(await docker("service", "ps", "-q", ...names)).sort();
    const before = await tasks();
    const versions = async () =>
      Promise.all(
        ["web", "db", "agent"].map(
          async (name) => (await inspect("service", `shop_${name}`))["Spec"],
        ),
      );
    const specs = await versions();
    await deploy(compose());
    await Bun.sleep(1_500);
    expect(await versions()).toEqual(specs);
    expect(await tasks()).toEqual(before);
    await untilReplicas(DEPLOYED);
  }, 60_000);

  test("a changed file is rolled out service by service, and what it no longer has is pruned", async () => {
    const file = compose();
    const { web } = file.services;
    if (web) web["environment"] = { TASK: "{{.Task.Name}}", LEVEL: "two" };
    delete file.services["agent"];
    delete file.services["migrate"];
    // Contents are immutable: new ones come under a new name.
    file.configs = { motd2: { file: "./motd2" } };
    if (web) web["configs"] = [{ source: "motd2", target: "/www/motd.txt" }];
    await lab.host(1).run(["sh", "-c", "echo hello2 > /etc/shop/motd2"]);
    const dbTask = await docker("service", "ps", "-q", "shop_db");
    await deploy(file, "--prune");
    await untilReplicas({ shop_db: "1/1", shop_web: "3/3 (max 2 per node)" });
    await waitFor("the update", async () => (await updateState("shop_web")) === "completed", {
      timeoutMs: 40_000,
    });
    expect(await inTask("shop_web", "sh", "-c", "echo $LEVEL; cat /www/motd.txt")).toBe(
      "two\nhello2",
    );
    expect(await docker("service", "ps", "-q", "shop_db")).toBe(dbTask);
  }, 60_000);

  test("a version that never gets healthy is rolled back, and the old one serves meanwhile", async () => {
    const file = compose();
    delete file.services["agent"];
    delete file.services["migrate"];
    const { web } = file.services;
    if (web) {
      web["environment"] = { TASK: "{{.Task.Name}}", LEVEL: "three" };
      web["healthcheck"] = { test: ["CMD", "false"], interval: "200ms", retries: 2 };
    }
    await deploy(file);
    const failures: string[] = [];
    await waitFor(
      "the rollback",
      async () => {
        const url = `http://${lab.host(1).address}:8081/motd.txt`;
        await lab.client.curl(url).catch((error: unknown) => failures.push(String(error)));
        return (await updateState("shop_web")) === "rollback_completed";
      },
      { timeoutMs: 40_000 },
    );
    expect(failures).toEqual([]);
    expect(await inTask("shop_web", "sh", "-c", "echo $LEVEL")).toBe("two");
  }, 60_000);

  test("an update that no node can take is paused by its progress deadline, with the reason", async () => {
    const flags = ["--label-add", "shoal.update.progress-deadline=3s", "--env-add", "LEVEL=four"];
    const nowhere = ["--constraint-add", "node.labels.zone == z9"];
    const rules = ["--update-failure-action", "pause", "--update-order", "stop-first"];
    await docker("service", "update", "-d", ...flags, ...nowhere, ...rules, "shop_db");
    await waitFor("the pause", async () => (await updateState("shop_db")) === "paused");
    expect(
      await docker("service", "inspect", "--format", "{{.UpdateStatus.Message}}", "shop_db"),
    ).toMatch(
      /^update paused due to no progress for 3s: task \w+ is pending: no suitable node \(scheduling constraints not satisfied on 2 nodes\)$/,
    );
    const refused = await lab
      .host(1)
      .tryRun([
        "docker",
        "service",
        "update",
        "-d",
        "--label-add",
        "shoal.update.progress-deadline=soon",
        "shop_db",
      ]);
    expect(refused.stderr).toContain('"soon" is no duration');
  }, 30_000);

  test("a task leaves a node that loses the label it was placed by", async () => {
    const flags = ["-d", "--no-resolve-image", "--stop-grace-period", "1s"];
    const place = ["--constraint", "node.labels.disk == ssd"];
    await docker("node", "update", "--label-add", "disk=ssd", "h1");
    await docker("service", "create", "--name", "placed", ...flags, ...place, "lab:latest");
    const runsOn = (host: string) =>
      waitFor(`placed to run on ${host}`, async () => {
        const format = "{{.Node}} {{.DesiredState}} {{.CurrentState}} {{.Error}}";
        const list = await docker("service", "ps", "--no-trunc", "--format", format, "placed");
        return list.includes(`${host} Running Running`) ? list : undefined;
      });
    await runsOn("h1");
    await docker("node", "update", "--label-add", "disk=ssd", "h2");
    await docker("node", "update", "--label-rm", "disk", "h1");
    expect(await runsOn("h2")).toContain("assigned node no longer meets constraints");
    await docker("service", "rm", "placed");
  }, 40_000);

  test("rm leaves nothing of it", async () => {
    await docker("stack", "rm", "shop");
    const left = async () => {
      const filter = ["--filter", "label=com.docker.stack.namespace=shop", "-q"];
      const found: string[] = [];
      for (const kind of ["service", "network", "secret", "config"]) {
        found.push(...lines(await docker(kind, "ls", ...filter)));
      }
      for (const host of lab.hosts) {
        found.push(...lines(await host.engine("ps", "-a", ...filter)));
      }
      return found;
    };
    await waitFor("all to be gone", async () => (await left()).length === 0, { timeoutMs: 30_000 });
    expect(await docker("stack", "ls", "--format", "{{.Name}}")).toBe("");
  }, 40_000);

  test("generic resources of an engine are handed out by name, and taken away with it", async () => {
    const restartWith = async (names: string[]) => {
      await lab.host(2).stopDockerd();
      await lab.host(2).startDockerd({ "node-generic-resources": [...names, "ssd=3"] });
      const format = "{{json .Description.Resources.GenericResources}}";
      await waitFor("the node to tell them", async () => {
        const text = await docker("node", "inspect", "--format", format, "h2");
        return names.length === (text.match(/UUID-/g) ?? []).length;
      });
    };
    const environments = async () => {
      const filter = "label=com.docker.swarm.service.name=train";
      const ids = lines(await lab.host(2).engine("ps", "-q", "--filter", filter));
      const all = await Promise.all(
        ids.map((id) => lab.host(2).engine("inspect", "--format", "{{json .Config.Env}}", id)),
      );
      return all.map((text) => /DOCKER_RESOURCE_GPU=[^"]*/.exec(text)?.[0] ?? "").sort();
    };
    await restartWith(["gpu=UUID-a", "gpu=UUID-b"]);
    const wish = ["--generic-resource", "gpu=1", "--generic-resource", "ssd=1"];
    const flags = ["-d", "--no-resolve-image", "--stop-grace-period", "1s", "--replicas", "3"];
    await docker("service", "create", "--name", "train", ...flags, ...wish, "lab:latest");
    await waitFor("two tasks", async () => (await environments()).length === 2);
    expect(await environments()).toEqual([
      "DOCKER_RESOURCE_GPU=UUID-a",
      "DOCKER_RESOURCE_GPU=UUID-b",
    ]);
    expect(await docker("service", "ps", "--no-trunc", "train")).toContain(
      "no suitable node (insufficient resources on 2 nodes)",
    );
    const ids = lines(await docker("service", "ps", "-q", "train"));
    const shown = await docker("inspect", "--format", "{{json .GenericResources}}", ...ids);
    expect(shown).toContain('{"NamedResourceSpec":{"Kind":"gpu","Value":"UUID-a"}}');
    expect(shown).toContain('{"DiscreteResourceSpec":{"Kind":"ssd","Value":1}}');
    // The device is gone: its task is stopped, and waits for another.
    await restartWith(["gpu=UUID-b"]);
    await waitFor("one task", async () =>
      Bun.deepEquals(await environments(), ["DOCKER_RESOURCE_GPU=UUID-b"]),
    );
    await docker("service", "rm", "train");
  }, 60_000);
});
