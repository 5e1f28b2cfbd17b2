/**
 * What a service's spec may say, with stock Swarm's texts, so that a user learns of a mistake at the
 * call and not from a pending task. Pure: over the view of the moment; uniqueness and references are
 * checked again by apply.
 *
 * Source: SwarmKit manager/controlapi/service.go, common.go; moby daemon/cluster/services.go,
 * convert/service.go.
 */
import { checkFixedAddresses } from "../../core/allocator/fixed.ts";
import { ClusterError } from "../../core/errors.ts";
import { genericReservationProblem } from "../../core/objects/generic-resource.ts";
import {
  type EndpointSpec,
  isJob,
  type Service,
  type ServiceSpec,
  type UpdateConfig,
} from "../../core/objects/service.ts";
import type { ContainerSpec, TaskSpec } from "../../core/objects/task.ts";
import { drainProblem } from "../../core/dispatcher/withdrawal.ts";
import { balancingProblem } from "../../core/objects/balancing.ts";
import { scheduleProblem } from "../../core/objects/job-schedule.ts";
import { DEPENDS_ON_LABEL, dependencyProblem } from "../../core/objects/start-order.ts";
import { rollbackProblem, slotNameProblem, statefulProblem } from "../../core/objects/stateful.ts";
import { progressDeadlineProblem } from "../../core/orchestrator/progress-deadline.ts";
import { parseConstraints } from "../../core/scheduler/constraint.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { expandTemplate, type TemplateContext } from "../reconciler/template.ts";
import { findNetwork } from "./lookup.ts";
import { controlError } from "./problem.ts";
import type { ParsedServiceSpec } from "./spec-schema.ts";

const NAME_PATTERN = /^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$/;
const PROPAGATIONS = new Set(["", "rprivate", "private", "rshared", "shared", "rslave", "slave"]);
const NAME_LENGTH_MAX = 63;
const CPU_NANO_MIN = 1_000_000;
const MEMORY_BYTES_MIN = 4 * 1024 * 1024;
const HEALTH_DURATION_NS_MIN = 1_000_000;

/** A text of an object that is kept loosely; the schema has checked that it is one, if there. */
function textOf(object: Record<string, unknown>, field: string): string {
  const value = object[field];
  return typeof value === "string" ? value : "";
}

function refuse(message: string): never {
  throw controlError("invalid-argument", message);
}

function notYet(what: string, instead: string): never {
  throw controlError("not-implemented", `${what} not supported yet: ${instead}`);
}

/** @throws {ClusterError} invalid-argument for names that are no DNS component. */
export function validateName(name: string): void {
  if (name === "") refuse("meta: name must be provided");
  if (name.length > NAME_LENGTH_MAX) refuse(`name must be ${NAME_LENGTH_MAX} characters or fewer`);
  if (!NAME_PATTERN.test(name)) refuse("name must be valid as a DNS name component");
}

/**
 * The form in which a spec is stored: one mode with its count, networks in their one place, a
 * runtime. Which networks are meant is left to resolveNetworks().
 * @throws {ClusterError} not-implemented for runtimes that we do not run;
 * invalid-argument for more than one mode.
 */
export function normaliseServiceSpec(parsed: ParsedServiceSpec): ServiceSpec {
  const { Networks: legacyNetworks, Mode, ...rest } = parsed;
  const { ContainerSpec, PluginSpec, NetworkAttachmentSpec, ...template } = parsed.TaskTemplate;
  const runtime = template.Runtime || "container";
  if (runtime === "container" && !ContainerSpec) {
    throw new ClusterError("invalid-argument", "mismatched Runtime and *Spec fields");
  }
  if (runtime === "plugin") return pluginService(parsed);
  if (PluginSpec) {
    throw new ClusterError("invalid-argument", "mismatched Runtime and *Spec fields");
  }
  if (NetworkAttachmentSpec || runtime === "attachment") {
    notYet("services of runtime attachment are", "use runtime container");
  }
  if (runtime !== "container") refuse(`TaskSpec: runtime "${runtime}" is unknown: use container`);
  const modes = Object.values(Mode).filter((mode) => mode !== undefined);
  if (modes.length > 1) {
    throw new ClusterError("invalid-argument", "must specify only one service mode");
  }
  const networks = template.Networks?.length ? template.Networks : (legacyNetworks ?? []);
  const { Networks: _, ...templateRest } = template;
  const spec = {
    ...rest,
    TaskTemplate: {
      ContainerSpec: ContainerSpec ?? { Image: "", Isolation: "default" },
      ...templateRest,
      ...(networks.length > 0 ? { Networks: networks } : {}),
      Runtime: runtime,
    },
    Mode: storedMode(Mode),
  };
  // The schema has left out the empty words ("") that its types still carry.
  return spec as ServiceSpec;
}

