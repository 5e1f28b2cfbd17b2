/**
 * The cluster's part of the Docker API, and shoal's own. Calls that are not ours never come here
 * (front.ts sends them to the engine). Handlers parse, read a view or propose, and render; what is
 * decided, apply and the planners decide.
 *
 * Every answer carries the API's headers; every error is `{"message"}` (problem.ts).
 */
import { chmodSync, rmSync } from "node:fs";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { AssertionError } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { attachRoutes } from "./attach.ts";
import { containerListRoutes } from "./container-list.ts";
import type { ApiContext } from "./context.ts";
import { DATA_KINDS, dataRoutes } from "./data-objects.ts";
import { createEngine, type EngineVersion } from "./engine.ts";
import { eventRoutes } from "./events.ts";
import { infoRoutes } from "./info.ts";
import { logRoutes } from "./logs.ts";
import { networkRoutes } from "./networks.ts";
import { nodeRoutes } from "./nodes.ts";
import { splitVersion } from "./paths.ts";
import type { ApiPorts } from "./ports.ts";
import { renderProblem } from "./problem.ts";
import { serviceRoutes } from "./services.ts";
import { shoalRoutes } from "./shoal.ts";
import { slotRoutes } from "./slots.ts";
import { stackRoutes } from "./stacks.ts";
import { type ReadMark, runMayBeStale, STALE_HEADER, staleHeader } from "./stale.ts";
import { swarmRoutes } from "./swarm.ts";
import { taskRoutes } from "./tasks.ts";
import { checkVersion } from "./version.ts";

/** Larger than any body of ours: a config of 1 MB in base64, a service with long lists. */
const BODY_BYTES_MAX = 16 * 1024 * 1024;
/** A whole cluster's state, compressed; some kilobytes a service. */
const BACKUP_BYTES_MAX = 1024 * 1024 * 1024;
/** Only managers answer these. */
const MANAGER_ROOTS = new Set(["nodes", "services", "tasks", "secrets", "configs"]);
const RESTORE_PATH = "/shoal/v1/restore";
const STACKS_PATH = "/shoal/v1/stacks";
const SLOTS_PATH = "/shoal/v1/services";

/** All routes; test them with `app.request()`. */
export function createApp(ports: ApiPorts): Hono {
  const engine = createEngine(ports.engineSocket, () => ports.nowMs());
  const context: ApiContext = { ports, engine };
  // Routes are written without the version prefix, which is optional.
  const app = new Hono({
    getPath: (request) => {
      const { path } = splitVersion(request.url);
      // The one list that stock also gives with a slash behind it.
      return path === "/networks/" ? "/networks" : path;
    },
  });

  app.use(async (c, next) => {
    // A line, as Go's encoder writes it.
    const line = (value: unknown, status?: ContentfulStatusCode) =>
      c.body(`${JSON.stringify(value)}\n`, status, { "Content-Type": "application/json" });
    // Its own type tells clients made by Hono of bodies' types; there are none.
    c.json = line as unknown as typeof c.json;
    const { version, path } = splitVersion(c.req.url);
    let known: EngineVersion | undefined;
    try {
      known = await engine.version();
    } catch (error) {
      // The cluster's part works without the engine; what needs it says so itself.
      if (!(error instanceof ClusterError)) throw error;
    }
    if (known) {
      c.header("Api-Version", known.ApiVersion);
      c.header("Server", `Docker/${known.Version} (linux)`);
      c.header("Docker-Experimental", String(known.Experimental ?? false));
    }
    c.header("Ostype", "linux");
    if (version !== undefined && known && !path.startsWith("/shoal/")) {
      checkVersion(version, known.ApiVersion);
    }
    const isRead = c.req.method === "GET" || c.req.method === "HEAD";
    const mark: ReadMark = {};
    await (isRead ? runMayBeStale(mark, next) : next());
    if (mark.stale) c.header(STALE_HEADER, staleHeader(mark.stale));
  });

  const limit = bodyLimit({
    maxSize: BODY_BYTES_MAX,
    onError: (c) => c.json({ message: `the body is larger than ${BODY_BYTES_MAX} bytes` }, 413),
  });
  app.use((c, next) => (splitVersion(c.req.url).path === RESTORE_PATH ? next() : limit(c, next)));

  // A node that cannot see the cluster says so first, whatever else is wrong with the call.
  app.use(async (c, next) => {
    const local = ports.localNode();
    const { path } = splitVersion(c.req.url);
    const isManagers =
      MANAGER_ROOTS.has(path.split("/")[1] ?? "") ||
      [STACKS_PATH, SLOTS_PATH].some((one) => path.startsWith(one));
    if ((!local.isManager || local.state !== "active") && isManagers) {
      await ports.read((view) => view.index);
    }
    await next();
  });

  app.route("/swarm", swarmRoutes(context));
  app.route("/nodes", nodeRoutes(context));
  app.route("/services", serviceRoutes(context));
  app.route("/tasks", taskRoutes(context));
  app.route("/networks", networkRoutes(context));
  app.route("/secrets", dataRoutes(context, DATA_KINDS.secrets));
  app.route("/configs", dataRoutes(context, DATA_KINDS.configs));
  app.route("/", attachRoutes(context));
  app.route("/", containerListRoutes(context));
  app.route("/", infoRoutes(context));
  app.route("/", logRoutes(context));
  app.route("/", eventRoutes(context));
  app.route("/shoal", shoalRoutes(context));
  app.route(STACKS_PATH, stackRoutes(context));
  app.route(SLOTS_PATH, slotRoutes(context));

  // Stock answers this everywhere, also where nothing is.
  app.options("*", (c) => c.body(null, 200));
  app.notFound((c) => c.json({ message: "page not found" }, 404));
  app.onError((error, c) => {
    // A broken invariant ends the process, wherever it is found: it must not end as an answer.
    if (error instanceof AssertionError) {
      setImmediate(() => {
        throw error;
      });
    }
    if (!(error instanceof ClusterError)) ports.reportBug(`${c.req.method} ${c.req.path}`, error);
    const { status, message } = renderProblem(error);
    return c.json({ message }, status);
  });
  return app;
}

/**
 * Serves the app on the inner socket, behind the front. Only root can connect there.
 * `stop(true)` ends it.
 */
export function serveApp(app: Hono, innerSocketPath: string): Bun.Server<undefined> {
  rmSync(innerSocketPath, { force: true });
  const server = Bun.serve({
    unix: innerSocketPath,
    maxRequestBodySize: BACKUP_BYTES_MAX,
    fetch: (request, server) => {
      // A join can take longer than the 10 s after which Bun drops a quiet connection.
      server.timeout(request, 0);
      return app.fetch(request);
    },
  });
  chmodSync(innerSocketPath, 0o600);
  return server;
}
