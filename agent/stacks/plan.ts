/**
 * What a stack's new revision changes in the cluster, and the proposal that does it. Pure.
 *
 * 1. All or nothing: one proposal has every service, network, secret and config, and the revision itself.
 * 2. What the managers would refuse is refused here, in words, tried on a copy (scratch.ts).
 * 3. What the stack has under another's name (no label of the stack) is not touched.
 * 4. A plan has a token: a digest of what it would do and of what it was made from. A deployment that names it
 *    does that or nothing.
 * 5. Networks, secrets and configs that are wanted no more are left to core/orchestrator/stack-reaper.ts.
 */
import { ClusterError } from "../../core/errors.ts";
import { newId, type UnixMs } from "../../core/ids.ts";
import { isScheduled, SCHEDULE_LABEL } from "../../core/objects/job-schedule.ts";
import type { Network } from "../../core/objects/network.ts";
import type { Labels } from "../../core/objects/object-meta.ts";
import type { Secret, SecretSpec } from "../../core/objects/secret.ts";
import { isJob, type Service, type ServiceSpec } from "../../core/objects/service.ts";
import {
  STACK_ID_LABEL,
  STACK_LABEL,
  STACK_LENGTH_MAX,
  type StackData,
  type StackModel,
  type StackNetwork,
  type StackRevision,
  withRevision,
} from "../../core/objects/stack.ts";
import { isSameSpec, isTaskDirty } from "../../core/orchestrator/task-dirty.ts";
import { isWanted } from "../../core/orchestrator/slot.ts";
import type { Random } from "../../core/random.ts";
import type { StoreAction } from "../../core/store/action.ts";
import { parseCidr } from "../../core/store/cidr.ts";
import { parseCidr6 } from "../../core/store/cidr6.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { alignKeys } from "../api/align-keys.ts";
import { checkShape } from "../api/body.ts";
import { checkDataSpec, DATA_KINDS, type DataKind } from "../api/data-objects.ts";
import { withoutNulls } from "../api/go-values.ts";
import { nodeName } from "../api/lookup.ts";
import { withWords } from "../api/render.ts";
import { checkNetworkRequest, isClusterNetwork, planNetwork } from "../api/network-plan.ts";
import {
  createServiceAction,
  keptAuth,
  refuseFixedChanges,
  sameAuth,
  sealedAuth,
  updateAction,
  withAuth,
} from "../api/service-change.ts";
import {
  dataSpecSchema,
  type NetworkCreate,
  networkCreateSchema,
  serviceSpecSchema,
} from "../api/spec-schema.ts";
import {
  normaliseServiceSpec,
  resolveNetworks,
  validateName,
  validateServiceSpec,
} from "../api/validate.ts";
import { resolveContainerOptions } from "../reconciler/container-options.ts";
import { openSecret, sealSecret, type Vault } from "../vault.ts";
import { diffFields, type FieldChange } from "./diff.ts";
import { portTakers, withoutGivenPorts } from "./port-moves.ts";
import { createScratch, type Scratch } from "./scratch.ts";

export type StackWish = {
  name: string;
  files: StackRevision["files"];
  model: StackModel;
  /** base64, by the objects' names. Lacks those of a revision that is applied again. */
  data: { secrets: ReadonlyMap<string, string>; configs: ReadonlyMap<string, string> };
  /** Of a rollback. */
  repeats?: number;
  /** Whether services of the stack that the model lacks are removed. */
  prune: boolean;
  /** By service: the image with its digest. Others are taken as they are written. */
  images: ReadonlyMap<string, string>;
  /** X-Registry-Auth for the service's image, if the client gave any. */
  authOf(spec: ServiceSpec): string | undefined;
};

export type PlanTools = { random: Random; nowMs: UnixMs; vault: Vault };

export type StackChange = {
  kind: "service" | "network" | "secret" | "config";
  name: string;
  action: "create" | "update" | "remove" | "keep";
  /** Of an update. */
  fields: FieldChange[];
  /** What it means for what runs, in a sentence; empty where it means nothing. */
  effect: string;
};

