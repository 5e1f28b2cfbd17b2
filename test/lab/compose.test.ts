/**
 * Compose files deployed by the stock CLI, against what composeToModel() makes of the same files: the
 * cluster's services, networks, secrets and configs must be the model's. One host with an agent; no task
 * of the stacks is meant to run.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { checkShape } from "../../agent/api/body.ts";
import { withoutNulls } from "../../agent/api/go-values.ts";
import {
  dataSpecSchema,
  networkCreateSchema,
  serviceSpecSchema,
} from "../../agent/api/spec-schema.ts";
import { withWords } from "../../agent/api/render.ts";
import { normaliseServiceSpec } from "../../agent/api/validate.ts";
import { composeToModel, neededContents } from "../../agent/stacks/compose/compose.ts";
import type { StackModel } from "../../agent/stacks/compose/model.ts";
import type { ServiceSpec } from "../../core/objects/service.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

type Json = Record<string, unknown>;
type Named = { ID?: string; Id?: string; Name?: string; Spec: { Name: string } };

const DIR = resolve(import.meta.dir, "../fixtures/compose");
const ENV = { FROM_CALLER: "called", HOME: "/root", PWD: DIR };
const DIGEST = /-[0-9a-f]{10}$/;

let lab: Lab;

async function get(path: string): Promise<unknown> {
  const answer = await fetch(`http://shoal${path}`, { unix: lab.host(1).agentSocket() });
  return answer.json();
}

function modelOf(stack: string, names: readonly string[]): StackModel {
  const files = names.map((name) => ({ name, text: readFileSync(join(DIR, name), "utf8") }));
  const contents = Object.fromEntries(
    neededContents({ files, env: ENV }).map((path) => [
      path,
      readFileSync(join(DIR, path)).toString("base64"),
    ]),
  );
  return composeToModel({ stack, files, env: ENV, contents }).model;
}

/** The spec in the form in which it is stored, with names in place of ids, and stock's names of data. */
function comparable(
  given: unknown,
  nameOf: ReadonlyMap<string, string>,
  owned: ReadonlySet<string>,
) {
  const spec: ServiceSpec = withWords(
    normaliseServiceSpec(checkShape(withoutNulls(given), serviceSpecSchema)),
  );
  const container = spec.TaskTemplate.ContainerSpec;
  const bare = (reference: Json) =>
    Object.fromEntries(
      Object.entries(reference).flatMap(([key, value]) => {
        if (key.endsWith("ID")) return [];
        const isOwned = typeof value === "string" && owned.has(value);
        return [[key, isOwned ? value.replace(DIGEST, "") : value]];
      }),
    );
  const byFile = (references: Json[] | undefined) =>
    references?.map(bare).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  return {
    ...spec,
    TaskTemplate: {
      ...spec.TaskTemplate,
      ContainerSpec: {
        ...container,
        // What has the data's digest in its name is in another order.
        Secrets: byFile(container.Secrets),
        Configs: byFile(container.Configs),
      },
      Networks: spec.TaskTemplate.Networks?.map((network) => ({
        ...network,
        Target: nameOf.get(network.Target) ?? network.Target,
      })).sort((a, b) => (a.Target < b.Target ? -1 : 1)),
    },
  };
}

/** What a part of a service or network is by the stock CLI and here, and why. */
type Difference = { name: string; at: string[]; stock: unknown; here: unknown; why: string };

/** Takes the differences away, each of which must be there. */
function withoutDifferences(
  objects: Record<string, unknown>,
  differences: readonly Difference[],
  side: "stock" | "here",
): Record<string, unknown> {
  const rest = structuredClone(objects);
  for (const { name, at, why, ...difference } of differences) {
    let part = rest[name] as Json | undefined;
    if (part === undefined) continue;
    for (const key of at.slice(0, -1)) part = part?.[key] as Json | undefined;
    const last = at.at(-1) ?? "";
    expect([name, why, part?.[last]]).toEqual([name, why, difference[side]]);
    delete part?.[last];
  }
  return rest;
}

async function compare(
  stack: string,
  names: readonly string[],
  differences: readonly Difference[] = [],
): Promise<void> {
  const flags = names.flatMap((name) => ["-c", join(DIR, name)]);
  const { PWD: _, ...env } = ENV;
  const settings = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  const command = ["docker", "stack", "deploy", "--detach", "--resolve-image", "never"];
  await lab.host(1).run(["env", ...settings, ...command, ...flags, stack]);
  const filter = encodeURIComponent(
    JSON.stringify({ label: [`com.docker.stack.namespace=${stack}`] }),
  );
  const ofStack = async (kind: string) => (await get(`/${kind}?filters=${filter}`)) as Named[];
  const model = modelOf(stack, names);

  const nameOf = new Map(
    ((await get("/networks")) as { Id: string; Name: string }[]).map(({ Id, Name }) => [Id, Name]),
  );
  const owned = new Set([...model.secrets, ...model.configs].map(({ Name }) => Name));
  const byName = (list: { Name: string }[]) =>
    Object.fromEntries(list.map((item) => [item.Name, item]));
  const services = (await ofStack("services")) as unknown as { Spec: ServiceSpec }[];
  for (const { Target } of services.flatMap(({ Spec }) => Spec.TaskTemplate.Networks ?? [])) {
    // The cluster's own `host` is shown by no call: the engine's stands for it.
    if (!nameOf.has(Target)) nameOf.set(Target, "host");
  }
  const same = (here: { Name: string }[], stock: { Name: string }[]) =>
    expect(withoutDifferences(byName(here), differences, "here")).toEqual(
      withoutDifferences(byName(stock), differences, "stock"),
    );
  same(
    model.services.map((spec) => comparable(spec, nameOf, owned)),
    services.map(({ Spec }) => comparable(Spec, nameOf, new Set())),
  );

  const networks = ((await ofStack("networks")) as unknown as Json[]).filter(
    (network) => network["Scope"] === "swarm",
  );
  same(model.networks.map(comparableNetwork), networks.map(comparableNetwork));

  for (const kind of ["secrets", "configs"] as const) {
    const stored = (await ofStack(kind)).map(({ Spec }) => checkShape(Spec, dataSpecSchema));
    const made = model[kind].map(({ Name, Data, ...rest }) => ({
      ...rest,
      Name: Name.replace(DIGEST, ""),
      // Secrets are shown to nobody.
      ...(kind === "configs" ? { Data } : {}),
    }));
    expect(byName(made)).toEqual(byName(stored));
  }
}

