/**
 * What a new spec does to a service that is there, and the registry credentials in it: for the calls of
 * /services and for stacks, which change many at once.
 */
import { ClusterError } from "../../core/errors.ts";
import type { ServiceId, UnixMs } from "../../core/ids.ts";
import { isScheduled } from "../../core/objects/job-schedule.ts";
import { isJob, modeOf, type Service, type ServiceSpec } from "../../core/objects/service.ts";
import type { StoreAction } from "../../core/store/action.ts";
import { openRegistryAuth, sealRegistryAuth, type Vault } from "../vault.ts";
import { controlError } from "./problem.ts";

/** A service that is new, for its first proposal. */
export function createServiceAction(id: ServiceId, spec: ServiceSpec, nowMs: UnixMs): StoreAction {
  const job = isJob(spec) ? { jobStatus: { iteration: 0, lastExecutionAtMs: nowMs } } : {};
  return { type: "create", table: "service", object: { id, spec, ...job } };
}

export function refuseFixedChanges(current: ServiceSpec, wanted: ServiceSpec): void {
  if (current.Name !== wanted.Name) {
    throw controlError("not-implemented", "renaming services is not supported");
  }
  if (modeOf(current) !== modeOf(wanted)) {
    throw controlError("not-implemented", "service mode change is not allowed");
  }
}

/**
 * Any update to `spec` runs a job again, also one that changes nothing; a job that runs at times only when it is
 * forced.
 */
export function nextRun(
  service: Service,
  spec: ServiceSpec,
  nowMs: number,
): Pick<Service, "jobStatus"> {
  if (!isJob(service.spec)) return {};
  const isForced =
    (spec.TaskTemplate.ForceUpdate ?? 0) !== (service.spec.TaskTemplate.ForceUpdate ?? 0);
  if (isScheduled(spec) && !isForced) return {};
  const iteration = (service.jobStatus?.iteration ?? 0) + 1;
  return { jobStatus: { iteration, lastExecutionAtMs: nowMs } };
}

export function updateAction(
  service: Service,
  version: number,
  spec: ServiceSpec,
  nowMs: number,
): StoreAction {
  return {
    type: "update",
    table: "service",
    id: service.id,
    ifVersion: seenVersion(service, version),
    set: {
      spec,
      previousSpec: service.spec,
      previousSpecVersion: service.specVersion,
      ...nextRun(service, spec, nowMs),
    },
    unset: ["updateStatus"],
  };
}

/**
 * The version under which the service is changed, given the one that the client saw.
 * @throws {ClusterError} version-conflict
 */
export function seenVersion(service: Service, version: number): number {
  if (version >= service.specVersion && version <= service.version) return service.version;
  throw new ClusterError("version-conflict", `service ${service.id} has changed`);
}

export function sealedAuth(vault: Vault, auth: string | undefined): string | undefined {
  return auth === undefined ? undefined : sealRegistryAuth(vault, auth);
}

/**
 * What is stored, when it is what was given: sealed anew it would be another text, and tasks that are
 * still pulling would be replaced by each `stack deploy`.
 */
export function sameAuth(
  vault: Vault,
  service: Service,
  given: string | undefined,
): string | undefined {
  const stored = service.spec.TaskTemplate.ContainerSpec.PullOptions?.RegistryAuth;
  if (given === undefined || stored === undefined) return undefined;
  try {
    return openRegistryAuth(vault, stored) === given ? stored : undefined;
  } catch (error) {
    // Sealed by a key that is not here: what was given is sealed by one that is.
    if (error instanceof ClusterError) return undefined;
    throw error;
  }
}

export function withAuth(spec: ServiceSpec, auth: string | undefined): ServiceSpec {
  if (auth === undefined) return spec;
  const template = spec.TaskTemplate;
  const container = { ...template.ContainerSpec, PullOptions: { RegistryAuth: auth } };
  return { ...spec, TaskTemplate: { ...template, ContainerSpec: container } };
}

/** The credentials that a client cannot send back, since it never sees them. */
export function keptAuth(service: Service, from: string): string | undefined {
  const authOf = (spec: ServiceSpec) => spec.TaskTemplate.ContainerSpec.PullOptions?.RegistryAuth;
  if (from === "spec") return authOf(service.spec);
  if (from !== "previous-spec") {
    throw new ClusterError("invalid-argument", `unsupported registryAuthFrom value: ${from}`);
  }
  if (!service.previousSpec) {
    throw new ClusterError("invalid-argument", "service does not have a previous spec");
  }
  return authOf(service.previousSpec);
}
