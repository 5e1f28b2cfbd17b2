/** /_ping, /version and /info: the engine's answers with the cluster's part put in. */
import { type Context, Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { checkShape } from "./body.ts";
import type { ApiContext } from "./context.ts";
import type { LocalNode } from "./ports.ts";
import type { Json } from "./render.ts";
import { clusterInfo } from "./swarm.ts";
import { API_VERSION_MIN, isOlder } from "./version.ts";

const objectSchema = z.looseObject({});
const versionSchema = z.looseObject({
  MinAPIVersion: z.string().optional(),
  Components: z.array(objectSchema).nullish(),
});

export function infoRoutes(context: ApiContext): Hono {
  const { ports, engine } = context;
  const app = new Hono();

  const ping = async (c: Context) => {
    const answer = await engine.request("/_ping");
    const body = await answer.text();
    c.header("Cache-Control", "no-cache, no-store, must-revalidate");
    c.header("Pragma", "no-cache");
    c.header("Content-Type", "text/plain; charset=utf-8");
    const builder = answer.headers.get("builder-version");
    if (builder !== null) c.header("Builder-Version", builder);
    c.header("Swarm", swarmHeader(ports.localNode()));
    return c.body(body, answer.status === 200 ? 200 : 500);
  };
  // Hono answers HEAD by the handler of GET, without its body.
  app.get("/_ping", ping);

  app.get("/version", async (c) => {
    const version = checkShape(await engine.getJson("/version"), versionSchema);
    const min = version.MinAPIVersion;
    const own = { Name: "shoal", Version: ports.version, Details: {} };
    return c.json({
      ...version,
      Components: [...(version.Components ?? []), own],
      MinAPIVersion: min !== undefined && isOlder(API_VERSION_MIN, min) ? min : API_VERSION_MIN,
    });
  });

  app.get("/info", async (c) => {
    const info = checkShape(await engine.getJson("/info"), objectSchema);
    return c.json({ ...info, Swarm: await swarmInfo(context) });
  });
  return app;
}

/** Source: moby daemon/server/router/system, pingHandler. */
function swarmHeader(node: LocalNode): string {
  if (node.state !== "active") return node.state;
  return `active/${node.isManager ? "manager" : "worker"}`;
}

async function swarmInfo(context: ApiContext): Promise<Json> {
  const node = context.ports.localNode();
  const info: Json = {
    NodeID: node.nodeId ?? "",
    NodeAddr: node.nodeAddr ?? "",
    LocalNodeState: node.state,
    ControlAvailable: node.isManager && node.state === "active",
    Error: node.error ?? "",
    RemoteManagers:
      node.managers.length === 0
        ? null
        : node.managers.map(({ nodeId, addr }) => ({ NodeID: nodeId, Addr: addr })),
  };
  if (!node.isManager || node.state !== "active") return info;
  try {
    const counts = await context.ports.read((view) => {
      const cluster = view.cluster();
      const managers = view.nodes().filter((node) => node.managerAddr !== undefined).length;
      return {
        Nodes: view.nodes().length,
        Managers: managers,
        ...(cluster ? { Cluster: clusterInfo(cluster) } : {}),
        ...(managers === 2 ? { Warnings: [TWO_MANAGERS] } : {}),
      };
    });
    return { ...info, ...counts };
  } catch (error) {
    // No leader: the node is still what it is, and says what is wrong.
    if (!(error instanceof ClusterError)) throw error;
    return { ...info, Error: error.message };
  }
}

const TWO_MANAGERS =
  "WARNING: The cluster has two managers: losing either one stops it. Have one or three managers.";
