/**
 * Images from a registry with credentials (Debian's docker-registry, scripts/lab/registry.ts), by the
 * stock docker CLI. h1 is the manager, h2 a worker on which nobody ever logged in. The tests build on
 * each other, in order, in one lab.
 */
import { beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { type Registry, startRegistry } from "../../scripts/lab/registry.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
let registry: Registry;
/** `<address>/app`. */
let repository = "";

const docker = (...args: string[]) => lab.host(1).docker(...args);
const engine = (...args: string[]) => lab.host(1).engine(...args);
const lines = (text: string) => text.split("\n").filter((line) => line !== "");

/** Gives `tag` in the registry to the lab's image of that version; returns its digest. */
async function push(version: 1 | 2, tag: string): Promise<string> {
  const name = `${repository}:${tag}`;
  await engine("tag", version === 1 ? "lab:latest" : "lab:2", name);
  const output = await engine("push", name);
  // The pusher forgets it: it shall have to pull like everybody else.
  await engine("rmi", name);
  const digest = /digest: (sha256:[0-9a-f]{64})/.exec(output)?.[1];
  if (digest === undefined) throw new Error(`No digest in "${output}"`);
  return digest;
}

type Task = {
  ID: string;
  DesiredState: string;
  Spec: { ContainerSpec: { Image: string } };
  Status: { State: string; Err?: string };
};
async function tasksOf(service: string): Promise<Task[]> {
  const filters = encodeURIComponent(JSON.stringify({ service: [service] }));
  const answer = await fetch(`http://lab/tasks?filters=${filters}`, {
    unix: lab.host(1).agentSocket(),
  });
  // The agent's own answer, whose form the API tests check.
  return (await answer.json()) as Task[];
}
const errorsOf = async (service: string) =>
  (await tasksOf(service))
    .filter((task) => task.Status.State === "rejected")
    .map((task) => task.Status.Err ?? "");

/** `LAB_VERSION` of each running container of the service: the image that really runs. */
async function versionsOf(service: string): Promise<string[]> {
  const versions: string[] = [];
  for (const host of lab.hosts) {
    const filter = `label=com.docker.swarm.service.name=${service}`;
    for (const id of lines(await host.engine("ps", "-q", "--filter", filter))) {
      const env = await host.engine("inspect", "--format", "{{json .Config.Env}}", id);
      versions.push(/LAB_VERSION=(\d)/.exec(env)?.[1] ?? "?");
    }
  }
  return versions;
}
const untilVersions = (service: string, wanted: string[]) =>
  waitFor(
    `${service} to run versions ${wanted.join(", ")}`,
    async () => Bun.deepEquals(await versionsOf(service), wanted),
    { timeoutMs: 30_000 },
  );
const updateIs = (service: string, state: string) =>
  waitFor(
    `the update of ${service} to be ${state}`,
    async () =>
      (await docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", service)) ===
      state,
    { timeoutMs: 30_000 },
  );

const quick = ["--update-monitor", "1s", "--stop-grace-period", "1s"];
/** One task on each host. */
const spread = ["--replicas", "2", "--replicas-max-per-node", "1", ...quick];

describeLab("registry", { hosts: 2, agents: true, tools: ["docker-registry"] }, (made) => {
  beforeAll(async () => {
    lab = made();
    registry = await startRegistry(lab);
    repository = `${registry.address}/app`;
    await docker("swarm", "init");
    const token = await docker("swarm", "join-token", "-q", "worker");
    await lab.host(2).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    await waitFor("two ready nodes", async () => {
      const states = lines(await docker("node", "ls", "--format", "{{.Status}}"));
      return states.length === 2 && states.every((state) => state === "Ready");
    });
    const login = ["login", "--username", registry.user, "--password", registry.password];
    await docker(...login, registry.address);
  }, 60_000);

  test("a stack is deployed by digest, with credentials that only nodes see", async () => {
    const digest = await push(1, "stable");
    const compose = JSON.stringify({
      version: "3.8",
      services: {
        web: {
          image: `${repository}:stable`,
          stop_grace_period: "1s",
          deploy: {
            replicas: 2,
            placement: { max_replicas_per_node: 1 },
            update_config: { parallelism: 0, monitor: "1s" },
            rollback_config: { parallelism: 0, monitor: "1s" },
          },
        },
      },
    });
    await lab.host(1).run(["sh", "-c", `printf '%s' '${compose}' > /etc/stack.json`]);
    await docker("stack", "deploy", "--with-registry-auth", "-c", "/etc/stack.json", "shop");
    await untilVersions("shop_web", ["1", "1"]);
    const tasks = await tasksOf("shop_web");
    expect(tasks.map((task) => task.Spec.ContainerSpec.Image)).toEqual(
      Array(2).fill(`${repository}:stable@${digest}`),
    );
    // Both engines have it by its digest; h2 got it with credentials it was sent.
    for (const host of lab.hosts) {
      expect(await host.engine("images", "--digests", "--format", "{{.Digest}}")).toContain(digest);
    }
    const config = await lab.host(1).run(["sh", "-c", "cat $DOCKER_CONFIG/config.json"]);
    const secret = /"auth": "([^"]+)"/.exec(config)?.[1] ?? "?";
    const shown = [
      await docker("service", "inspect", "shop_web"),
      JSON.stringify(tasks),
      await docker("inspect", ...tasks.map((task) => task.ID)),
      await docker("events", "--since", "10m", "--until", "0s"),
      ...lab.hosts.map((host) => host.agentLog()),
    ].join("\n");
    expect(shown).toContain(digest);
    for (const word of ["PullOptions", "RegistryAuth", registry.password, secret]) {
      expect(shown).not.toContain(word);
    }
  }, 60_000);

  test("a moved tag is followed by the next deploy, and left again by a rollback without the registry", async () => {
    const moved = await push(2, "stable");
    await docker("stack", "deploy", "--with-registry-auth", "-c", "/etc/stack.json", "shop");
    await untilVersions("shop_web", ["2", "2"]);
    await updateIs("shop_web", "completed");
    const image = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
    expect(await docker("service", "inspect", "--format", image, "shop_web")).toEndWith(moved);
    await registry.stop();
    await docker("service", "rollback", "-d", "shop_web");
    await untilVersions("shop_web", ["1", "1"]);
    await updateIs("shop_web", "rollback_completed");
    // Nothing was rejected on the way: the images were there.
    expect(await errorsOf("shop_web")).toEqual([]);
    await registry.start();
    await docker("stack", "rm", "shop");
  }, 60_000);

  test("a bare tag is asked for again by a forced update, and what is there runs without the registry", async () => {
    await push(1, "moving");
    const name = `${repository}:moving`;
    const flags = ["-d", "--no-resolve-image", "--with-registry-auth", "--name", "tag", ...spread];
    await docker("service", "create", ...flags, "--update-parallelism", "0", name);
    await untilVersions("tag", ["1", "1"]);
    await push(2, "moving");
    await docker("service", "update", "-d", "--force", "tag");
    await untilVersions("tag", ["2", "2"]);
    await updateIs("tag", "completed");
    await registry.stop();
    const before = (await tasksOf("tag")).map((task) => task.ID);
    await docker("service", "update", "-d", "--force", "tag");
    await waitFor("new tasks to run", async () => {
      const tasks = await tasksOf("tag");
      const fresh = tasks.filter((task) => !before.includes(task.ID));
      return fresh.filter((task) => task.Status.State === "running").length === 2;
    });
    expect(await versionsOf("tag")).toEqual(["2", "2"]);
    await registry.start();
    await docker("service", "rm", "tag");
  }, 60_000);

  test("failed pulls are told in the engine's words, tried again by the policy, and mended by an update", async () => {
    await push(1, "private");
    // Nobody's credentials, and somebody's wrong ones.
    const wrong = Buffer.from(
      JSON.stringify({ username: registry.user, password: "x", serveraddress: registry.address }),
    ).toString("base64url");
    const create = (name: string, image: string, headers: Record<string, string>, delay: string) =>
      fetch("http://lab/services/create", {
        method: "POST",
        unix: lab.host(1).agentSocket(),
        headers,
        body: JSON.stringify({
          Name: name,
          Mode: { Replicated: { Replicas: 1 } },
          TaskTemplate: {
            ContainerSpec: { Image: image },
            RestartPolicy: { Condition: "any", Delay: Number(delay) },
          },
        }),
      }).then((answer) => expect(answer.status).toBe(201));
    const [hundredMs, hour] = ["100000000", "3600000000000"];
    const image = `${repository}:private`;
    await create("nobody", image, {}, hundredMs);
    await create("wrong", image, { "X-Registry-Auth": wrong }, hour);
    const absent = ["-d", "--with-registry-auth", "--restart-delay", "100ms", "--name", "absent"];
    await docker("service", "create", ...absent, `${repository}:nosuch`);
    for (const [name, tries, reason] of [
      ["nobody", 3, /^No such image: \S+:private \(pull: .*no basic auth credentials\)$/],
      [
        "wrong",
        1,
        /^No such image: \S+:private \(pull: .*unauthorized: authentication required\)$/,
      ],
      ["absent", 3, /^No such image: \S+:nosuch \(pull: .*manifest unknown.*\)$/],
    ] as const) {
      const errors = await waitFor(
        `${name} to be tried ${tries} times`,
        async () => {
          const found = await errorsOf(name);
          return found.length >= tries ? found : undefined;
        },
        { timeoutMs: 20_000 },
      );
      for (const error of errors) expect(error).toMatch(reason);
    }
    expect(await docker("service", "ps", "--no-trunc", "absent")).toContain("manifest unknown");
    // The right credentials alone make new tasks at once, whatever the restart delay.
    await docker("service", "update", "-d", "--with-registry-auth", "wrong");
    await untilVersions("wrong", ["1"]);
    // What is missing may come later.
    await push(1, "nosuch");
    await untilVersions("absent", ["1"]);
    await docker("service", "rm", "nobody", "wrong", "absent");
  }, 60_000);
});
