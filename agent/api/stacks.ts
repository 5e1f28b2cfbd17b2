/**
 * /shoal/v1/stacks: stacks as objects of the cluster, from compose files (agent/stacks). Docker's API has no
 * word for them; `docker stack ls, ps, services` see their services by the label that stock uses.
 */
import { isUtf8 } from "node:buffer";
import { type Context, Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { ServiceSpec } from "../../core/objects/service.ts";
import {
  STACK_LABEL,
  type Stack,
  type StackModel,
  type StackRevision,
} from "../../core/objects/stack.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { composeToModel } from "../stacks/compose/compose.ts";
import { planStack, type StackPlan, type StackWish } from "../stacks/plan.ts";
import { type StackState, stackStatus } from "../stacks/status.ts";
import { parseBody } from "./body.ts";
import { type ApiContext, propose } from "./context.ts";
import { goTime, parseFlag } from "./go-values.ts";
import { pinImage } from "./pin-image.ts";

/** The managers were faster: the allocator writes services, another network took the subnet. */
const DEPLOY_TRIES_MAX = 5;
/** What a proposal is refused with when another came first; a reason that stays is the next plan's refusal. */
const OVERTAKEN: ReadonlySet<string> = new Set([
  "version-conflict",
  "failed-precondition",
  "not-found",
  "name-conflict",
  "invalid-argument",
  "in-use",
]);
/** Registries that are asked at once. */
const PINS_AT_ONCE = 8;
const RESOLVE_WORDS = ["always", "changed", "never"] as const;
type ResolveImage = (typeof RESOLVE_WORDS)[number];

const requestSchema = z.strictObject({
  Files: z
    .array(z.strictObject({ Name: z.string(), Text: z.string() }))
    .min(1)
    .max(50),
  Env: z.record(z.string(), z.string()).default({}),
  Contents: z.record(z.string(), z.base64()).default({}),
  Prune: z.boolean().default(true),
  ResolveImage: z.enum(RESOLVE_WORDS).default("always"),
  Token: z.string().default(""),
  /** By registry, as in the image's name: what X-Registry-Auth would be. */
  RegistryAuth: z.record(z.string(), z.string()).default({}),
});
const rollbackSchema = z.strictObject({ RegistryAuth: requestSchema.shape.RegistryAuth });
type StackRequest = z.output<typeof requestSchema>;
/** Body of POST /shoal/v1/stacks/{name}/rollback, which may be empty. */
export type RollbackRequestBody = z.input<typeof rollbackSchema>;
/** Body of PUT /shoal/v1/stacks/{name} and of its plan. */
export type StackRequestBody = z.input<typeof requestSchema>;
type Wanted = Pick<StackWish, "files" | "model" | "data" | "repeats"> & {
  warnings: string[];
  /** Of a revision; else the registries are asked. */
  images?: ReadonlyMap<string, string>;
};

export function stackRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/", async (c) =>
    c.json(await ports.read((view) => view.stacks().map((one) => summary(view, one)))),
  );

  app.get("/:name", async (c) =>
    c.json(await ports.read((view) => details(view, findStack(view, c.req.param("name"))))),
  );

  app.get("/:name/revisions/:number", async (c) =>
    c.json(
      await ports.read((view) => {
        const stack = findStack(view, c.req.param("name"));
        const found = findRevision(stack, c.req.param("number"));
        return { ...revisionLine(found), Files: filesOf(found.files), Model: found.model };
      }),
    ),
  );

  app.post("/:name/plan", async (c) => {
    const name = c.req.param("name");
    const request = await readRequest(c);
    const wanted = fromFiles(name, request);
    return c.json(renderPlan(await makePlan(context, name, wanted, request)));
  });

  app.put("/:name", async (c) => {
    const name = c.req.param("name");
    const request = await readRequest(c);
    return c.json(await deploy(context, name, fromFiles(name, request), request));
  });

  app.post("/:name/rollback", async (c) => {
    const name = c.req.param("name");
    const { RegistryAuth } = parseBody((await c.req.text()) || "{}", rollbackSchema);
    const wanted = await ports.read((view): Wanted => {
      const stack = findStack(view, name);
      const found = findRevision(stack, c.req.query("revision") || previousOf(stack));
      const { files, model, number: repeats } = found;
      const data = { secrets: new Map(), configs: new Map() };
      return {
        files,
        model,
        repeats,
        data,
        images: new Map(Object.entries(found.images)),
        warnings: [],
      };
    });
    const options = { Prune: true, ResolveImage: "changed", Token: "", RegistryAuth } as const;
    const isPlan = parseFlag("plan", c.req.query("plan"));
    if (isPlan) return c.json(renderPlan(await makePlan(context, name, wanted, options)));
    return c.json(await deploy(context, name, wanted, options));
  });

  app.delete("/:name", async (c) => {
    const name = c.req.param("name");
    await proposeInTurn(context, async () => ({
      actions: await ports.read((view) => removal(view, findStack(view, name))),
      answer: undefined,
    }));
    return c.body(null, 204);
  });
  return app;
}

