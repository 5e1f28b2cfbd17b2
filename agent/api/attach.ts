/**
 * Containers that users put on overlay networks themselves: `docker run --network`, `docker network
 * connect`. Both go to the local engine as they are, unless they name a network of the cluster; then the
 * cluster gives the address, this node gets the network's bridge, and the call goes on with both in it.
 *
 * The engine alone could not: it neither knows the network before a task is here, nor which addresses
 * other nodes use.
 */
import { Hono } from "hono";
import type { Context } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { parseBody } from "./body.ts";
import type { ApiContext } from "./context.ts";
import { engineNetworkName } from "./engine-networks.ts";
import { passOn } from "./pass-on.ts";

/** From the address to the bridge in the engine: the assignment, then one engine call. */
const BRIDGE_WAIT_MS = 15_000;
const BRIDGE_POLL_MS = 50;
const CREATE_TIMEOUT_MS = 120_000;
/** Names that are no networks of anybody's own. */
const BUILT_IN = new Set(["", "default", "bridge", "host", "none", "nat"]);

const endpointSchema = z.looseObject({
  IPAMConfig: z
    .looseObject({ IPv4Address: z.string().nullish(), IPv6Address: z.string().nullish() })
    .nullish(),
  Aliases: z.array(z.string()).nullish(),
});
type Endpoint = z.infer<typeof endpointSchema>;
const endpoints = z.record(z.string(), endpointSchema.nullable());
const createSchema = z.looseObject({
  HostConfig: z
    .looseObject({ NetworkMode: z.string().nullish(), Dns: z.array(z.string()).nullish() })
    .nullish(),
  NetworkingConfig: z.looseObject({ EndpointsConfig: endpoints.nullish() }).nullish(),
});
const connectSchema = z.looseObject({
  Container: z.string().default(""),
  EndpointConfig: endpointSchema.nullish(),
});
const engineNetworkSchema = z.looseObject({ Labels: z.record(z.string(), z.string()).nullish() });

export function attachRoutes(context: ApiContext): Hono {
  const app = new Hono();

  app.post("/containers/create", async (c) => {
    const text = await c.req.text();
    const body = readOrUndefined(text, createSchema);
    const names = body ? networksOf(body) : [];
    if (!body || names.length === 0) return forward(context, c, text);
    const container = c.req.query("name") ?? "";
    const host = { ...body.HostConfig };
    const config: Record<string, Endpoint | null> = { ...body.NetworkingConfig?.EndpointsConfig };
    const ids: string[] = [];
    try {
      for (const ref of names) {
        const network = await clusterRef(context, ref);
        if (network === undefined) continue;
        const given = await attach(context, { ref, network }, container, config[ref] ?? {});
        if (!given) continue;
        ids.push(given.id);
        delete config[ref];
        config[given.networkName] = given.endpoint;
        if (host.NetworkMode === ref) host.NetworkMode = given.networkName;
        // Names of services are answered by the mesh of this node, at the network's gateway.
        if (!host.Dns?.length && given.gateway !== "") host.Dns = [given.gateway];
      }
    } catch (error) {
      // There will be no container: what its other networks gave goes back at once.
      for (const id of ids) context.ports.attached(id, false);
      throw error;
    }
    if (ids.length === 0) return forward(context, c, text);
    const next = {
      ...body,
      HostConfig: host,
      NetworkingConfig: { ...body.NetworkingConfig, EndpointsConfig: config },
    };
    return settled(context, ids, await forward(context, c, JSON.stringify(next)));
  });

  app.post("/networks/:id/connect", async (c) => {
    const text = await c.req.text();
    const body = readOrUndefined(text, connectSchema);
    const ref = c.req.param("id");
    const network = body && !BUILT_IN.has(ref) ? await clusterRef(context, ref) : undefined;
    if (!body || network === undefined) return forward(context, c, text);
    const name = await containerName(context, body.Container);
    const given =
      name === undefined
        ? undefined
        : await attach(context, { ref, network }, name, body.EndpointConfig ?? {});
    if (!given) return forward(context, c, text);
    const next = { ...body, EndpointConfig: given.endpoint };
    const path = `${versionOf(c)}/networks/${encodeURIComponent(given.networkName)}/connect`;
    return settled(context, [given.id], await forward(context, c, JSON.stringify(next), path));
  });
  // Only the node's own containers are concerned; but the engine knows the network by another id.
  app.post("/networks/:id/disconnect", async (c) => {
    const ref = c.req.param("id");
    const name = BUILT_IN.has(ref) ? ref : await engineNetworkName(context.engine, ref);
    const path = `${versionOf(c)}/networks/${encodeURIComponent(name)}/disconnect`;
    return forward(context, c, await c.req.text(), path);
  });
  return app;
}

/** What the engine shall refuse, it refuses in its own words. */
function readOrUndefined<T>(text: string, schema: z.ZodType<T>): T | undefined {
  try {
    return parseBody(text, schema);
  } catch (error) {
    if (error instanceof ClusterError) return undefined;
    throw error;
  }
}