/**
 * A service that has a plugin installed on every node. Source: moby daemon/cluster/convert/service.go.
 */
function pluginService(parsed: ParsedServiceSpec): ServiceSpec {
  const { Networks: _, Mode, EndpointSpec, ...rest } = parsed;
  const given = parsed.TaskTemplate.PluginSpec;
  if (!given) throw new ClusterError("invalid-argument", "mismatched Runtime and *Spec fields");
  if (Mode.Replicated) {
    throw new ClusterError("invalid-argument", "plugins must not use replicated mode");
  }
  if (Mode.ReplicatedJob || Mode.GlobalJob) refuse("a plugin is no job: use global mode");
  if (EndpointSpec?.Ports?.length) refuse("a plugin publishes no ports: leave them out");
  const { PluginPrivilege, remote = "", privileges = PluginPrivilege, ...plugin } = given;
  if (remote === "") refuse("PluginSpec: remote must be provided: where the plugin is pulled from");
  const { RestartPolicy, Placement, ForceUpdate } = parsed.TaskTemplate;
  const spec = {
    ...rest,
    TaskTemplate: {
      ContainerSpec: { Image: remote },
      PluginSpec: { ...plugin, remote, ...(privileges ? { privileges } : {}) },
      ...(RestartPolicy ? { RestartPolicy } : {}),
      ...(Placement ? { Placement } : {}),
      ForceUpdate,
      Runtime: "plugin",
    },
    Mode: { Global: {} },
  };
  // As in normaliseServiceSpec.
  return spec as ServiceSpec;
}

/**
 * With its counts, which clients read without asking whether they are there. Source of the
 * defaults: moby daemon/cluster/convert/service.go.
 */
function storedMode(mode: ParsedServiceSpec["Mode"]): ServiceSpec["Mode"] {
  if (mode.Global) return { Global: {} };
  if (mode.GlobalJob) return { GlobalJob: {} };
  if (!mode.ReplicatedJob) return { Replicated: { Replicas: mode.Replicated?.Replicas ?? 1 } };
  const MaxConcurrent = mode.ReplicatedJob.MaxConcurrent ?? 1;
  const TotalCompletions = mode.ReplicatedJob.TotalCompletions ?? MaxConcurrent;
  return { ReplicatedJob: { MaxConcurrent, TotalCompletions } };
}

/**
 * Networks by id in place of names. `unknown` names what the cluster does not have (the caller asks
 * the engine whether it is one of its own, to say so).
 * @throws {ClusterError} invalid-argument when ambiguous, named twice, or not for services.
 */
export function resolveNetworks(
  view: ClusterView,
  spec: ServiceSpec,
): { spec: ServiceSpec; unknown?: string } {
  const attachments = spec.TaskTemplate.Networks ?? [];
  if (attachments.length === 0) return { spec };
  const resolved: NonNullable<TaskSpec["Networks"]> = [];
  let exclusiveName: string | undefined;
  for (const attachment of attachments) {
    try {
      const network = findNetwork(view, attachment.Target);
      const name = network.spec.Name;
      if (network.spec.Ingress) {
        refuse(`Service cannot be explicitly attached to the ingress network "${name}"`);
      }
      if (resolved.some((other) => other.Target === network.id)) {
        refuse(`network "${name}" is listed twice`);
      }
      if (network.predefined && network.spec.Driver !== "bridge") exclusiveName = name;
      resolved.push({ ...attachment, Target: network.id });
    } catch (error) {
      if (!(error instanceof ClusterError) || error.code !== "not-found") throw error;
      return { spec, unknown: attachment.Target };
    }
  }
  if (exclusiveName !== undefined && resolved.length > 1) {
    refuse(`network "${exclusiveName}" cannot be combined with other networks`);
  }
  return { spec: { ...spec, TaskTemplate: { ...spec.TaskTemplate, Networks: resolved } } };
}

/**
 * Checks a spec whose networks are resolved. `service` is the one to be updated, if any.
 * @throws {ClusterError} invalid-argument with stock's text; not-implemented.
 */
export function validateServiceSpec(view: ClusterView, spec: ServiceSpec, service?: Service): void {
  validateName(spec.Name);
  validateTaskSpec(spec.TaskTemplate);
  if (isJob(spec)) {
    if (spec.UpdateConfig) refuse("Jobs may not have an update config");
    if (spec.RollbackConfig) refuse("Jobs may not have a rollback config");
  }
  validateExtensions(view, spec, service?.id);
  validateUpdateConfig(spec.UpdateConfig);
  validateUpdateConfig(spec.RollbackConfig);
  validateEndpoint(spec.EndpointSpec);
  validateTemplates(spec);
  validateReferences(view, spec.TaskTemplate.ContainerSpec);
  checkFixedAddresses(view, spec, service?.id);
  validatePortsFree(view, spec, service?.id);
}