// ---- requests ---------------------------------------------------------------------------------

/** JSON; or a compose file itself, with the options in the query, for people with curl. */
async function readRequest(c: Context): Promise<StackRequest> {
  const type = c.req.header("content-type") ?? "";
  if (/json/.test(type) || type === "") return parseBody(await c.req.text(), requestSchema);
  const prune = c.req.query("prune");
  const bytes = Buffer.from(await c.req.arrayBuffer());
  if (!isUtf8(bytes)) {
    throw new ClusterError("invalid-argument", "The file is not text in UTF-8: save it as such");
  }
  return parseBody(
    JSON.stringify({
      Files: [{ Name: "compose.yaml", Text: bytes.toString("utf8") }],
      ...(prune === undefined ? {} : { Prune: parseFlag("prune", prune) }),
      ResolveImage: c.req.query("resolve-image"),
      Token: c.req.query("token"),
    }),
    requestSchema,
  );
}

function fromFiles(stack: string, request: StackRequest): Wanted {
  const files = request.Files.map(({ Name: name, Text: text }) => ({ name, text }));
  const { model, warnings } = composeToModel({
    stack,
    files,
    env: request.Env,
    contents: request.Contents,
  });
  const bare = <T extends { Data: string }>({ Data: _data, ...rest }: T) => rest;
  const dataOf = (list: readonly { Name: string; Data: string }[]) =>
    new Map(list.map(({ Name, Data }) => [Name, Data]));
  const stored: StackModel = {
    ...model,
    networks: model.networks.map((network) => ({ ...network })),
    secrets: model.secrets.map(bare),
    configs: model.configs.map(bare),
  };
  return {
    files,
    model: stored,
    data: { secrets: dataOf(model.secrets), configs: dataOf(model.configs) },
    warnings,
  };
}

function findStack(view: ClusterView, name: string): Stack {
  const stack = view.stackByName(name);
  if (stack) return stack;
  const isClients = view.services().some(({ spec }) => spec.Labels?.[STACK_LABEL] === name);
  throw new ClusterError(
    "not-found",
    isClients
      ? `stack ${name} not found: its services were deployed by a client; "shoal stack deploy" with its files takes it over as it is`
      : `stack ${name} not found`,
  );
}

function findRevision(stack: Stack, text: string): StackRevision {
  const found = stack.revisions.find(({ number }) => String(number) === text);
  if (found) return found;
  const kept = stack.revisions.map(({ number }) => number).join(", ");
  throw new ClusterError(
    "not-found",
    `stack ${stack.spec.Name} has no revision ${JSON.stringify(text)}: kept are ${kept}`,
  );
}

/** The newest one that is not what is wanted now. */
function previousOf(stack: Stack): string {
  const textOf = ({ model, images }: StackRevision) => JSON.stringify([model, images]);
  const newest = stack.revisions.at(-1);
  const before = stack.revisions.findLast((one) => newest && textOf(one) !== textOf(newest));
  if (before) return String(before.number);
  throw new ClusterError(
    "failed-precondition",
    `stack ${stack.spec.Name} has no earlier revision to go back to`,
  );
}

// ---- plan and deployment ----------------------------------------------------------------------