export type StackPlan = {
  changes: StackChange[];
  /** False when all is as it shall be: there is nothing to propose. */
  isChange: boolean;
  /** The number of the revision that it makes, or that is the newest. */
  revision: number;
  token: string;
  /** What is not, or will not be, as the user may think. */
  warnings: string[];
  actions: StoreAction[];
};

type Draft = {
  scratch: Scratch;
  stack: string;
  stackId: string;
  wish: StackWish;
  tools: PlanTools;
  actions: StoreAction[];
  changes: StackChange[];
  /** Services that have given up ports to others by an action of this plan, by name, as they were before it. */
  released: Map<string, Service>;
  warnings: string[];
  /** What the token covers beside the changes: the versions they were made from. */
  basis: (string | number)[];
};

/** @throws {ClusterError} what the managers would refuse, and whose name, address or port it is. */
export function planStack(view: ClusterView, wish: StackWish, tools: PlanTools): StackPlan {
  validateName(wish.name);
  refuseOldManagers(view);
  const known = view.stackByName(wish.name);
  const draft: Draft = {
    scratch: createScratch(view, tools.nowMs),
    stack: wish.name,
    stackId: known?.id ?? newId(tools.random),
    wish,
    tools,
    actions: [],
    changes: [],
    released: new Map(),
    warnings: [],
    basis: [known?.version ?? 0],
  };
  refuseMissing(view, wish.model.externals);
  planRemovals(draft);
  planReleases(draft);
  for (const network of wish.model.networks)
    named("network", network, () => planOwnNetwork(draft, network));
  for (const secret of wish.model.secrets)
    named("secret", secret, () => planData(draft, DATA_KINDS.secrets, secret));
  for (const config of wish.model.configs)
    named("config", config, () => planData(draft, DATA_KINDS.configs, config));
  for (const service of wish.model.services)
    named("service", service, () => planService(draft, service));
  tellLeftovers(draft, known?.revisions.at(-1)?.model);
  const newest = known?.revisions.at(-1);
  // Sorted, so that the same images are the same text.
  const images = Object.fromEntries(byKey(wish.images));
  const isSameWish =
    newest !== undefined &&
    JSON.stringify([newest.files, newest.model, newest.images]) ===
      JSON.stringify([wish.files, wish.model, images]);
  let revision = newest?.number ?? 0;
  if (!isSameWish) {
    const revisions = withRevision(known?.revisions ?? [], {
      atMs: tools.nowMs,
      files: wish.files,
      model: wish.model,
      images,
      ...(wish.repeats === undefined ? {} : { repeats: wish.repeats }),
    });
    refuseSize(wish.name, revisions);
    revision = revisions.at(-1)?.number ?? 0;
    propose(
      draft,
      known
        ? {
            type: "update",
            table: "stack",
            id: known.id,
            ifVersion: known.version,
            set: { revisions },
          }
        : {
            type: "create",
            table: "stack",
            object: { id: draft.stackId, spec: { Name: wish.name }, revisions },
          },
    );
  }
  return {
    changes: draft.changes,
    isChange: draft.actions.length > 0,
    revision,
    token: tokenOf(draft),
    warnings: draft.warnings,
    actions: draft.actions,
  };
}

function refuseOldManagers(view: ClusterView): void {
  const old = view
    .nodes()
    .filter(
      ({ role, description }) =>
        role === "manager" && description && !description.knows?.includes("stack"),
    )
    .map(nodeName);
  if (old.length === 0) return;
  throw new ClusterError(
    "failed-precondition",
    `Cannot deploy a stack: managers ${old.join(", ")} run a version of shoal that knows no stacks; replace its binary there first`,
  );
}

function refuseSize(name: string, revisions: readonly StackRevision[]): void {
  const length = JSON.stringify(revisions).length;
  if (length <= STACK_LENGTH_MAX) return;
  throw new ClusterError(
    "invalid-argument",
    `Cannot keep stack ${name}: its files and what they mean are ${length} characters, at most ${STACK_LENGTH_MAX} are kept; make it several stacks`,
  );
}