function validateTaskSpec(template: TaskSpec): void {
  validateContainer(template.ContainerSpec);
  for (const part of [template.Resources?.Limits, template.Resources?.Reservations]) {
    const { NanoCPUs: cpuNano, MemoryBytes: memoryBytes } = part ?? {};
    if (cpuNano !== undefined && cpuNano < CPU_NANO_MIN) {
      refuse(
        `invalid cpu value ${goNumber(cpuNano / 1e9)}: Must be at least ${CPU_NANO_MIN / 1e9}`,
      );
    }
    if (memoryBytes !== undefined && memoryBytes < MEMORY_BYTES_MIN) {
      refuse(`invalid memory value ${memoryBytes}: Must be at least 4MiB`);
    }
  }
  if (template.Resources?.SwapBytes !== undefined && !template.Resources.Limits?.MemoryBytes) {
    refuse("memory swap provided, but no memory-limit was set");
  }
  const restart = template.RestartPolicy;
  if ((restart?.Delay ?? 0) < 0) refuse("TaskSpec: restart-delay cannot be negative");
  if ((restart?.Window ?? 0) < 0) refuse("TaskSpec: restart-window cannot be negative");
  validateConstraints(template.Placement?.Constraints ?? []);
}

function validateConstraints(constraints: string[]): void {
  try {
    parseConstraints(constraints);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    refuse(error.message);
  }
}

function validateContainer(container: ContainerSpec): void {
  if (container.Image === "") refuse("ContainerSpec: image reference must be provided");
  if (!isImageReference(container.Image)) {
    refuse(`ContainerSpec: "${container.Image}" is not a valid repository/tag`);
  }
  const targets = new Set<string>();
  for (const mount of container.Mounts ?? []) {
    const target = textOf(mount, "Target");
    if (target === "") refuse("ContainerSpec: mount target must be provided");
    if (targets.has(target)) refuse(`ContainerSpec: duplicate mount point: ${target}`);
    targets.add(target);
    validateMount(mount, target);
  }
  const health = container.Healthcheck;
  for (const field of ["Interval", "Timeout", "StartPeriod", "StartInterval"] as const) {
    const ns = health?.[field];
    if (ns !== undefined && ns < HEALTH_DURATION_NS_MIN) {
      refuse(`ContainerSpec: ${field} in HealthConfig cannot be less than 1ms`);
    }
  }
  if ((health?.Retries ?? 0) < 0) {
    refuse("ContainerSpec: Retries in HealthConfig cannot be negative");
  }
  if ((container.StopGracePeriod ?? 0) < 0) {
    refuse("ContainerSpec: stop-grace-period cannot be negative");
  }
  validateCredentialSpec(container);
  validateFileReferences("secret", container.Secrets ?? []);
  validateFileReferences("config", container.Configs ?? []);
}

function validateMount(mount: Record<string, unknown>, target: string): void {
  const type = textOf(mount, "Type");
  if (type === "cluster") notYet("cluster volumes (CSI) are", "use a volume driver");
  if (type === "npipe") refuse(`invalid mount ${target}: npipe mounts are for Windows`);
  if (!["", "bind", "volume", "tmpfs", "image"].includes(type)) {
    throw new ClusterError("invalid-argument", `invalid MountType: "${type}"`);
  }
  const bind = mount["BindOptions"];
  const propagation =
    typeof bind === "object" && bind !== null && "Propagation" in bind
      ? String(bind.Propagation)
      : "";
  if (!PROPAGATIONS.has(propagation)) {
    throw new ClusterError("invalid-argument", `invalid MountPropagation: "${propagation}"`);
  }
  if (type === "bind" && !mount["Source"]) {
    refuse(`invalid bind mount ${target}: its source must be provided`);
  }
  if (type === "tmpfs" && mount["Source"]) {
    refuse(`invalid tmpfs mount ${target}: it cannot have a source`);
  }
}