type Options = Pick<StackRequest, "Prune" | "ResolveImage" | "Token" | "RegistryAuth">;

/** With the warnings of the files first, then those of the registries. */
async function makePlan(
  context: ApiContext,
  name: string,
  wanted: Wanted,
  options: Options,
): Promise<StackPlan> {
  const { ports } = context;
  const authOf = (spec: ServiceSpec) =>
    options.RegistryAuth[registryOf(spec.TaskTemplate.ContainerSpec.Image)];
  const { images, warnings } = wanted.images
    ? { images: wanted.images, warnings: [] }
    : await resolveImages(context, wanted.model, options.ResolveImage, authOf);
  const wish: StackWish = { ...wanted, name, prune: options.Prune, images, authOf };
  const plan = await ports.read((view) =>
    planStack(view, wish, { random: ports.random, nowMs: ports.nowMs(), vault: ports.vault }),
  );
  return { ...plan, warnings: [...wanted.warnings, ...warnings, ...plan.warnings] };
}

async function deploy(
  context: ApiContext,
  name: string,
  wanted: Wanted,
  options: Options,
): Promise<PlanAnswer> {
  return proposeInTurn(context, async () => {
    const plan = await makePlan(context, name, wanted, options);
    if (options.Token !== "" && options.Token !== plan.token) {
      throw new ClusterError(
        "name-conflict",
        `Cannot deploy stack ${name}: the plan ${options.Token} is out of date, something has changed since; plan again`,
      );
    }
    return { actions: plan.actions, answer: renderPlan(plan) };
  });
}

/** Proposes what was made for the cluster as it is; made anew when another change was faster. */
async function proposeInTurn<T>(
  context: ApiContext,
  make: () => Promise<{ actions: StoreAction[]; answer: T }>,
): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    const { actions, answer } = await make();
    if (actions.length === 0) return answer;
    try {
      await propose(context, actions);
      return answer;
    } catch (error) {
      const isOvertaken = error instanceof ClusterError && OVERTAKEN.has(error.code);
      if (!isOvertaken || tries >= DEPLOY_TRIES_MAX) throw error;
    }
  }
}

/** By service, the image that its tasks are to have, with a digest where a registry tells one. */
async function resolveImages(
  context: ApiContext,
  model: StackModel,
  mode: ResolveImage,
  authOf: (spec: ServiceSpec) => string | undefined,
): Promise<{ images: Map<string, string>; warnings: string[] }> {
  const known = await context.ports.read((view) =>
    model.services.map(({ Name }) => view.serviceByName(Name)?.spec),
  );
  const images = new Map<string, string>();
  const warnings: string[] = [];
  const asked = model.services.filter((spec, index) => {
    const before = known[index];
    const isSame = before !== undefined && imageLabel(before) === imageLabel(spec);
    if (mode === "always" || (mode === "changed" && !isSame)) return true;
    // As written it may be another image by now: what runs is what was meant.
    if (isSame) images.set(spec.Name, before.TaskTemplate.ContainerSpec.Image);
    return false;
  });
  const pin = async (spec: ServiceSpec) => {
    const pinned = await pinImage(context.engine, spec, authOf(spec));
    images.set(spec.Name, pinned.spec.TaskTemplate.ContainerSpec.Image);
    warnings.push(...pinned.warnings.map((text) => text.replaceAll("\n", " ").trim()));
  };
  for (let i = 0; i < asked.length; i += PINS_AT_ONCE) {
    await Promise.all(asked.slice(i, i + PINS_AT_ONCE).map(pin));
  }
  return { images, warnings: [...new Set(warnings)] };
}

/** The image as it was written. Source: docker CLI, cli/compose/convert. */
function imageLabel(spec: ServiceSpec): string {
  return spec.Labels?.["com.docker.stack.image"] ?? spec.TaskTemplate.ContainerSpec.Image;
}

/** As the engine reads references: what looks like a host is one. */
function registryOf(image: string): string {
  const [first = "", rest] = image.split("/", 2);
  const isHost = rest !== undefined && (/[.:]/.test(first) || first === "localhost");
  return isHost ? first : "docker.io";
}

