/** /services. Source: Docker Engine API, tag Service; moby daemon/cluster/services.go. */
import { type Context, Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { newId } from "../../core/ids.ts";
import { nextRunAfter, SCHEDULE_LABEL } from "../../core/objects/job-schedule.ts";
import { isJob, modeOf, type Service, type ServiceSpec } from "../../core/objects/service.ts";
import { serviceStatus } from "../../core/orchestrator/service-status.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { keepShoalFields, resolveContainerOptions } from "../reconciler/container-options.ts";
import { readBody } from "./body.ts";
import { type ApiContext, propose, proposeInSequence, registryAuth } from "./context.ts";
import {
  type Filters,
  matchesExactly,
  matchesLabels,
  matchesPrefix,
  parseFilters,
} from "./filters.ts";
import { goTime, parseFlag, parseVersion } from "./go-values.ts";
import { findService } from "./lookup.ts";
import { splitVersion } from "./paths.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { CLIENT_PINS_SINCE, pinImage } from "./pin-image.ts";
import { controlError } from "./problem.ts";
import { renderService } from "./render.ts";
import {
  createServiceAction,
  keptAuth,
  nextRun,
  refuseFixedChanges,
  sameAuth,
  sealedAuth,
  seenVersion,
  updateAction,
  withAuth,
} from "./service-change.ts";
import { type ParsedServiceSpec, serviceSpecSchema } from "./spec-schema.ts";
import {
  normaliseServiceSpec,
  resolveNetworks,
  validateRollback,
  validateServiceSpec,
} from "./validate.ts";
import { isOlder } from "./version.ts";
import { randomName } from "./words.ts";

const FILTERS = ["id", "label", "mode", "name", "runtime"] as const;

export function serviceRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/", async (c) => {
    const filters = parseFilters(c.req.query("filters"), FILTERS);
    const withStatus = knows(c, "1.41") && parseFlag("status", c.req.query("status"));
    const services = await ports.read((view) =>
      view
        .services()
        .filter((service) => matches(service, filters))
        .map((service) => ({
          ...renderService(service, view, { insertDefaults: false }),
          ...(withStatus ? { ServiceStatus: serviceStatus(service, view) } : {}),
        })),
    );
    return c.json(services);
  });

  app.post("/create", async (c) => {
    const { spec: given, warnings } = await readPinnedSpec(context, c);
    const auth = sealedAuth(ports.vault, registryAuth(c));
    const resolved = await readSpec(context, given, (view, spec) => {
      const name = spec.Name || freshName(view, context);
      const named = resolveContainerOptions(withAuth({ ...spec, Name: name }, auth));
      validateServiceSpec(view, named);
      if (view.serviceByName(name)) {
        throw controlError(
          "name-conflict",
          `name conflicts with an existing object: service ${name} already exists`,
        );
      }
      return named;
    });
    const id = newId(ports.random);
    const nowMs = ports.nowMs();
    await propose(context, [createServiceAction(id, resolved, nowMs)]);
    const firstMs = nextRunAfter(resolved, nowMs);
    if (firstMs !== undefined) {
      warnings.push(
        `${resolved.Name} runs first at ${goTime(firstMs)} (label ${SCHEDULE_LABEL}): a client without --detach waits until then`,
      );
    }
    return c.json({ ID: id, ...(warnings.length > 0 ? { Warnings: warnings } : {}) }, 201);
  });

  app.get("/:id", async (c) => {
    const insertDefaults = parseFlag("insertDefaults", c.req.query("insertDefaults"));
    const service = await ports.read((view) =>
      renderService(findService(view, c.req.param("id")), view, { insertDefaults }),
    );
    return c.json(service);
  });

  app.post("/:id/update", async (c) => {
    const version = parseVersion("service", c.req.query("version"));
    const rollback = c.req.query("rollback") ?? "";
    if (!["", "none", "previous"].includes(rollback)) {
      throw new ClusterError("invalid-argument", `unrecognized rollback option ${rollback}`);
    }
    const ref = c.req.param("id");
    if (rollback === "previous") {
      await proposeInSequence(context, () =>
        ports.read((view) => rollbackAction(view, findService(view, ref), version, ports.nowMs())),
      );
      return c.json({ Warnings: null });
    }
    const { spec: given, warnings } = await readPinnedSpec(context, c);
    const givenAuth = registryAuth(c);
    const auth = sealedAuth(ports.vault, givenAuth);
    const authFrom = c.req.query("registryAuthFrom") || "spec";
    await proposeInSequence(context, () =>
      readSpec(context, given, (view, spec) => {
        const service = findService(view, ref);
        refuseFixedChanges(service.spec, spec);
        const withKept = keepShoalFields(spec, service.spec);
        const kept = resolveContainerOptions(
          withAuth(
            withKept,
            sameAuth(ports.vault, service, givenAuth) ?? auth ?? keptAuth(service, authFrom),
          ),
        );
        validateServiceSpec(view, kept, service);
        return updateAction(service, version, kept, ports.nowMs());
      }),
    );
    return c.json({ Warnings: warnings.length > 0 ? warnings : null });
  });

  app.delete("/:id", async (c) => {
    const service = await ports.read((view) => findService(view, c.req.param("id")));
    await propose(context, [{ type: "remove", table: "service", id: service.id }]);
    return c.body(null, 200);
  });
  return app;
}