/** Each names an object and a file of its own. */
function validateFileReferences(kind: "secret" | "config", references: Record<string, unknown>[]) {
  const idField = kind === "secret" ? "SecretID" : "ConfigID";
  const nameField = kind === "secret" ? "SecretName" : "ConfigName";
  const targets = new Map<string, string>();
  for (const reference of references) {
    const name = textOf(reference, nameField);
    if (!reference[idField] || !name) refuse(`malformed ${kind} reference`);
    // Runtime configs are not mounted; a credential spec reads them.
    if (kind === "config") {
      if (reference["Runtime"] && reference["File"]) {
        throw new ClusterError(
          "invalid-argument",
          "invalid Config: cannot specify both File and Runtime",
        );
      }
      if (reference["Runtime"]) continue;
      if (!reference["File"]) {
        throw new ClusterError(
          "invalid-argument",
          "invalid Config: either File or Runtime should be set",
        );
      }
    }
    const file = reference["File"];
    if (typeof file !== "object" || file === null || !("Name" in file)) {
      refuse(`malformed ${kind} reference, no target provided`);
    }
    const target = String(file.Name);
    if (target === "") {
      refuse(`malformed file ${kind} reference, invalid target file name provided`);
    }
    const other = targets.get(target);
    if (other !== undefined) {
      refuse(`${kind} references '${other}' and '${name}' have a conflicting target: '${target}'`);
    }
    targets.set(target, name);
  }
}

function validateReferences(view: ClusterView, container: ContainerSpec): void {
  const check = (
    kind: "secret" | "config",
    references: Record<string, unknown>[],
    [idField, nameField]: [string, string],
    nameOf: (id: string) => string | undefined,
  ) => {
    const missing = references
      .filter((reference) => nameOf(textOf(reference, idField)) !== textOf(reference, nameField))
      .map((reference) => textOf(reference, nameField));
    if (missing.length === 0) return;
    refuse(`${kind}${missing.length > 1 ? "s" : ""} not found: ${missing.join(", ")}`);
  };
  check(
    "secret",
    container.Secrets ?? [],
    ["SecretID", "SecretName"],
    (id) => view.secret(id)?.spec.Name,
  );
  check(
    "config",
    container.Configs ?? [],
    ["ConfigID", "ConfigName"],
    (id) => view.config(id)?.spec.Name,
  );
}

function validateExtensions(view: ClusterView, spec: ServiceSpec, ownId: string | undefined): void {
  const generic = spec.TaskTemplate.Resources?.Reservations?.GenericResources ?? [];
  const problem =
    genericReservationProblem(generic) ??
    progressDeadlineProblem(spec) ??
    drainProblem(spec.Labels) ??
    balancingProblem(spec) ??
    scheduleProblem(spec) ??
    statefulProblem(spec) ??
    slotNameProblem(spec, namesBeside(view, ownId));
  if (problem !== undefined) refuse(problem);
  validateDependencies(view, spec, ownId);
}

function validateDependencies(
  view: ClusterView,
  spec: ServiceSpec,
  ownId: string | undefined,
): void {
  const others = view.services().flatMap((other) => (other.id === ownId ? [] : [other.spec]));
  const problem = dependencyProblem(spec, others);
  if (problem !== undefined) refuse(`label ${DEPENDS_ON_LABEL}: ${problem}`);
}

/** The specs of all services but one; and what those that have homes may be rolled back to by themselves. */
function namesBeside(view: ClusterView, ownId: string | undefined): ServiceSpec[] {
  return view.services().flatMap(({ id, spec, previousSpec, slots }) => {
    if (id === ownId) return [];
    return slots && previousSpec ? [spec, previousSpec] : [spec];
  });
}

/**
 * Checks the spec to which a user rolls the service back: it was good when it was set, but others may have its
 * names and addresses now.
 * @throws {ClusterError} invalid-argument, failed-precondition, or in-use.
 */
export function validateRollback(view: ClusterView, service: Service, to: ServiceSpec): void {
  const problem = statefulProblem(to) ?? slotNameProblem(to, namesBeside(view, service.id));
  if (problem !== undefined) refuse(problem);
  validateDependencies(view, to, service.id);
  const loss = rollbackProblem(service, to);
  if (loss !== undefined) throw new ClusterError("failed-precondition", loss);
  checkFixedAddresses(view, to, service.id);
}

function validateUpdateConfig(config: UpdateConfig | undefined): void {
  if (!config) return;
  if ((config.Delay ?? 0) < 0) refuse("TaskSpec: update-delay cannot be negative");
  if ((config.Monitor ?? 0) < 0) refuse("TaskSpec: update-monitor cannot be negative");
  const ratio = config.MaxFailureRatio ?? 0;
  if (ratio < 0 || ratio > 1) {
    refuse("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1");
  }
}

