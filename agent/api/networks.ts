/**
 * /networks: the cluster's networks and the local engine's own, as one list. On a node an overlay
 * network is a plain bridge of the engine that carries the label `shoal.network.id`; users never see
 * that bridge, only the network that it belongs to. Of a network of a local driver (local-network.ts)
 * they see what the engine has, as the cluster's.
 *
 * Source: Docker Engine API, tag Network; moby daemon/server/router/network.
 */
import { type Context, Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { newId } from "../../core/ids.ts";
import { isNodeLocal, type Network } from "../../core/objects/network.ts";
import { networkIdsOf } from "../../core/store/claims.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { LOCAL_CONFIG_LABEL } from "../reconciler/container-spec.ts";
import { checkShape, parseBody } from "./body.ts";
import { type ApiContext, propose, readIfManager } from "./context.ts";
import type { EngineRequest } from "./engine.ts";
import { type Filters, matchesExactly, matchesLabels, parseFilters } from "./filters.ts";
import { isTruthy, omitEmpty, parseFlag } from "./go-values.ts";
import {
  isLocalDriver,
  isLocalNetworkHere,
  renderLocalNetwork,
  renderLocalNetworkHere,
} from "./local-network.ts";
import {
  checkNetworkRequest,
  isClusterNetwork,
  planNetwork,
  refusePredefinedName,
} from "./network-plan.ts";
import { renderNetworkServices, renderPeers } from "./network-members.ts";
import { passOn } from "./pass-on.ts";
import { pruneNetworks } from "./prune-networks.ts";
import { type Json, renderNetwork } from "./render.ts";
import { networkCreateSchema } from "./spec-schema.ts";

const FILTERS = ["dangling", "driver", "id", "label", "name", "scope", "type"] as const;
/** Two creations at one time choose the same subnet or number; the second one chooses again. */
const CREATE_TRIES_MAX = 4;

const engineNetworkSchema = z.looseObject({
  Name: z.string(),
  Id: z.string(),
  Labels: z.record(z.string(), z.string()).nullish(),
});
const engineInfoSchema = z.looseObject({
  Plugins: z.looseObject({ Network: z.array(z.string()).nullish() }).nullish(),
});
type EngineNetwork = z.infer<typeof engineNetworkSchema>;

export function networkRoutes(context: ApiContext): Hono {
  const { ports, engine } = context;
  const app = new Hono();

  app.get("/", async (c) => {
    const text = c.req.query("filters");
    const filters = parseFilters(text, FILTERS);
    const query = text === undefined ? "" : `?filters=${encodeURIComponent(text)}`;
    const answer = await engine.request(`/networks${query}`);
    // Values that the engine refuses, it refuses in its own words.
    if (answer.status !== 200) return passOn(c, answer);
    const local = checkShape(await answer.json(), z.array(engineNetworkSchema));
    const cluster = await readIfManager(context, (view) =>
      view
        .networks()
        .filter((network) => !network.predefined && matches(view, network, filters))
        .map((network) => {
          const here = local.find((one) => clusterIdOf(one) === network.id);
          return renderAny(network, here);
        }),
    );
    const own = local.filter((network) => clusterIdOf(network) === undefined);
    if (cluster) return c.json([...cluster, ...own]);
    return c.json(local.map(asSeenByWorker));
  });

  app.post("/create", async (c) => {
    const text = await c.req.text();
    const request = parseBody(text, networkCreateSchema);
    if (!isClusterNetwork(request)) {
      const taken = await readIfManager(context, (view) => view.networkByName(request.Name));
      if (taken && !taken.predefined) throw nameTaken(request.Name);
      return forward(context, c, "/networks/create", text);
    }
    refusePredefinedName(request.Name);
    // First of all whether this node can, as in stock.
    await ports.read((view) => view.index);
    checkNetworkRequest(request);
    if (isLocalDriver(request)) await refuseUnknownDriver(context, request.Driver);
    await refuseLocalName(context, request.Name);
    const id = newId(ports.random);
    for (let tries = 1; ; tries += 1) {
      const object = await ports.read((view) => planNetwork(view, request, id));
      try {
        await propose(context, [{ type: "create", table: "network", object }]);
        return c.json({ Id: id, Warning: "" }, 201);
      } catch (error) {
        if (!isCollision(error) || tries >= CREATE_TRIES_MAX) throw error;
      }
    }
  });

  app.post("/prune", (c) => pruneNetworks(context, c));

  app.get("/:id", async (c) => {
    const scope = c.req.query("scope") ?? "";
    const isVerbose = parseFlag("verbose", c.req.query("verbose"));
    if (!["", "swarm", "local", "global"].includes(scope)) throw notFound(c.req.param("id"));
    const found = await findAny(context, c.req.param("id"), scope);
    if (found.type === "local") {
      const query = new URL(c.req.url).search;
      const answer = await engine.request(`/networks/${found.network.Id}${query}`);
      if (answer.status !== 200 || clusterIdOf(found.network) === undefined) {
        return passOn(c, answer);
      }
      return c.json(asSeenByWorker(checkShape(await answer.json(), engineNetworkSchema)));
    }
    const bridge = found.bridge;
    if (isNodeLocal(found.network)) {
      const answer = bridge && (await engine.request(`/networks/${bridge.Id}`));
      const here =
        answer?.status === 200 ? checkShape(await answer.json(), engineNetworkSchema) : undefined;
      return c.json(renderAny(found.network, here));
    }
    if (!bridge) return c.json(renderNetwork(found.network));
    const containers = await localContainers(context, bridge.Id);
    return c.json(await renderHere(context, found.network, containers, isVerbose));
  });

  app.delete("/:id", async (c) => {
    const found = await findAny(context, c.req.param("id"), "");
    if (found.type === "local") {
      // Without a manager's word a bridge of the cluster must not go from under its containers.
      if (clusterIdOf(found.network) !== undefined) await ports.read((view) => view.index);
      await refuseConfigInUse(context, found.network);
      return forward(context, c, `/networks/${found.network.Id}`);
    }
    await propose(context, [{ type: "remove", table: "network", id: found.network.id }]);
    return c.body(null, 204);
  });
  return app;
}

function clusterIdOf(network: EngineNetwork): string | undefined {
  return network.Labels?.[NETWORK_ID_LABEL];
}

/** `here`: the engine's network that this node has for it. */
function renderAny(network: Network, here: EngineNetwork | undefined): Json {
  if (!isNodeLocal(network)) return renderNetwork(network);
  return here ? renderLocalNetworkHere(here) : renderLocalNetwork(network);
}

/** A node that is no manager knows an overlay network by its bridge only. */
function asSeenByWorker(network: EngineNetwork): Json {
  const id = clusterIdOf(network);
  if (id === undefined) return network;
  if (isLocalNetworkHere(network)) return renderLocalNetworkHere(network);
  const { [NETWORK_ID_LABEL]: _, ...labels } = network.Labels ?? {};
  return { ...network, Id: id, Scope: "swarm", Driver: "overlay", Options: {}, Labels: labels };
}

type Found =
  | { type: "cluster"; network: Network; bridge?: EngineNetwork }
  | { type: "local"; network: EngineNetwork };

/**
 * By id, name or prefix of an id, over both sides. The engine's own `bridge`, `host` and `none` come
 * before the cluster's objects of these names, which only `scope=swarm` shows.
 * @throws {ClusterError} not-found, invalid-argument when ambiguous
 */
async function findAny(context: ApiContext, ref: string, scope: string): Promise<Found> {
  const isSwarmOnly = scope === "swarm";
  const read = (view: ClusterView) =>
    view.networks().filter((network) => isSwarmOnly || !network.predefined);
  const cluster = isSwarmOnly
    ? await context.ports.read(read)
    : scope === "local"
      ? undefined
      : await readIfManager(context, read);
  let local: EngineNetwork[] = [];
  try {
    local = checkShape(await context.engine.getJson("/networks"), z.array(engineNetworkSchema));
  } catch (error) {
    // What the cluster says of its own networks needs no engine.
    if (!isSwarmOnly || !(error instanceof ClusterError)) throw error;
  }
  const bridges = new Map<string, EngineNetwork>();
  const candidates: { ids: string[]; name: string; found: Found }[] = [];
  for (const network of local) {
    const id = clusterIdOf(network);
    if (id !== undefined) bridges.set(id, network);
    if (isSwarmOnly || (id !== undefined && cluster?.some((other) => other.id === id))) continue;
    candidates.push({
      ids: id === undefined ? [network.Id] : [network.Id, id],
      name: network.Name,
      found: { type: "local", network },
    });
  }
  for (const network of cluster ?? []) {
    const bridge = bridges.get(network.id);
    candidates.push({
      ids: bridge ? [network.id, bridge.Id] : [network.id],
      name: network.spec.Name,
      found: { type: "cluster", network, ...(bridge ? { bridge } : {}) },
    });
  }
  const byId = candidates.find((candidate) => candidate.ids.includes(ref));
  if (byId) return byId.found;
  const byName = candidates.filter((candidate) => candidate.name === ref);
  const byPrefix = candidates.filter((candidate) => candidate.ids.some((id) => id.startsWith(ref)));
  const matching = byName.length > 0 ? byName : byPrefix;
  const [only] = matching;
  if (!only || ref === "") throw notFound(ref);
  if (matching.length === 1) return only.found;
  const how = byName.length > 0 ? "name" : "ID prefix";
  throw new ClusterError(
    "invalid-argument",
    `network ${ref} is ambiguous (${matching.length} matches found on ${how})`,
  );
}

const containersSchema = z.record(z.string(), z.looseObject({ EndpointID: z.string().nullish() }));
type LocalContainers = z.infer<typeof containersSchema>;

/** An overlay network where this node takes part in it: then stock knows more of it. */
async function renderHere(
  context: ApiContext,
  network: Network,
  containers: LocalContainers | null,
  isVerbose: boolean,
): Promise<Json> {
  const shown = renderNetwork(network);
  return context.ports.read((view) => ({
    ...shown,
    Containers: containers,
    Labels: shown["Labels"] ?? {},
    ...omitEmpty({ Peers: renderPeers(network, view) }),
    ...(isVerbose
      ? {
          Services: renderNetworkServices(
            network,
            view,
            (containerId) => containers?.[containerId]?.EndpointID ?? "",
          ),
        }
      : {}),
  }));
}

async function localContainers(
  context: ApiContext,
  bridgeId: string,
): Promise<LocalContainers | null> {
  const schema = z.looseObject({ Containers: containersSchema.nullish() });
  const answer = await context.engine.request(`/networks/${bridgeId}`);
  // Removed since the list was read: then it has no containers here.
  if (answer.status === 404) return null;
  return checkShape(await answer.json(), schema).Containers ?? {};
}

async function refuseLocalName(context: ApiContext, name: string): Promise<void> {
  const networks = checkShape(
    await context.engine.getJson("/networks"),
    z.array(engineNetworkSchema),
  );
  const taken = networks.find((network) => network.Name === name);
  if (taken && clusterIdOf(taken) === undefined) throw nameTaken(name);
}

/** The engine does not know that networks of the cluster here were made from it. */
async function refuseConfigInUse(context: ApiContext, network: EngineNetwork): Promise<void> {
  const networks = checkShape(
    await context.engine.getJson("/networks"),
    z.array(engineNetworkSchema),
  );
  const user = networks.find((other) => other.Labels?.[LOCAL_CONFIG_LABEL] === network.Name);
  if (!user) return;
  throw new ClusterError(
    "forbidden",
    `error while removing network: configuration network "${network.Name}" is in use by network ${user.Name}`,
  );
}

async function refuseUnknownDriver(context: ApiContext, driver: string): Promise<void> {
  const info = checkShape(await context.engine.getJson("/info"), engineInfoSchema);
  const known = info.Plugins?.Network ?? [];
  // Plugins are listed with their tags, and may be named without.
  if (driver === "" || known.some((name) => name === driver || name === `${driver}:latest`)) return;
  throw new ClusterError("not-found", `plugin "${driver}" not found`);
}

function notFound(ref: string): ClusterError {
  return new ClusterError("not-found", `network ${ref} not found`);
}

function nameTaken(name: string): ClusterError {
  return new ClusterError("name-conflict", `network with name ${name} already exists`);
}

function isCollision(error: unknown): boolean {
  return error instanceof ClusterError && error.code === "failed-precondition";
}

function matches(view: ClusterView, network: Network, filters: Filters): boolean {
  const isDangling = () =>
    !view.services().some((service) => networkIdsOf(service.spec).includes(network.id));
  const dangling = filters.get("dangling")?.[0];
  return (
    matchesPart(filters, "name", network.spec.Name) &&
    matchesPart(filters, "id", network.id) &&
    matchesExactly(filters, "driver", network.spec.Driver) &&
    matchesExactly(filters, "scope", "swarm") &&
    matchesExactly(filters, "type", "custom") &&
    matchesLabels(filters, "label", network.spec.Labels) &&
    (dangling === undefined || isTruthy(dangling) === isDangling())
  );
}

/** The engine matches these two as patterns anywhere in the text. */
function matchesPart(filters: Filters, key: string, text: string): boolean {
  const values = filters.get(key);
  if (!values) return true;
  return values.some((value) => {
    try {
      return text === value || new RegExp(value).test(text);
    } catch (error) {
      if (error instanceof SyntaxError) return text.includes(value);
      throw error;
    }
  });
}

async function forward(
  context: ApiContext,
  c: Context,
  path: string,
  body?: string,
): Promise<Response> {
  const request: EngineRequest = {
    method: c.req.method === "DELETE" ? "DELETE" : "POST",
    ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }),
  };
  return passOn(c, await context.engine.request(path, request));
}
