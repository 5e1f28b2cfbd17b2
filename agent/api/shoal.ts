/** /shoal/v1: what Docker's API has no word for. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { NodeAvailability } from "../../core/objects/node.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import { vaultStatus } from "../data-keys.ts";
import type { ApiContext } from "./context.ts";
import { whyReport } from "./why.ts";
import { OPENAPI } from "./openapi.ts";
import { listenerNotes, meshPortsOf } from "./why-network.ts";

/** For what the nodes see of a service's ports; they usually answer within a second. */
const LISTENERS_WAIT_MS = 4_000;

export function shoalRoutes(context: ApiContext): Hono {
  const { ports, engine } = context;
  const app = new Hono();

  app.get("/v1/status", async (c) => {
    const node = ports.localNode();
    const raft = node.isManager ? await orError(() => ports.clusterStatus()) : undefined;
    const version = await orError(() => engine.version());
    return c.json({
      version: ports.version,
      node,
      raft: raft && "value" in raft ? raftBody(raft.value) : null,
      raftError: raft && "error" in raft ? raft.error : null,
      engine:
        "value" in version
          ? { version: version.value.Version, apiVersion: version.value.ApiVersion }
          : { error: version.error },
    });
  });

  app.get("/v1/backup", async (c) => {
    const bytes = await ports.backup();
    c.header("Content-Type", "application/octet-stream");
    c.header("Cache-Control", "no-store");
    return c.body(new Uint8Array(bytes));
  });

  app.post("/v1/restore", async (c) => {
    if (ports.localNode().state !== "inactive") {
      throw new ClusterError(
        "unavailable",
        'This node is already part of a swarm: a backup is restored on a node that is in none. Leave with "docker swarm leave --force" first',
      );
    }
    const query = (name: string) => c.req.query(name) || undefined;
    const [ListenAddr, AdvertiseAddr, DataPathAddr] = [
      query("listen-addr"),
      query("advertise-addr"),
      query("data-path-addr"),
    ];
    const availability = query("availability") ?? "active";
    if (!isAvailability(availability)) {
      throw new ClusterError(
        "invalid-argument",
        `invalid availability "${availability}": active, pause and drain are possible`,
      );
    }
    const result = await ports.restore({
      backup: new Uint8Array(await c.req.arrayBuffer()),
      ...(ListenAddr ? { ListenAddr } : {}),
      ...(AdvertiseAddr ? { AdvertiseAddr } : {}),
      ...(DataPathAddr ? { DataPathAddr } : {}),
      Availability: availability,
    });
    return c.json(result);
  });

  app.get("/v1/vault", async (c) => {
    return c.json(await ports.read((view) => vaultStatus(view, ports.vault)));
  });
  app.post("/v1/vault/rotate", async (c) => {
    await ports.rotateDataKey();
    return c.body(null, 200);
  });

  app.get("/v1/why/:ref", async (c) => {
    const ref = c.req.param("ref");
    const { report, published } = await ports.read((view) => {
      const found = whyReport(view, ref, ports.nowMs());
      const service = found.kind === "service" ? view.service(found.id) : undefined;
      return { report: found, published: service ? meshPortsOf(service) : [] };
    });
    if (published.length > 0) {
      const late = Bun.sleep(LISTENERS_WAIT_MS).then(() => undefined);
      // A node that does not answer says nothing of its programs; the rest of the report stands.
      const seen = await Promise.race([orError(() => ports.netDoctor({})), late]);
      if (seen && "value" in seen) report.notes.push(...listenerNotes(seen.value, published));
    }
    return c.json(report);
  });

  app.get("/v1/net/doctor", async (c) => {
    const node = c.req.query("node");
    return c.json(await ports.netDoctor(node ? { node } : {}));
  });

  app.get("/v1/metrics", async (c) => {
    c.header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    return c.body(await ports.metrics());
  });

  app.get("/v1/openapi.json", (c) => c.json(OPENAPI));
  return app;
}

function isAvailability(text: string): text is NodeAvailability {
  return text === "active" || text === "pause" || text === "drain";
}

type OrError<T> = { value: T } | { error: { code: string; message: string } };

async function orError<T>(run: () => Promise<T>): Promise<OrError<T>> {
  try {
    return { value: await run() };
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return { error: { code: error.code, message: error.message } };
  }
}

function raftBody(status: RaftStatus) {
  return {
    term: status.term,
    leaderId: status.leaderId ?? null,
    isLeader: status.isLeader,
    commitIndex: status.commitIndex,
    appliedIndex: status.appliedIndex,
    members: status.members,
  };
}
