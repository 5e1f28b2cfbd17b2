/** /nodes. Source: Docker Engine API, tag Node; SwarmKit manager/controlapi/node.go. */
import { Hono } from "hono";
import type { NodeObject, NodeSpec } from "../../core/objects/node.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { ClusterError } from "../../core/errors.ts";
import { readBody } from "./body.ts";
import { type ApiContext, proposeInSequence } from "./context.ts";
import {
  type Filters,
  matchesExactly,
  matchesLabels,
  matchesPrefix,
  parseFilters,
} from "./filters.ts";
import { isTruthy, parseVersion } from "./go-values.ts";
import { findNode, namesOf } from "./lookup.ts";
import { controlError } from "./problem.ts";
import { renderNode } from "./render.ts";
import { nodeSpecSchema } from "./spec-schema.ts";

const FILTERS = ["id", "label", "node.label", "membership", "name", "role"] as const;

export function nodeRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/", async (c) => {
    const given = parseFilters(c.req.query("filters"), FILTERS);
    const filters = new Map([
      ...given,
      ...wordsOf(given, "role", ["worker", "manager"]),
      ...wordsOf(given, "membership", ["accepted", "pending"]),
    ]);
    const nodes = await ports.read((view) => view.nodes().filter((node) => matches(node, filters)));
    const raft = await raftStatus(context);
    return c.json(nodes.map((node) => renderNode(node, raft)));
  });

  app.get("/:id", async (c) => {
    const node = await ports.read((view) => findNode(view, c.req.param("id")));
    return c.json(renderNode(node, await raftStatus(context)));
  });

  app.post("/:id/update", async (c) => {
    const version = parseVersion("node", c.req.query("version"));
    const parsed = await readBody(c, nodeSpecSchema);
    const spec: NodeSpec = {
      ...(parsed.Name ? { Name: parsed.Name } : {}),
      Labels: parsed.Labels,
      Role: oneOf("Role", parsed.Role, ["worker", "manager"]),
      Availability: oneOf("Availability", parsed.Availability, ["active", "pause", "drain"]),
    };
    await proposeInSequence(context, async () => {
      const node = await ports.read((view) => {
        const found = findNode(view, c.req.param("id"));
        if (found.spec.Role === "manager" && spec.Role === "worker") refuseLastManager(view, found);
        return found;
      });
      if (node.spec.Role === "manager" && spec.Role === "worker") {
        refuseQuorumLoss(node, await ports.clusterStatus());
      }
      const ifVersion = ports.specVersions.seen(node, version);
      return { type: "update", table: "node", id: node.id, ifVersion, set: { spec } };
    });
    return c.body(null, 200);
  });

  app.delete("/:id", async (c) => {
    const force = isTruthy(c.req.query("force"));
    await proposeInSequence(context, async () => {
      const node = await ports.read((view) => findNode(view, c.req.param("id")));
      if (
        node.role === "manager" ||
        node.managerAddr !== undefined ||
        node.spec.Role === "manager"
      ) {
        throw controlError(
          "failed-precondition",
          `node ${node.id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal`,
        );
      }
      if (!force && node.status.state === "ready") {
        throw controlError(
          "failed-precondition",
          `node ${node.id} is not down and can't be removed`,
        );
      }
      // With the version, so that a promotion or a return in between is not lost.
      const { id, version } = node;
      return { type: "remove", table: "node", id, ...(force ? {} : { ifVersion: version }) };
    });
    return c.body(null, 200);
  });
  return app;
}

/** Reachability of managers; without a leader the nodes are still listed. */
async function raftStatus(context: ApiContext): Promise<RaftStatus | undefined> {
  try {
    return await context.ports.clusterStatus();
  } catch (error) {
    if (error instanceof ClusterError) return undefined;
    throw error;
  }
}

function matches(node: NodeObject, filters: Filters): boolean {
  return (
    matchesPrefix(filters, "id", node.id) &&
    (!filters.has("name") || namesOf(node).some((name) => matchesPrefix(filters, "name", name))) &&
    matchesLabels(filters, "node.label", node.spec.Labels) &&
    matchesLabels(filters, "label", node.description?.Engine.Labels) &&
    matchesExactly(filters, "role", node.role) &&
    matchesExactly(filters, "membership", "accepted")
  );
}

/** The filter in lower case: case does not matter, as in stock. @throws {ClusterError} invalid-argument */
function wordsOf(filters: Filters, key: string, words: readonly string[]): [string, string[]][] {
  const values = filters.get(key);
  if (!values) return [];
  const unknown = values.find((value) => !words.includes(value.toLowerCase()));
  if (unknown !== undefined) {
    throw new ClusterError("invalid-argument", `Invalid ${key} filter: '${unknown}'`);
  }
  return [[key, values.map((value) => value.toLowerCase())]];
}

function oneOf<W extends string>(field: string, value: string, words: readonly W[]): W {
  // Case does not matter, as in stock.
  const word = words.find((word) => word === value.toLowerCase());
  if (!word) throw new ClusterError("invalid-argument", `invalid ${field}: "${value}"`);
  return word;
}

function refuseLastManager(view: ClusterView, node: NodeObject): void {
  const managers = view.nodes().filter((other) => other.spec.Role === "manager");
  if (managers.some((other) => other.id !== node.id)) return;
  throw controlError("failed-precondition", "attempting to demote the last manager of the swarm");
}

/** The managers that stay must be a quorum by themselves. Source: SwarmKit CanRemoveMember. */
function refuseQuorumLoss(node: NodeObject, raft: RaftStatus): void {
  const voters = raft.members.filter((member) => !member.isLearner);
  // Not a member (yet): promoted a moment ago, and taken back.
  if (!voters.some((member) => member.nodeId === node.id)) return;
  const rest = voters.filter((member) => member.nodeId !== node.id);
  const reachable = rest.filter(
    (member) => member.nodeId === raft.leaderId || member.isReachable !== false,
  );
  if (reachable.length >= Math.floor(rest.length / 2) + 1) return;
  throw controlError(
    "failed-precondition",
    "can't remove member from the raft: this would result in a loss of quorum",
  );
}