function comparableNetwork(given: unknown) {
  const { IPAM, ConfigFrom: _, ...network } = checkShape(withoutNulls(given), networkCreateSchema);
  const { "com.docker.network.driver.overlay.vxlanid_list": __, ...options } = network.Options;
  return {
    ...network,
    // What the request does not say is chosen by the cluster, and shown.
    Options: options,
    Scope: "swarm",
    IPAM: IPAM.Config.map((pool) => pool.Subnet).filter((subnet) => subnet?.startsWith("10.77.")),
  };
}

/** Older ones know neither jobs in stacks nor `start_interval`. */
const CLI_MAJOR_MIN = 28;

function isCliKnown(): boolean {
  if (Bun.which("docker") === null) return false;
  const version = Bun.spawnSync(["docker", "--version"]).stdout.toString();
  return Number(/version (\d+)/.exec(version)?.[1]) >= CLI_MAJOR_MIN;
}

const TITLE = "compose files as by the stock CLI";
if (isCliKnown()) describeLab(TITLE, { hosts: 1, agents: true }, compareAll);
else
  describe.skip(`${TITLE} (skipped: needs docker CLI ${CLI_MAJOR_MIN})`, () =>
    test("it", () => {}));

function compareAll(made: () => Lab): void {
  beforeAll(async () => {
    lab = made();
    const docker = (...args: string[]) => lab.host(1).docker(...args);
    await docker("swarm", "init");
    await docker("network", "create", "--driver", "overlay", "outside-net");
    await lab.host(1).run(["sh", "-c", "echo x | docker secret create their-secret -"]);
    await lab.host(1).run(["sh", "-c", "echo x | docker config create their-config -"]);
  }, 60_000);

  test("a service with most of what compose has", () => compare("shop", ["shop.yml"]), 20_000);

  test("two files, of which the second overrides the first", async () => {
    await compare("shop", ["shop.yml", "shop.override.yml"]);
  }, 20_000);

  test("modes, restarts, the default network, older notations", async () => {
    await compare("modes", ["modes.yml"]);
  }, 20_000);

  test("jobs", () => compare("jobs", ["job.yml"]), 20_000);

  test("what is read in another way on purpose", async () => {
    const container = (field: string) => ["TaskTemplate", "ContainerSpec", field];
    await compare(
      "other",
      ["differences.yml", "differences.override.yml"],
      [
        {
          name: "other_options",
          at: container("Shoal"),
          stock: undefined,
          here: {
            Privileged: true,
            Devices: [
              { PathOnHost: "/dev/null", PathInContainer: "/dev/nil", CgroupPermissions: "rwm" },
            ],
            PidMode: "host",
            ShmSize: 64 * 1024 * 1024,
            Tmpfs: { "/run": "" },
          },
          why: "Swarm has no fields for them, the cluster has",
        },
        {
          name: "other_once",
          at: ["TaskTemplate", "RestartPolicy"],
          stock: undefined,
          here: { Condition: "none", MaxAttempts: 0 },
          why: "no policy means restarts, and the file says that there are none",
        },
        {
          name: "other_nested",
          at: container("Env"),
          stock: ["NESTED=${UNSET_B:-inner}"],
          here: ["NESTED=inner"],
          why: "the compose specification has variables in defaults",
        },
        {
          name: "other_letter",
          at: container("Mounts"),
          stock: [{ Type: "volume", Target: "d:/d" }],
          here: [
            {
              Type: "volume",
              Source: "other_d",
              Target: "/d",
              VolumeOptions: { Labels: { "com.docker.stack.namespace": "other" } },
            },
          ],
          why: "a letter is a volume's name, nodes run no Windows",
        },
        {
          name: "other_checked",
          at: container("Healthcheck"),
          stock: { Test: ["CMD-SHELL", "first", "CMD", "second"] },
          here: { Test: ["CMD", "second"] },
          why: "a test that is appended to another one is none",
        },
        {
          name: "other_default",
          at: ["Internal"],
          stock: false,
          here: true,
          why: "networks are merged, as the compose specification says",
        },
      ],
    );
  }, 20_000);
}
