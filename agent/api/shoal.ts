/** /shoal/v1: what Docker's API has no word for. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { NodeAvailability } from "../../core/objects/node.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import { vaultStatus } from "../data-keys.ts";
import type { ApiContext } from "./context.ts";
import { whyReport } from "./why.ts";
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

const NULLABLE_OBJECT = { type: ["object", "null"] } as const;

/** Kept by hand: it describes /shoal/v1 only; the rest is Docker's own document. */
const OPENAPI = {
  openapi: "3.1.0",
  info: {
    title: "shoal",
    version: "1",
    description: "Shoal's own calls. All other paths of this socket are the Docker Engine API.",
  },
  paths: {
    "/shoal/v1/status": {
      get: {
        operationId: "getStatus",
        summary: "This node, the raft group as its leader sees it, and the versions",
        responses: {
          "200": {
            description:
              "The status. Parts that cannot be had are null, with an error beside them.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Status" } } },
          },
        },
      },
    },
    "/shoal/v1/metrics": {
      get: {
        operationId: "getMetrics",
        summary: "This node's metrics as Prometheus text",
        responses: {
          "200": { description: "The metrics.", content: { "text/plain": {} } },
        },
      },
    },
    "/shoal/v1/why/{ref}": {
      get: {
        operationId: "why",
        summary:
          "Why a service's tasks, or one task, do not run: node by node, and their last failures",
        parameters: [
          {
            name: "ref",
            in: "path",
            required: true,
            description: "Name, id or unique prefix of an id of a service or task",
            schema: { type: "string" },
          },
        ],
        responses: {
          "200": {
            description: "The reasons.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Why" } } },
          },
          "404": { description: "There is no such service or task" },
        },
      },
    },
    "/shoal/v1/net/doctor": {
      get: {
        operationId: "netDoctor",
        summary:
          "Every node looks at its network: what is wrong and what to do; takes up to 6 s and changes nothing",
        parameters: [
          {
            name: "node",
            in: "query",
            required: false,
            description: "Name, id or unique prefix of an id: this node only",
            schema: { type: "string" },
          },
        ],
        responses: {
          "200": {
            description:
              "The findings. On a worker, or without a leader, of the asked node alone, and `note` says so.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/NetReport" } } },
          },
          "404": { description: "There is no such node" },
        },
      },
    },
    "/shoal/v1/backup": {
      get: {
        operationId: "getBackup",
        summary:
          "Everything of the cluster in one file, with the CA's key, all secrets and the key that opens them; managers only",
        responses: {
          "200": {
            description:
              "The file, for restore. With the header Shoal-Stale it was made without a leader and may lack the newest changes.",
            content: { "application/octet-stream": {} },
          },
        },
      },
    },
    "/shoal/v1/restore": {
      post: {
        operationId: "restore",
        summary: "Makes this node, which is in no cluster, the only manager of a backup's cluster",
        parameters: ["listen-addr", "advertise-addr", "data-path-addr", "availability"].map(
          (name) => ({ name, in: "query", required: false, schema: { type: "string" } }),
        ),
        requestBody: { required: true, content: { "application/octet-stream": {} } },
        responses: {
          "200": { description: "Done: node and cluster id, and how much was restored" },
          "400": { description: "Not a backup, damaged, encrypted, or of a newer format" },
          "503": { description: "This node is in a cluster" },
        },
      },
    },
    "/shoal/v1/vault": {
      get: {
        operationId: "getVault",
        summary:
          "By which key secrets are sealed, and how far a change of it has come; managers only",
        responses: {
          "200": {
            description: "The state of the keys; never a key.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Vault" } } },
          },
        },
      },
    },
    "/shoal/v1/vault/rotate": {
      post: {
        operationId: "rotateVault",
        summary: "Begins to seal all secrets by a new key; managers only",
        responses: { "200": { description: "Begun; getVault tells how far it is" } },
      },
    },
    "/shoal/v1/openapi.json": {
      get: {
        operationId: "getOpenapi",
        summary: "This document",
        responses: { "200": { description: "An OpenAPI 3.1 document" } },
      },
    },
  },
  components: {
    schemas: {
      Vault: {
        type: "object",
        required: ["lateManagers", "staleCount"],
        properties: {
          sealingKeyId: { type: "string", description: "Absent before the first rotation" },
          nextKeyId: { type: "string", description: "While it is made known to the managers" },
          lateManagers: {
            type: "array",
            items: { type: "string" },
            description: "Ids of managers that do not have the next key yet",
          },
          staleCount: { type: "integer", description: "Objects that are still to be sealed anew" },
        },
      },
      NetFinding: {
        type: "object",
        required: ["check", "severity", "about", "seen", "count"],
        properties: {
          check: { type: "string" },
          severity: { enum: ["ok", "warning", "error"] },
          about: { type: "string", description: "What was looked at" },
          seen: { type: "string" },
          fix: { type: "string", description: "What to do; absent where nothing is wrong" },
          count: { type: "integer", description: "Targets of the check that it stands for" },
        },
      },
      NetReport: {
        type: "object",
        required: ["scope", "cluster", "nodes", "checks", "warnings", "errors"],
        properties: {
          scope: { enum: ["cluster", "node"] },
          note: { type: "string", description: "Why not all nodes were asked" },
          cluster: { type: "array", items: { $ref: "#/components/schemas/NetFinding" } },
          nodes: {
            type: "array",
            items: {
              type: "object",
              required: ["nodeId", "hostname", "findings"],
              properties: {
                nodeId: { type: "string" },
                hostname: { type: "string" },
                findings: { type: "array", items: { $ref: "#/components/schemas/NetFinding" } },
              },
            },
          },
          checks: { type: "integer" },
          warnings: { type: "integer" },
          errors: { type: "integer" },
        },
      },
      Why: {
        type: "object",
        required: ["kind", "id", "name", "summary", "notes", "pending", "underWay", "failures"],
        properties: {
          kind: { enum: ["service", "task"] },
          id: { type: "string" },
          name: { type: "string" },
          summary: { type: "string" },
          notes: { type: "array", items: { type: "string" } },
          pending: {
            type: "array",
            description: "Tasks without a node, grouped by what they wait for",
            items: {
              type: "object",
              properties: {
                tasks: { type: "array", items: { type: "string" } },
                reason: { type: "string" },
                nodes: {
                  type: "array",
                  description: "The nearest first; without reasons a node could take the task",
                  items: {
                    type: "object",
                    properties: {
                      nodeId: { type: "string" },
                      hostname: { type: "string" },
                      reasons: {
                        type: "array",
                        items: {
                          type: "object",
                          properties: {
                            filter: { type: "string" },
                            text: { type: "string" },
                            fix: { type: "string" },
                          },
                        },
                      },
                    },
                  },
                },
              },
            },
          },
          underWay: { type: "array", items: { type: "object" } },
          failures: {
            type: "array",
            description: "Of the tasks kept as history, the newest first",
            items: { type: "object" },
          },
        },
      },
      Status: {
        type: "object",
        required: ["version", "node", "raft", "raftError", "engine"],
        properties: {
          version: { type: "string", description: "Version of shoal" },
          node: {
            type: "object",
            required: ["state", "isManager", "managers"],
            properties: {
              state: { enum: ["inactive", "pending", "active", "error", "locked"] },
              error: { type: "string" },
              nodeId: { type: "string" },
              clusterId: { type: "string" },
              nodeAddr: { type: "string" },
              isManager: { type: "boolean" },
              leaderLostMs: {
                type: "integer",
                description: "No leader has been known for so long; reads are stale meanwhile",
              },
              disk: {
                type: "object",
                properties: {
                  state: { enum: ["ok", "low", "critical"] },
                  freeBytes: { type: "integer" },
                },
              },
              certificate: {
                type: "object",
                properties: {
                  notAfterMs: { type: "integer", description: "Its end, Unix time" },
                  failure: {
                    type: "string",
                    description: "Why it was not renewed at the last try",
                  },
                  failureCount: { type: "integer", description: "Since the start of the agent" },
                },
              },
              managers: {
                type: "array",
                items: {
                  type: "object",
                  properties: { nodeId: { type: "string" }, addr: { type: "string" } },
                },
              },
            },
          },
          raft: {
            ...NULLABLE_OBJECT,
            description: "Null on workers and when it cannot be read",
            properties: {
              term: { type: "integer" },
              leaderId: { type: ["string", "null"] },
              isLeader: { type: "boolean" },
              commitIndex: { type: "integer" },
              appliedIndex: { type: "integer" },
              members: { type: "array", items: { type: "object" } },
            },
          },
          raftError: NULLABLE_OBJECT,
          engine: { type: "object", description: "Versions of the local engine, or the error" },
        },
      },
    },
  },
} as const;