function validateEndpoint(endpoint: EndpointSpec | undefined): void {
  const published = new Set<string>();
  for (const port of endpoint?.Ports ?? []) {
    const mode = port.PublishMode ?? "ingress";
    if (endpoint?.Mode === "dnsrr" && mode === "ingress") {
      refuse("EndpointSpec: port published with ingress mode can't be used with dnsrr mode");
    }
    if (port.TargetPort === 0) refuse("EndpointSpec: a target port must be provided");
    if (!port.PublishedPort) continue;
    const key = `${port.PublishedPort}/${port.Protocol ?? "tcp"}`;
    if (published.has(key)) refuse("EndpointSpec: duplicate published ports provided");
    published.add(key);
  }
}

/** An ingress port is one service's on all nodes; host ports of two services may be the same. */
function validatePortsFree(view: ClusterView, spec: ServiceSpec, ownId: string | undefined): void {
  const wanted = new Map<string, "ingress" | "host">();
  for (const port of spec.EndpointSpec?.Ports ?? []) {
    if (!port.PublishedPort) continue;
    const key = `${port.PublishedPort}/${port.Protocol ?? "tcp"}`;
    if (wanted.get(key) !== "ingress") wanted.set(key, port.PublishMode ?? "ingress");
  }
  if (wanted.size === 0) return;
  for (const other of view.services()) {
    if (other.id === ownId) continue;
    const ports = [...(other.spec.EndpointSpec?.Ports ?? []), ...(other.endpoint?.ports ?? [])];
    for (const port of ports) {
      const mode = wanted.get(`${port.PublishedPort ?? 0}/${port.Protocol ?? "tcp"}`);
      const isHostPort = port.PublishMode === "host";
      if (!mode || (isHostPort && mode === "host")) continue;
      refuse(
        `port '${port.PublishedPort}' is already in use by service '${other.spec.Name}' (${other.id}) as ${isHostPort ? "a host-published" : "an ingress"} port`,
      );
    }
  }
}

/** As Go's %v prints it: exponents have two digits. */
function goNumber(value: number): string {
  return String(value).replace(/e([+-])(\d)$/, "e$10$2");
}

/**
 * Expands every template once, over a task that could be, so that a mistake is told at the call.
 * Source: SwarmKit manager/controlapi/service.go, template/expand.go.
 */
function validateTemplates(spec: ServiceSpec): void {
  const context: TemplateContext = {
    fields: {
      Service: { ID: "id", Name: spec.Name, Labels: { ...spec.Labels } },
      Node: {
        ID: "id",
        Hostname: "host",
        Platform: { Architecture: "x86_64", OS: "linux" },
      },
      Task: { ID: "id", Name: `${spec.Name}.1.id`, Slot: "1" },
    },
  };
  const check = (what: string, text: unknown) => {
    if (typeof text !== "string" || !text.includes("{{")) return;
    try {
      expandTemplate(text, context);
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      refuse(`expanding ${what} failed: ${error.message}`);
    }
  };
  const container = spec.TaskTemplate.ContainerSpec;
  for (const variable of container.Env ?? []) check("env", variable);
  check("hostname", container.Hostname);
  for (const mount of container.Mounts ?? []) {
    check("mount source", mount["Source"]);
    check("mount target", mount["Target"]);
  }
}

/** For Windows, but refused as in stock. Source: moby daemon/cluster/convert/container.go. */
function validateCredentialSpec(container: ContainerSpec): void {
  const given = container.Privileges?.["CredentialSpec"];
  if (typeof given !== "object" || given === null) return;
  const kinds = Object.entries(given)
    .filter(([, value]) => value !== "")
    .map(([kind]) => `"${kind.toLowerCase()}"`);
  const [first, second] = ['"config"', '"file"', '"registry"'].filter((kind) =>
    kinds.includes(kind),
  );
  if (first === undefined) {
    throw new ClusterError(
      "invalid-argument",
      'invalid CredentialSpec: must either provide "file", "registry", or "config" for credential spec',
    );
  }
  if (second !== undefined) {
    throw new ClusterError(
      "invalid-argument",
      `invalid CredentialSpec: cannot specify both ${first} and ${second} credential specs`,
    );
  }
}

const HOST_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
const DOMAIN = `(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[[0-9a-fA-F:]+\\])(?::[0-9]+)?`;
const COMPONENT = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const TAG = "\\w[\\w.-]{0,127}";
const DIGEST = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
const IMAGE = new RegExp(
  `^(?:${DOMAIN}/)?${COMPONENT}(?:/${COMPONENT})*(?::${TAG})?(?:@${DIGEST})?$`,
);

/** Source: distribution/reference, grammar of references. */
function isImageReference(reference: string): boolean {
  // A bare image id names no repository.
  return IMAGE.test(reference) && !/^[0-9a-f]{64}$/.test(reference);
}
