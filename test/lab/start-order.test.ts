/**
 * `depends_on` of a stack, from a compose file to containers: first starts and updates wait for a health check
 * and for a job. The tests build on each other.
 */
import { beforeAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
let dir = "";
const docker = (...args: string[]) => lab.host(1).docker(...args);
const lines = (text: string) => text.split("\n").filter((line) => line !== "");
const open = (gate: string) => writeFileSync(join(dir, gate), "");
const close = (gate: string) => rmSync(join(dir, gate), { force: true });
/** With another version all but db is another one. */
const deploy = (version: string, ...more: string[]) => {
  const file = join(dir, "compose.yaml");
  const command = ["shoal", "stack", "deploy", "shop", "-c", file, ...more];
  return lab.host(1).tryRun(["env", `VERSION=${version}`, `GATES=${dir}`, ...command]);
};
const containers = async (service: string) =>
  lines(
    await lab
      .host(1)
      .engine("ps", "-q", "--filter", `label=com.docker.swarm.service.name=shop_${service}`),
  );
const versionOf = async (id = "") => lab.host(1).engine("exec", id, "sh", "-c", "echo $VERSION");
/** The CLI puts it in quotes. */
const errorOf = async (service: string) =>
  JSON.parse(
    await docker("service", "ps", "--no-trunc", "--format", "{{.Error}}", `shop_${service}`),
  ) as unknown;
const update = (service: string, field: string) =>
  docker("service", "inspect", "-f", `{{.UpdateStatus.${field}}}`, `shop_${service}`);

const COMPOSE = `
x-common: &common
  image: lab:latest
  stop_grace_period: 1s
  volumes: ["\${GATES}:/gates"]
  environment: { VERSION: "\${VERSION}" }
services:
  web:
    <<: *common
    depends_on:
      db: { condition: service_healthy }
      migrate: { condition: service_completed_successfully }
    deploy: { update_config: { monitor: 500ms } }
  migrate:
    <<: *common
    depends_on: { db: { condition: service_healthy } }
    command: [sh, -c, "until test -e /gates/go; do sleep 0.1; done; test ! -e /gates/fail"]
    deploy: { mode: replicated-job, restart_policy: { condition: none } }
  db:
    <<: *common
    environment: { VERSION: one }
    healthcheck: { test: [CMD, test, -e, /gates/db], interval: 300ms, retries: 1000 }
`;

describeLab("start order", { hosts: 1, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    dir = join(lab.dir, "shop");
    mkdirSync(dir);
    writeFileSync(join(dir, "compose.yaml"), COMPOSE);
    await docker("swarm", "init");
  }, 60_000);

  test("a first start waits for a health check, then for a job, and says so", async () => {
    expect(await deploy("one", "--detach")).toMatchObject({ code: 0 });
    const ofDb = "waits for shop_db to be healthy: 0 of 1 tasks run";
    await waitFor("web to say so", async () => (await errorOf("web")) === ofDb);
    expect(await errorOf("migrate")).toBe(ofDb);
    expect(await lab.host(1).run(["shoal", "why", "shop_web"])).toContain(ofDb);
    await waitFor("db", async () => (await containers("db")).length === 1);
    open("db");
    await waitFor("the job", async () => (await containers("migrate")).length === 1);
    const ofJob = "waits for shop_migrate to complete";
    await waitFor("web to say so", async () => (await errorOf("web")) === ofJob);
    expect(await containers("web")).toEqual([]);
    open("go");
    // The same files once more change nothing, and wait.
    expect(await deploy("one", "--timeout", "60")).toMatchObject({ code: 0 });
    expect(await containers("web")).toHaveLength(1);
  }, 60_000);

  test("an update waits for the job's next run, while the version before serves", async () => {
    close("go");
    const before = await containers("web");
    expect(await deploy("two", "--detach")).toMatchObject({ code: 0 });
    const waits = "update waits for shop_migrate to complete";
    await waitFor("web to say so", async () => (await update("web", "Message")) === waits);
    await waitFor("the job", async () => (await containers("migrate")).length === 1);
    expect(await containers("web")).toEqual(before);
    open("go");
    await waitFor("the update", async () => (await update("web", "State")) === "completed");
    const [after, ...more] = await containers("web");
    expect(more).toEqual([]);
    expect(await versionOf(after)).toBe("two");
  }, 60_000);

  test("an update whose job fails is given up; the next deployment goes on once it is mended", async () => {
    open("fail");
    const before = await containers("web");
    const { code, stderr } = await deploy("three", "--timeout", "60");
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/shop_migrate {2}failed .*: task: non-zero exit/);
    await waitFor("web to be paused", async () => (await update("web", "State")) === "paused");
    expect(await update("web", "Message")).toMatch(
      /^update paused since it waits for shop_migrate to complete, and shop_migrate\.0\.\w+ has failed: .*non-zero exit/,
    );
    expect(await containers("web")).toEqual(before);
    close("fail");
    await docker("service", "update", "--detach", "--force", "shop_migrate");
    expect(await deploy("three", "--timeout", "60")).toMatchObject({ code: 0 });
    const [after] = await containers("web");
    expect(await versionOf(after)).toBe("three");
  }, 60_000);

  test("services that wait for each other are refused, by a file and by a label", async () => {
    const circle = "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}";
    writeFileSync(join(dir, "circle.yaml"), circle);
    const refused = await lab
      .host(1)
      .tryRun(["shoal", "stack", "deploy", "c", "-c", join(dir, "circle.yaml")]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain("c_a waits for c_b waits for c_a");
    const label = ["service", "update", "--label-add", "shoal.depends-on=shop_web", "shop_db"];
    const { code, stderr } = await lab.host(1).tryRun(["docker", ...label]);
    expect(code).toBe(1);
    expect(stderr).toContain(
      "label shoal.depends-on: shop_db waits for shop_web waits for shop_db, so that none of them would ever start",
    );
  }, 30_000);
});