function networksOf(body: z.infer<typeof createSchema>): string[] {
  const names = new Set(Object.keys(body.NetworkingConfig?.EndpointsConfig ?? {}));
  names.add(body.HostConfig?.NetworkMode ?? "");
  return [...names].filter((name) => !BUILT_IN.has(name) && !name.startsWith("container:"));
}

/**
 * What the cluster knows the network by: its id, when it has a bridge here, or as it was named, when the
 * engine does not know it. Undefined for a network of the engine's own.
 */
async function clusterRef(context: ApiContext, ref: string): Promise<string | undefined> {
  if (context.ports.localNode().state !== "active") return undefined;
  const answer = await context.engine.request(`/networks/${encodeURIComponent(ref)}`);
  if (answer.status === 404) return ref;
  if (answer.status !== 200) return undefined;
  const { Labels } = engineNetworkSchema.parse(await answer.json());
  return Labels?.[NETWORK_ID_LABEL];
}

/** Undefined when the cluster does not know the network either. `ref`: as the user named it. */
async function attach(
  context: ApiContext,
  { ref, network }: { ref: string; network: string },
  name: string,
  endpoint: Endpoint,
): Promise<{ id: string; networkName: string; gateway: string; endpoint: Endpoint } | undefined> {
  const { IPv4Address, IPv6Address } = endpoint.IPAMConfig ?? {};
  let given: Awaited<ReturnType<typeof context.ports.attach>>;
  try {
    const aliases = endpoint.Aliases ?? [];
    const wish = IPv4Address ? { address: IPv4Address } : {};
    given = await context.ports.attach({ network, name, aliases, ...wish });
  } catch (error) {
    if (error instanceof ClusterError && error.code === "not-found") return undefined;
    throw error;
  }
  try {
    // On a network of a local driver the engine gives the address, or the user.
    if (IPv6Address && given.address !== "") {
      throw new ClusterError(
        "invalid-argument",
        `Cannot give address ${IPv6Address} on network ${ref}: the cluster chooses IPv6 addresses of overlay networks; leave --ip6 out`,
      );
    }
    if (IPv4Address && given.address !== "" && given.address !== IPv4Address) {
      throw new ClusterError(
        "not-implemented",
        `Cannot give address ${IPv4Address} on network ${ref}: the leader's version of shoal is too old; upgrade it, or leave --ip out`,
      );
    }
    await refuseMissingConfig(context, given.configFrom);
    await waitForBridge(context, given.networkName);
  } catch (error) {
    context.ports.attached(given.id, false);
    throw error;
  }
  if (given.address === "") return { ...given, endpoint };
  const IPAMConfig = {
    ...endpoint.IPAMConfig,
    IPv4Address: given.address,
    ...(given.address6 === undefined ? {} : { IPv6Address: given.address6 }),
  };
  return { ...given, endpoint: { ...endpoint, IPAMConfig } };
}

async function refuseMissingConfig(context: ApiContext, name: string | undefined): Promise<void> {
  if (name === undefined) return;
  const answer = await context.engine.request(`/networks/${encodeURIComponent(name)}`);
  if (answer.status !== 404) return;
  throw new ClusterError(
    "not-found",
    `configuration network "${name}" does not exist on this node: create it here with docker network create --config-only`,
  );
}

async function waitForBridge(context: ApiContext, name: string): Promise<void> {
  const endsAtMs = performance.now() + BRIDGE_WAIT_MS;
  for (;;) {
    const answer = await context.engine.request(`/networks/${encodeURIComponent(name)}`);
    if (answer.status === 200) return;
    if (performance.now() > endsAtMs) {
      throw new ClusterError(
        "deadline",
        `Network ${name} did not come up on this node in ${BRIDGE_WAIT_MS / 1_000} s: see the log of shoal here, and try again`,
        { retry: "later" },
      );
    }
    await Bun.sleep(BRIDGE_POLL_MS);
  }
}

async function containerName(context: ApiContext, ref: string): Promise<string | undefined> {
  const answer = await context.engine.request(`/containers/${encodeURIComponent(ref)}/json`);
  if (answer.status !== 200) return undefined;
  const { Name } = z.looseObject({ Name: z.string() }).parse(await answer.json());
  return Name.replace(/^\//, "");
}

/** Tells what the engine made of the addresses. */
function settled(context: ApiContext, ids: readonly string[], answer: Response): Response {
  for (const id of ids) context.ports.attached(id, answer.ok);
  return answer;
}

/** The engine's answer as ours. */
async function forward(
  context: ApiContext,
  c: Context,
  body: string,
  path = splitPath(c),
): Promise<Response> {
  const headers = { "content-type": c.req.header("content-type") ?? "application/json" };
  const query = new URL(c.req.url).search;
  const answer = await context.engine.request(`${path}${query}`, {
    method: "POST",
    body,
    headers,
    timeoutMs: CREATE_TIMEOUT_MS,
  });
  return passOn(c, answer);
}

/** With the client's API version, which decides what the engine reads in the body. */
function splitPath(c: Context): string {
  return new URL(c.req.url).pathname;
}

/** `/v1.41` of a path that begins so, else nothing. */
function versionOf(c: Context): string {
  return /^\/v\d+\.\d+(?=\/)/.exec(splitPath(c))?.[0] ?? "";
}
