/**
 * Stacks as objects of the cluster: `shoal stack` and curl, from a compose file to answers of its service. h1 and
 * h2 are managers, h3 a worker. The tests build on each other, in order, in one lab.
 */
import { beforeAll, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
let dir = "";
const docker = (...args: string[]) => lab.host(1).docker(...args);
const lines = (text: string) => text.split("\n").filter((line) => line !== "");
const shoal = (...args: string[]) => lab.host(1).tryRun(["shoal", "stack", ...args]);
/** Of the verbs that take files. */
const withFile = (verb: string, ...more: string[]) =>
  shoal(verb, "shop", "-c", join(dir, "compose.yaml"), ...more);

const COMPOSE = `
x-quick: &quick { parallelism: 1, monitor: 500ms, failure_action: rollback }
services:
  web:
    image: lab:\${VERSION:-latest}
    environment: { TASK: "{{.Task.Slot}}" }
    ports: ["8090:80"]
    configs: [{ source: motd, target: /www/motd.txt }]
    secrets: [key]
    networks: [front, back]
    shm_size: \${SHM:-64m}
    stop_grace_period: 1s
    deploy:
      replicas: 2
      update_config: *quick
      restart_policy: { delay: 200ms }
  db:
    image: lab:latest
    networks: [back]
    stop_grace_period: 1s
networks:
  front: {}
  back: { internal: true }
configs:
  motd: { file: ./motd.txt }
secrets:
  key: { file: ./key.txt }
`;
const write = (name: string, text: string) => writeFileSync(join(dir, name), text);
const call = async (method: string, path: string, body?: string, type = "application/yaml") => {
  const answer = await fetch(`http://d${path}`, {
    unix: lab.host(2).agentSocket(),
    method,
    ...(body === undefined ? {} : { body, headers: { "content-type": type } }),
  });
  const text = await answer.text();
  return { status: answer.status, body: text === "" ? undefined : (JSON.parse(text) as unknown) };
};
const motd = (host: number) =>
  lab.host(host).run(["curl", "-s", "-m", "5", `http://${lab.host(host).address}:8090/motd.txt`]);
/** What `docker inspect` says of the containers of shop_web on the two managers. */
async function inEach(format: string): Promise<string[]> {
  const found: string[] = [];
  for (const host of [1, 2]) {
    const filter = "label=com.docker.swarm.service.name=shop_web";
    const ids = lines(await lab.host(host).engine("ps", "-q", "--filter", filter));
    for (const id of ids) found.push(await lab.host(host).engine("inspect", "-f", format, id));
  }
  return found;
}
/** The secret as a running container of shop_web has it. */
async function keyInContainer(): Promise<string> {
  for (const host of [1, 2]) {
    const filter = "label=com.docker.swarm.service.name=shop_web";
    const [id] = lines(await lab.host(host).engine("ps", "-q", "--filter", filter));
    if (id) return lab.host(host).engine("exec", id, "cat", "/run/secrets/key");
  }
  throw new Error("shop_web has no container");
}
const names = async (kind: "service" | "network" | "secret" | "config") =>
  lines(await docker(kind, "ls", "--format", "{{.Name}}")).filter((name) =>
    name.startsWith("shop_"),
  );

describeLab("stacks as objects", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    dir = join(lab.dir, "shop");
    mkdirSync(dir);
    write("compose.yaml", COMPOSE);
    write("motd.txt", "one\n");
    write("key.txt", "first key");
    await docker("swarm", "init");
    for (const [host, role] of [
      [2, "manager"],
      [3, "worker"],
    ] as const) {
      const token = await docker("swarm", "join-token", "-q", role);
      await lab.host(host).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    }
    // The managers write a node that has just joined, too: that is no reason to refuse this.
    await docker("node", "update", "--availability", "drain", "h3");
  }, 60_000);

  test("a plan says what would be made, and makes nothing", async () => {
    const { code, stdout } = await withFile("plan");
    expect(code).toBe(0);
    for (const line of [
      "+ network shop_back",
      "+ service shop_db  (starts 1 task)",
      "+ service shop_web  (starts 2 tasks)",
    ]) {
      expect(stdout).toContain(line);
    }
    expect(await names("service")).toEqual([]);
    expect(await names("network")).toEqual([]);
  });

  test("mistakes are told all at once, with their places, and change nothing", async () => {
    write("bad.yaml", "services:\n  web:\n    imag: lab\n    ports: ['x']\n  db: {}\n");
    const { code, stderr } = await shoal("deploy", "shop", "-c", join(dir, "bad.yaml"));
    expect(code).toBe(1);
    expect(stderr).toMatch(/bad\.yaml:3.*imag/);
    expect(stderr).toMatch(/bad\.yaml:4/);
    expect(lines(stderr).length).toBeGreaterThan(2);
    expect((await shoal("ls")).stdout).not.toContain("shop");
  });

  test("a deployment waits until it runs; docker stack sees it", async () => {
    const { code, stdout, stderr } = await withFile("deploy");
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("shop_web  running  2/2");
    for (const host of [1, 2]) expect(await motd(host)).toBe("one");
    expect(await keyInContainer()).toBe("first key");
    expect(await docker("stack", "ls", "--format", "{{.Name}} {{.Services}}")).toBe("shop 2");
    expect((await shoal("ls")).stdout).toMatch(/shop +1 +2\/2 +running/);
    const again = await withFile("deploy");
    expect(again.stdout).toContain("Nothing to change: revision 1 is as wanted.");
  }, 60_000);

  test("a config and a secret with other data roll the services that use them", async () => {
    write("motd.txt", "two\n");
    write("key.txt", "second key");
    const { stdout: said } = await withFile("plan");
    expect(said).toMatch(/~ service shop_web {2}\(replaces 2 tasks, 1 at a time, stop-first\)/);
    expect(said).not.toContain("service shop_db");
    const token = /--token (\w+)/.exec(said)?.[1] ?? "";
    const other = await withFile("deploy", "--token", "0".repeat(32));
    expect([other.code, other.stderr]).toEqual([1, expect.stringContaining("is out of date")]);
    expect(await withFile("deploy", "--token", token)).toMatchObject({ code: 0, stderr: "" });
    expect(await motd(1)).toBe("two");
    expect(await keyInContainer()).toBe("second key");
    // Those before are kept, for their revision.
    expect(await names("secret")).toHaveLength(2);
  }, 60_000);

  test("what the file lacks goes: services at once, their networks when their tasks are gone", async () => {
    const [services, rest] = COMPOSE.split("  db:\n");
    const { code, stdout } = await lab
      .host(1)
      .tryRun(["shoal", "stack", "deploy", "shop", "-c", "-"], {
        stdin: `${services}networks:${rest?.split("networks:").at(-1)}`
          .replace("[front, back]", "[front]")
          .replace("  back: { internal: true }\n", "")
          .replaceAll("./", `${dir}/`),
      });
    expect(stdout).toContain("- service shop_db  (stops 1 task)");
    expect(stdout).toContain("- network shop_back  (once no task is on it)");
    expect(code).toBe(0);
    await waitFor(
      "the network to be gone",
      async () => (await names("network")).join() === "shop_front",
    );
  }, 60_000);

  test("a rollback goes back to any revision, with its data", async () => {
    const { code, stdout } = await shoal("rollback", "shop", "--revision", "1");
    expect([code, stdout]).toEqual([0, expect.stringContaining("+ service shop_db")]);
    expect(await motd(2)).toBe("one");
    expect(await keyInContainer()).toBe("first key");
    expect((await shoal("show", "shop")).stdout).toMatch(/4 +\d+ s ago +2 +current, as revision 1/);
    expect((await shoal("show", "shop", "--files")).stdout).toBe(COMPOSE);
    const none = await shoal("rollback", "shop", "--revision", "77");
    expect(none.stderr).toContain('stack shop has no revision "77": kept are 1, 2, 3, 4');
  }, 60_000);

  test("an update that fails is rolled back by its rules, and the deployment says why", async () => {
    write(
      "compose.yaml",
      COMPOSE.replace("    shm_size:", '    command: ["sh", "-c", "exit 4"]\n    shm_size:'),
    );
    const { code, stderr } = await withFile("deploy");
    expect(code).toBe(1);
    expect(stderr).toMatch(/shop_web {2}rolled-back {2}.*update rolled back due to failure/);
    write("compose.yaml", COMPOSE);
    expect((await withFile("deploy")).code).toBe(0);
  }, 60_000);

  test("a change by hand is seen, variables come from .env, options of docker run are keys", async () => {
    await docker("service", "scale", "-d", "shop_web=1");
    write(".env", "VERSION=2\nSHM=32m\n");
    const { stdout } = await withFile("plan");
    expect(stdout).toMatch(/Mode\.Replicated\.Replicas: 1 → 2/);
    expect(stdout).toMatch(/Image: "lab:latest" → "lab:2"/);
    expect(await withFile("deploy")).toMatchObject({ code: 0, stderr: "" });
    const sizes = await inEach("{{.HostConfig.ShmSize}}");
    expect(sizes).toEqual(["33554432", "33554432"]);
  }, 60_000);

  test("curl is a client too, on any manager; a worker says where to go", async () => {
    /** Two services, by their published ports. */
    const fileOf = (one: number, two: number) =>
      `services:${["one", "two"]
        .map(
          (name, index) =>
            `\n  ${name}: { image: "lab:latest", stop_grace_period: 1s, environment: { TASK: ${name} }, ports: ["${[one, two][index]}:80"] }`,
        )
        .join("")}\n`;
    const file = fileOf(8091, 8092);
    const path = "/shoal/v1/stacks/tiny?resolve-image=never";
    const waitForAnswer = (port: number, name: string) =>
      waitFor(`the answer of ${name} at ${port}`, async () => {
        const url = `http://${lab.host(1).address}:${port}/`;
        const { stdout } = await lab.host(3).tryRun(["curl", "-s", "-m", "5", url]);
        return stdout.includes(`task=${name} `);
      });
    expect(await call("PUT", path, file)).toMatchObject({
      status: 200,
      body: { Revision: 1, IsChange: true },
    });
    await waitFor("it to run", async () => {
      const { body } = await call("GET", "/shoal/v1/stacks/tiny");
      return (body as { State: string }).State === "running";
    });
    await waitForAnswer(8091, "one");
    // The ports change hands in one deployment.
    expect((await call("PUT", path, fileOf(8092, 8091))).status).toBe(200);
    await waitForAnswer(8091, "two");
    await waitForAnswer(8092, "one");
    const format = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.revision}}";
    const told = await lab
      .host(2)
      .docker(
        "events",
        "--since=5m",
        "--until=0s",
        "--filter=type=stack",
        "--filter=stack=tiny",
        "--format",
        format,
      );
    expect(lines(told)).toEqual(["create tiny 1", "update tiny 2"]);
    expect((await call("PUT", "/shoal/v1/stacks/tiny", "services: 7\n")).status).toBe(400);
    expect((await call("PUT", "/shoal/v1/stacks/Not_A-Name-", file)).status).toBe(400);
    expect(await call("DELETE", "/shoal/v1/stacks/tiny")).toEqual({ status: 204, body: undefined });
    expect((await call("GET", "/shoal/v1/stacks/tiny")).status).toBe(404);
    const worker = await lab.host(3).tryRun(["shoal", "stack", "ls"]);
    expect([worker.code, worker.stderr]).toEqual([
      1,
      expect.stringContaining("not a swarm manager"),
    ]);
  }, 60_000);

  test("what docker stack deploy has made is taken over as it is; removal leaves nothing", async () => {
    expect((await shoal("rm", "shop")).stdout).toBe("Removed stack shop\n");
    await waitFor("all to be gone", async () => {
      const kinds = ["service", "network", "secret", "config"] as const;
      return (await Promise.all(kinds.map(names))).every((found) => found.length === 0);
    });
    write("plain.yaml", "services:\n  web: { image: 'lab:latest', stop_grace_period: 1s }\n");
    const plain = join(dir, "plain.yaml");
    await docker(
      "stack",
      "deploy",
      "--detach=true",
      "--resolve-image",
      "never",
      "-c",
      plain,
      "shop",
    );
    const ids = await docker("service", "ls", "-q");
    expect((await shoal("show", "shop")).stderr).toContain("takes it over as it is");
    const { code, stdout } = await shoal("deploy", "shop", "-c", plain, "--resolve-image", "never");
    expect([code, stdout]).toEqual([0, expect.stringContaining("= 1 as it is")]);
    expect(await docker("service", "ls", "-q")).toBe(ids);
    expect((await shoal("rm", "shop")).code).toBe(0);
    await waitFor("its network to be gone", async () => (await names("network")).length === 0);
  }, 60_000);
});