/**
 * All that is wished, what it was planned from, and which objects it touches. Ids of objects that this plan makes are
 * random, and effects count tasks of the moment: they are no part of it.
 */
function tokenOf({ stack, basis, changes, wish }: Draft): string {
  const { model, data, images, prune, repeats = 0 } = wish;
  const touched = changes.map(({ kind, name, action }) => [kind, name, action]);
  const maps = [data.secrets, data.configs, images].map(byKey);
  const text = JSON.stringify([stack, basis, touched, model, maps, prune, repeats]);
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 32);
}

function byKey(map: ReadonlyMap<string, string>): [string, string][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Says in an error which object it is about. */
function named(kind: StackChange["kind"], { Name }: { Name: string }, plan: () => void): void {
  try {
    plan();
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    const text = error.message.replace(/^rpc error: code = \w+ desc = /, "");
    throw new ClusterError(error.code, `${kind} ${Name}: ${text}`, { cause: error });
  }
}

function propose(draft: Draft, action: StoreAction): void {
  const made = withoutKnownVersion(draft, action);
  draft.scratch.do(made);
  draft.actions.push(made);
}

/** Of a released service: its first action asks for the version, and makes one that only apply knows. */
function withoutKnownVersion(draft: Draft, action: StoreAction): StoreAction {
  if (action.type !== "update" || action.table !== "service") return action;
  const isReleased = [...draft.released.values()].some(({ id }) => id === action.id);
  if (!isReleased) return action;
  const { ifVersion: _known, ...rest } = action;
  return rest;
}

function tell(
  draft: Draft,
  change: Omit<StackChange, "fields" | "effect"> & Partial<StackChange>,
): void {
  draft.changes.push({ fields: [], effect: "", ...change });
}

function refuseMissing(view: ClusterView, externals: StackModel["externals"]): void {
  const missing = [
    ...externals.networks
      .filter((name) => !view.networkByName(name))
      .map((name) => `network ${name}`),
    ...externals.secrets.filter((name) => !view.secretByName(name)).map((name) => `secret ${name}`),
    ...externals.configs.filter((name) => !view.configByName(name)).map((name) => `config ${name}`),
  ];
  if (missing.length === 0) return;
  throw new ClusterError(
    "not-found",
    `Cannot deploy: declared as external and not there: ${missing.join(", ")}; create them first`,
  );
}

// ---- services ---------------------------------------------------------------------------------

/** First, so that their ports are free for others. */
function planRemovals(draft: Draft): void {
  if (!draft.wish.prune) return;
  const wanted = new Set(draft.wish.model.services.map(({ Name }) => Name));
  for (const { id, spec } of draft.scratch.view.services()) {
    if (spec.Labels?.[STACK_LABEL] !== draft.stack || wanted.has(spec.Name)) continue;
    propose(draft, { type: "remove", table: "service", id });
    const count = draft.scratch.view.tasksByService(id).filter(isWanted).length;
    tell(draft, { kind: "service", name: spec.Name, action: "remove", effect: stops(count) });
  }
}

/** Then ports that go to another service of the file. What nobody gives up is refused by the services' own actions. */
function planReleases(draft: Draft): void {
  const { services } = draft.wish.model;
  const takers = portTakers(services);
  for (const wish of services) {
    const service = draft.scratch.view.serviceByName(wish.Name);
    if (!service || service.spec.Labels?.[STACK_LABEL] !== draft.stack) continue;
    const set = withoutGivenPorts(service, wish, takers);
    if (!set) continue;
    const { id, version: ifVersion } = service;
    // The new spec is in an action of its own, in the same proposal.
    propose(draft, { type: "update", table: "service", id, ifVersion, set, isSameSpec: true });
    draft.released.set(wish.Name, service);
    warnOfRollback(draft, wish);
  }
}

function warnOfRollback({ stack, warnings }: Draft, { Name, UpdateConfig }: ServiceSpec): void {
  if (UpdateConfig?.FailureAction !== "rollback") return;
  warnings.push(
    `service ${Name} gives a published port to another service of the stack: if its update fails it goes back without it, and shoal stack rollback ${stack} gives both their ports again`,
  );
}

function planService(draft: Draft, given: ServiceSpec): void {
  const { scratch, tools, wish } = draft;
  const current = scratch.view.serviceByName(given.Name);
  const before = draft.released.get(given.Name) ?? current;
  if (before && before.spec.Labels?.[STACK_LABEL] !== draft.stack) throw notOurs(draft);
  const wanted = wantedSpec(draft, given, before);
  const auth = wish.authOf(wanted);
  const sealed = before
    ? (sameAuth(tools.vault, before, auth) ??
      sealedAuth(tools.vault, auth) ??
      keptAuth(before, "spec"))
    : sealedAuth(tools.vault, auth);
  const spec = resolveContainerOptions(withAuth(wanted, sealed));
  validateServiceSpec(scratch.view, spec, before);
  const change = { kind: "service", name: spec.Name } as const;
  if (!before || !current) {
    propose(draft, createServiceAction(newId(tools.random), spec, tools.nowMs));
    tell(draft, { ...change, action: "create", effect: starts(spec) });
    return;
  }
  refuseFixedChanges(before.spec, spec);
  draft.basis.push(before.specVersion);
  // Clients that read a spec and write it back add the names of defaults.
  if (isSameSpec(withWords(before.spec), withWords(spec))) {
    keepService(draft, before);
    return;
  }
  // Goes back, if it fails, to a spec without the ports that it gives away: others have them by then.
  propose(draft, updateAction(current, current.specVersion, spec, tools.nowMs));
  tell(draft, {
    ...change,
    action: "update",
    fields: diffFields(shown(scratch.view, before.spec), shown(scratch.view, spec)),
    effect: replaces(scratch.view, before, spec),
  });
}

/** An update that was given up is what a deployment asks for again; one that was rolled back to this spec is over. */
function keepService(draft: Draft, { id, spec, version, updateStatus }: Service): void {
  const change = { kind: "service", name: spec.Name } as const;
  const state = updateStatus?.state;
  if (state === undefined || state === "updating" || state === "completed") {
    tell(draft, { ...change, action: "keep" });
    return;
  }
  const unset = ["updateStatus"];
  propose(draft, { type: "update", table: "service", id, ifVersion: version, set: {}, unset });
  tell(draft, { ...change, action: "update", effect: `no longer ${state.replace("_", " ")}` });
}

/** Canonical, with ids in place of names, and with what a deployment keeps of the service that is there. */
function wantedSpec(draft: Draft, given: ServiceSpec, before: Service | undefined): ServiceSpec {
  const { view } = draft.scratch;
  const aligned = alignKeys(withoutNulls(structuredClone(given)), serviceSpecSchema);
  const named = normaliseServiceSpec(checkShape(aligned, serviceSpecSchema));
  const { spec, unknown } = resolveNetworks(view, named);
  if (unknown !== undefined) throw new ClusterError("not-found", `network ${unknown} not found`);
  const container = { ...spec.TaskTemplate.ContainerSpec };
  const image = draft.wish.images.get(given.Name);
  if (image !== undefined) container.Image = image;
  const withIds = (
    references: Record<string, unknown>[] | undefined,
    kind: "Secret" | "Config",
    find: (name: string) => Secret | undefined,
  ) =>
    references?.map((reference) => {
      const name = reference[`${kind}Name`];
      const id = typeof name === "string" ? find(name)?.id : undefined;
      if (id === undefined)
        throw new ClusterError(
          "not-found",
          `${kind.toLowerCase()} ${JSON.stringify(name)} not found`,
        );
      return { ...reference, [`${kind}ID`]: id };
    });
  const Secrets = withIds(container.Secrets, "Secret", view.secretByName);
  const Configs = withIds(container.Configs, "Config", view.configByName);
  if (Secrets) container.Secrets = Secrets;
  if (Configs) container.Configs = Configs;
  const ForceUpdate = before?.spec.TaskTemplate.ForceUpdate;
  return {
    ...spec,
    TaskTemplate: {
      ...spec.TaskTemplate,
      ContainerSpec: container,
      ...(ForceUpdate === undefined ? {} : { ForceUpdate }),
    },
  };
}

/** Without credentials, ids, and what follows from other fields; networks by name. */
function shown(view: ClusterView, spec: ServiceSpec): unknown {
  const { TaskTemplate, ...rest } = withWords(spec);
  const { PullOptions: _auth, EngineOptions: _resolved, ...container } = TaskTemplate.ContainerSpec;
  const withoutIds = (references: Record<string, unknown>[] | undefined) =>
    references?.map(({ SecretID: _secret, ConfigID: _config, ...reference }) => reference);
  const Networks = TaskTemplate.Networks?.map((one) => ({
    ...one,
    Target: view.network(one.Target)?.spec.Name ?? one.Target,
  }));
  const ContainerSpec = {
    ...container,
    Secrets: withoutIds(container.Secrets),
    Configs: withoutIds(container.Configs),
  };
  return { ...rest, TaskTemplate: { ...TaskTemplate, ContainerSpec, Networks } };
}

function tasks(count: number): string {
  return count === 1 ? "1 task" : `${count} tasks`;
}

function stops(count: number): string {
  return count === 0 ? "" : `stops ${tasks(count)}`;
}

function starts(spec: ServiceSpec): string {
  const { Replicated, ReplicatedJob } = spec.Mode;
  if (Replicated) return `starts ${tasks(Replicated.Replicas ?? 1)}`;
  if (isScheduled(spec)) return `runs at its times: ${spec.Labels?.[SCHEDULE_LABEL]}`;
  if (ReplicatedJob) return `runs ${ReplicatedJob.TotalCompletions ?? 1} to completion`;
  return spec.Mode.GlobalJob ? "runs once on every node" : "starts a task on every node";
}

function replaces(view: ClusterView, before: Service, spec: ServiceSpec): string {
  if (isScheduled(spec)) return "its next run is of it";
  if (isJob(spec)) return "the job runs again";
  // A version that no task has: each is looked at.
  const after = { ...before, spec, specVersion: -1 };
  const wanted = view.tasksByService(before.id).filter(isWanted);
  const count = wanted.filter((task) => isTaskDirty(view, after, task)).length;
  const { Parallelism = 1, Order = "stop-first" } = spec.UpdateConfig ?? {};
  const pace = Parallelism === 0 ? "all at once" : `${Parallelism} at a time`;
  const replaced =
    count === 0 ? "no task is replaced" : `replaces ${tasks(count)}, ${pace}, ${Order}`;
  const from = before.spec.Mode.Replicated?.Replicas ?? 1;
  const to = spec.Mode.Replicated?.Replicas ?? 1;
  if (to === from) return replaced;
  return `${replaced}; ${to > from ? "starts" : "stops"} ${tasks(Math.abs(to - from))}`;
}

// ---- networks, secrets, configs ---------------------------------------------------------------

function notOurs(draft: Draft): ClusterError {
  return new ClusterError(
    "name-conflict",
    `it is there and not of stack ${draft.stack} (label ${STACK_LABEL}): remove it, or give one of the two another name`,
  );
}

/** What a client made under the stack's name, or a removed stack of that name has left, becomes this stack's. */
function keep(
  draft: Draft,
  change: Pick<StackChange, "kind" | "name">,
  labels: { before: Labels; wanted: Labels },
  relabel: (labels: Labels) => StoreAction,
): void {
  const wanted = { ...labels.wanted, [STACK_ID_LABEL]: draft.stackId };
  const fields = diffFields({ Labels: labels.before }, { Labels: wanted });
  if (fields.length === 0) {
    tell(draft, { ...change, action: "keep" });
    return;
  }
  propose(draft, relabel(wanted));
  const isOurs = labels.before[STACK_ID_LABEL] === draft.stackId;
  tell(draft, {
    ...change,
    action: "update",
    fields: fields.filter(({ path }) => path !== `Labels.${STACK_ID_LABEL}`),
    effect: isOurs ? "" : "belongs to the stack from now on",
  });
}

function planOwnNetwork(draft: Draft, model: StackNetwork): void {
  const { view } = draft.scratch;
  const request = checkShape(
    { ...model, Labels: { ...model.Labels, [STACK_ID_LABEL]: draft.stackId } },
    networkCreateSchema,
  );
  const change = { kind: "network", name: request.Name } as const;
  const before = view.networkByName(request.Name);
  if (before) {
    if (before.spec.Labels?.[STACK_LABEL] !== draft.stack) throw notOurs(draft);
    refuseOtherNetwork(before, request);
    warnOfOtherNetwork(draft, before, request);
    const { Labels } = before.spec;
    keep(draft, change, { before: Labels, wanted: Labels }, (Labels) => ({
      type: "update",
      table: "network",
      id: before.id,
      ifVersion: before.version,
      set: { spec: { ...before.spec, Labels } },
    }));
    return;
  }
  if (!isClusterNetwork(request)) {
    throw new ClusterError(
      "invalid-argument",
      `driver "${request.Driver}" is a node's own: use overlay, or declare as external a network made with --scope swarm`,
    );
  }
  checkNetworkRequest(request);
  const object = planNetwork(view, request, newId(draft.tools.random));
  propose(draft, { type: "create", table: "network", object });
  tell(draft, { ...change, action: "create" });
}

/** A subnet by its first and last address, however it is written. */
function rangeText(subnet: string): string {
  const range = parseCidr(subnet) ?? parseCidr6(subnet);
  return range ? `${range.first}-${range.last}` : subnet;
}

function addressText(address: string): string {
  return rangeText(`${address}/${address.includes(":") ? 128 : 32}`);
}

/** Tasks are on it: a network is made once. */
function refuseOtherNetwork({ spec }: Network, wanted: NetworkCreate): void {
  // Canonical, and only of the families that the file names: the other one is the cluster's to choose.
  const named = new Set(wanted.IPAM.Config.map(({ Subnet }) => Subnet?.includes(":")));
  const subnets = (config: readonly { Subnet?: string }[]) =>
    config
      .flatMap(({ Subnet }) => (Subnet && named.has(Subnet.includes(":")) ? rangeText(Subnet) : []))
      .sort();
  const compared = (one: typeof spec | NetworkCreate) => ({
    Driver: one.Driver,
    Internal: one.Internal,
    Attachable: one.Attachable,
    EnableIPv6: one.EnableIPv6,
    Options: one.Options,
    Subnets: subnets(one.IPAM?.Config ?? []),
  });
  const [first] = diffFields(compared(spec), compared(wanted));
  if (!first) return;
  throw new ClusterError(
    "failed-precondition",
    `a network is never changed, and ${first.path} is ${JSON.stringify(first.from ?? null)} where ${JSON.stringify(first.to ?? null)} is wanted: give it another name (name: …) in the file`,
  );
}

/** What is never changed and breaks nothing as it is: the services go on, and the user is told. */
function warnOfOtherNetwork(draft: Draft, { spec }: Network, wanted: NetworkCreate): void {
  const { [STACK_ID_LABEL]: _before, ...before } = spec.Labels;
  const { [STACK_ID_LABEL]: _wanted, ...labels } = wanted.Labels;
  const fields = diffFields({ Labels: before }, { Labels: labels });
  for (const pool of wanted.IPAM.Config) {
    const subnet = pool.Subnet === undefined ? undefined : rangeText(pool.Subnet);
    const known = spec.IPAM.Config.find((one) => rangeText(one.Subnet ?? "") === subnet);
    if (!known) continue;
    const isOtherGateway =
      pool.Gateway !== undefined && addressText(pool.Gateway) !== addressText(known.Gateway ?? "");
    if (isOtherGateway) fields.push({ path: "Gateway", from: known.Gateway, to: pool.Gateway });
    if (rangeText(pool.IPRange ?? "") !== rangeText(known.IPRange ?? "")) {
      fields.push({ path: "IPRange", from: known.IPRange, to: pool.IPRange });
    }
  }
  if (fields.length === 0) return;
  const value = (given: unknown) => (given === undefined ? "nothing" : JSON.stringify(given));
  const what = fields.map(({ path, from, to }) => `${path} ${value(from)}, not ${value(to)}`);
  draft.warnings.push(
    `network ${wanted.Name} is never changed and keeps ${what.join("; ")}: give it another name (name: …) in the file to have it made anew`,
  );
}

function planData(draft: Draft, of: DataKind, model: StackData): void {
  const { scratch, tools, wish } = draft;
  const data = wish.data[`${of.kind}s`].get(model.Name);
  const before = of.byName(scratch.view, model.Name);
  const labels = { ...model.Labels, [STACK_ID_LABEL]: draft.stackId };
  const change = { kind: of.kind, name: model.Name } as const;
  if (before) {
    if (before.spec.Labels?.[STACK_LABEL] !== draft.stack) throw notOurs(draft);
    if (data !== undefined) refuseOtherData(tools.vault, before, data);
    refuseOtherTemplating(before, model);
    const { Labels } = before.spec;
    keep(draft, change, { before: Labels, wanted: labels }, (Labels) => ({
      type: "update",
      table: of.kind,
      id: before.id,
      ifVersion: before.version,
      set: { spec: { ...before.spec, Labels } },
    }));
    return;
  }
  if (data === undefined) {
    throw new ClusterError(
      "failed-precondition",
      "it was removed since that revision, and its data with it: deploy the file again",
    );
  }
  const given = { ...model, Labels: labels, Data: data };
  const spec = checkDataSpec(of, checkShape(given, dataSpecSchema));
  const id = newId(tools.random);
  const stored: SecretSpec = of.isSealed ? sealSecret(tools.vault, id, spec) : spec;
  propose(draft, { type: "create", table: of.kind, object: { id, spec: stored } });
  tell(draft, { ...change, action: "create" });
}

/** Only where the file gives a name: else it has a digest of the data. */
function refuseOtherData(vault: Vault, { id, spec }: Secret, data: string): void {
  const before = Buffer.from(openSecret(vault, id, spec).Data ?? "", "base64");
  if (before.equals(Buffer.from(data, "base64"))) return;
  throw new ClusterError(
    "failed-precondition",
    "its data is other, and cannot be changed: leave name: out of the file, so that each version has a name of its own, or give it another name",
  );
}

function refuseOtherTemplating({ spec }: Secret, { Templating }: StackData): void {
  const [from, to] = [spec.Templating?.Name ?? "", Templating?.Name ?? ""];
  if (from === to) return;
  throw new ClusterError(
    "failed-precondition",
    `its template_driver is ${JSON.stringify(from)} where ${JSON.stringify(to)} is wanted, and cannot be changed: leave name: out of the file, or give it another name`,
  );
}

/** What goes as soon as nothing uses it; of secrets and configs, when no kept revision names it. */
function tellLeftovers(draft: Draft, before: StackModel | undefined): void {
  const wanted = new Set(draft.wish.model.networks.map(({ Name }) => Name));
  for (const { Name } of before?.networks ?? []) {
    const labels = draft.scratch.view.networkByName(Name)?.spec.Labels;
    if (wanted.has(Name) || labels?.[STACK_ID_LABEL] !== draft.stackId) continue;
    const effect = "once no task is on it";
    tell(draft, { kind: "network", name: Name, action: "remove", effect });
  }
}