/**
 * All services of its name, whoever made them. Networks, secrets and configs go with their last user
 * (core/orchestrator/stack-reaper.ts).
 */
function removal(view: ClusterView, stack: Stack): StoreAction[] {
  const services = view
    .services()
    .filter(({ spec }) => spec.Labels?.[STACK_LABEL] === stack.spec.Name)
    .map(({ id }): StoreAction => ({ type: "remove", table: "service", id }));
  return [...services, { type: "remove", table: "stack", id: stack.id, ifVersion: stack.version }];
}

// ---- answers ----------------------------------------------------------------------------------

export type StackSummary = {
  ID: string;
  Name: string;
  Revision: number;
  CreatedAt: string;
  UpdatedAt: string;
  State: StackState;
  ServiceCount: number;
  /** Services that are as they shall be. */
  SettledCount: number;
};

function summary(view: ClusterView, stack: Stack): StackSummary {
  const { state, services } = stackStatus(view, stack);
  return {
    ID: stack.id,
    Name: stack.spec.Name,
    Revision: stack.revisions.at(-1)?.number ?? 0,
    CreatedAt: goTime(stack.createdAtMs),
    UpdatedAt: goTime(stack.updatedAtMs),
    State: state,
    ServiceCount: services.length,
    SettledCount: services.filter((one) => one.state === "running" || one.state === "completed")
      .length,
  };
}

export type StackDetails = StackSummary & {
  Services: {
    Name: string;
    ID?: string;
    Image: string;
    State: StackState;
    Reason?: string;
    Running: number;
    Desired: number;
    Completed: number;
  }[];
  Networks: string[];
  Secrets: string[];
  Configs: string[];
  Files: { Name: string; Text: string }[];
  Revisions: RevisionLine[];
};

function details(view: ClusterView, stack: Stack): StackDetails {
  const newest = stack.revisions.at(-1);
  const names = (list: readonly { Name: string }[] = []) => list.map(({ Name }) => Name);
  return {
    ...summary(view, stack),
    Services: stackStatus(view, stack).services.map((one) => ({
      Name: one.name,
      ...(one.id === undefined ? {} : { ID: one.id }),
      Image: one.image,
      State: one.state,
      ...(one.reason === undefined ? {} : { Reason: one.reason }),
      Running: one.running,
      Desired: one.desired,
      Completed: one.completed,
    })),
    Networks: names(newest?.model.networks),
    Secrets: names(newest?.model.secrets),
    Configs: names(newest?.model.configs),
    Files: filesOf(newest?.files ?? []),
    Revisions: stack.revisions.map(revisionLine),
  };
}

type RevisionLine = { Number: number; At: string; Services: number; Repeats?: number };

function revisionLine({ number, atMs, model, repeats }: StackRevision): RevisionLine {
  return {
    Number: number,
    At: goTime(atMs),
    Services: model.services.length,
    ...(repeats === undefined ? {} : { Repeats: repeats }),
  };
}

function filesOf(files: StackRevision["files"]): StackDetails["Files"] {
  return files.map(({ name, text }) => ({ Name: name, Text: text }));
}

/** Of a plan, and of a deployment: what it has changed. */
export type PlanAnswer = {
  Revision: number;
  IsChange: boolean;
  Token: string;
  Warnings: string[];
  Changes: {
    Kind: string;
    Name: string;
    Action: "create" | "update" | "remove" | "keep";
    Effect?: string;
    Fields?: { Path: string; From?: unknown; To?: unknown }[];
  }[];
};

function renderPlan(plan: StackPlan): PlanAnswer {
  return {
    Revision: plan.revision,
    IsChange: plan.isChange,
    Token: plan.token,
    Warnings: plan.warnings,
    Changes: plan.changes.map(({ kind, name, action, fields, effect }) => ({
      Kind: kind,
      Name: name,
      Action: action,
      ...(effect === "" ? {} : { Effect: effect }),
      ...(fields.length === 0
        ? {}
        : {
            Fields: fields.map(({ path, from, to }) => ({
              Path: path,
              ...(from === undefined ? {} : { From: from }),
              ...(to === undefined ? {} : { To: to }),
            })),
          }),
    })),
  };
}