/** Whether the client speaks this version of the API; without one in the path it speaks the newest. */
function knows(c: Context, version: string): boolean {
  const spoken = splitVersion(c.req.url).version;
  return spoken === undefined || !isOlder(spoken, version);
}

/**
 * The spec of the body, without what clients of that version cannot have meant. Fields that came
 * after 1.41 are taken from everybody: the engine below may be older than they are.
 * Source: moby daemon/server/router/swarm/helpers.go.
 */
async function readServiceSpec(c: Context): Promise<ParsedServiceSpec> {
  const spec = await readBody(c, serviceSpecSchema);
  const { ContainerSpec: container, Placement, Resources } = spec.TaskTemplate;
  if (!knows(c, "1.40")) {
    delete container?.Sysctls;
    delete Placement?.MaxReplicas;
  }
  if (!knows(c, "1.41")) {
    delete container?.CapabilityAdd;
    delete container?.CapabilityDrop;
    delete container?.Ulimits;
    delete Resources?.Limits?.Pids;
    delete spec.Mode.ReplicatedJob;
    delete spec.Mode.GlobalJob;
  }
  return spec;
}

function matches(service: Service, filters: Filters): boolean {
  return (
    matchesPrefix(filters, "id", service.id) &&
    matchesPrefix(filters, "name", service.spec.Name) &&
    matchesLabels(filters, "label", service.spec.Labels) &&
    matchesExactly(filters, "mode", modeOf(service.spec)) &&
    matchesExactly(filters, "runtime", service.spec.TaskTemplate.Runtime || "container")
  );
}

const NAME_TRIES_MAX = 20;

function freshName(view: ClusterView, context: ApiContext): string {
  for (let tries = 0; tries < NAME_TRIES_MAX; tries += 1) {
    const name = randomName(context.ports.random);
    if (!view.serviceByName(name)) return name;
  }
  return `service_${newId(context.ports.random)}`;
}

/**
 * Runs `use` over a view with the spec's networks resolved in that view.
 * @throws {ClusterError} not-found for a network nobody has; forbidden for one of this node only.
 */
async function readSpec<T>(
  context: ApiContext,
  given: ServiceSpec,
  use: (view: ClusterView, spec: ServiceSpec) => T,
): Promise<T> {
  const result = await context.ports.read((view) => {
    const { spec, unknown } = resolveNetworks(view, given);
    return unknown === undefined ? { value: use(view, spec) } : { unknown };
  });
  if ("value" in result) return result.value;
  throw await unknownNetworkError(context, result.unknown);
}

const localNetworkSchema = z.looseObject({
  Name: z.string(),
  Labels: z.record(z.string(), z.string()).nullish(),
});

async function unknownNetworkError(context: ApiContext, ref: string): Promise<ClusterError> {
  const notFound = new ClusterError("not-found", `network ${ref} not found`);
  const answer = await context.engine.request(`/networks/${encodeURIComponent(ref)}`);
  if (answer.status !== 200) return notFound;
  const network = localNetworkSchema.safeParse(await answer.json());
  if (!network.success || network.data.Labels?.[NETWORK_ID_LABEL] !== undefined) return notFound;
  return new ClusterError(
    "forbidden",
    `The network ${network.data.Name} cannot be used with services. Only networks scoped to the swarm can be used, such as those created with the overlay driver.`,
  );
}

/** The body of a create or update; with the digest of its image when the client leaves that to us. */
async function readPinnedSpec(context: ApiContext, c: Context) {
  const spec = normaliseServiceSpec(await readServiceSpec(c));
  // What a plugin is pulled from is no image.
  if (knows(c, CLIENT_PINS_SINCE) || spec.TaskTemplate.PluginSpec) return { spec, warnings: [] };
  return pinImage(context.engine, spec, registryAuth(c));
}

/**
 * A manual rollback swaps the two specs, so that a second one goes forward again. A job runs again
 * with the spec before: nothing is rolled slot by slot, so there is no update status.
 */
function rollbackAction(
  view: ClusterView,
  service: Service,
  version: number,
  nowMs: number,
): StoreAction {
  if (!service.previousSpec) {
    throw controlError(
      "failed-precondition",
      `service ${service.id} does not have a previous spec`,
    );
  }
  validateRollback(view, service, service.previousSpec);
  return {
    type: "update",
    table: "service",
    id: service.id,
    ifVersion: seenVersion(service, version),
    set: {
      spec: service.previousSpec,
      previousSpec: service.spec,
      previousSpecVersion: service.specVersion,
      ...(isJob(service.spec)
        ? nextRun(service, service.previousSpec, nowMs)
        : {
            updateStatus: {
              state: "rollback_started",
              startedAtMs: nowMs,
              message: "manually requested rollback",
            },
          }),
    },
  };
}
