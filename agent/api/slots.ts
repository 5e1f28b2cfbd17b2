/** /shoal/v1/services/{id}/slots: where the slots of a stateful service live, and moving them. */
import { Hono } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { replicasOf, type Service } from "../../core/objects/service.ts";
import { isStateful, moveSlot, STATEFUL_LABEL } from "../../core/objects/stateful.ts";
import { matchesConstraints } from "../../core/scheduler/constraint.ts";
import { isWanted } from "../../core/orchestrator/slot.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { readBody } from "./body.ts";
import { type ApiContext, proposeInSequence } from "./context.ts";
import { findNode, findService, nodeName } from "./lookup.ts";

const moveSchema = z.object({ Node: z.string().default("") });

export type SlotLine = {
  Slot: number;
  Name: string;
  /** Absent until it has been placed, and once it was given up. */
  Node?: { ID: string; Hostname: string; State: string };
  /** By network name. */
  Addresses: Record<string, string>;
  /** Of the task that is wanted there. */
  TaskState?: string;
  /** False for one that the service was scaled below: it is remembered. */
  IsUsed: boolean;
};

export function slotRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/:id/slots", async (c) =>
    c.json(await ports.read((view) => slotLines(view, findStateful(view, c.req.param("id"))))),
  );

  app.post("/:id/slots/:slot", async (c) => {
    const { Node } = await readBody(c, moveSchema);
    const text = c.req.param("slot");
    await proposeInSequence(context, () =>
      ports.read((view) => {
        const service = findStateful(view, c.req.param("id"));
        const slot = Number(text);
        const isSlot = /^[1-9]\d{0,5}$/.test(text) && isKnown(service, slot);
        if (!isSlot) throw noSlot(service, text);
        const nodeId = Node === "" ? undefined : findNode(view, Node).id;
        refuseMove(view, service, slot, nodeId);
        return {
          type: "update",
          table: "service",
          id: service.id,
          ifVersion: service.version,
          set: { slots: moveSlot(service, slot, nodeId) },
        };
      }),
    );
    return c.body(null, 200);
  });
  return app;
}

function findStateful(view: ClusterView, ref: string): Service {
  const service = findService(view, ref);
  if (isStateful(service.spec)) return service;
  throw new ClusterError(
    "invalid-argument",
    `service ${service.spec.Name} is not stateful, its tasks go anywhere: add the label ${STATEFUL_LABEL}=true to it`,
  );
}

/** The slot's task is stopped by a move: the next one must have where to go. */
function refuseMove(
  view: ClusterView,
  service: Service,
  slot: number,
  nodeId: string | undefined,
): void {
  const task = view.tasksByService(service.id).find((one) => one.slot === slot && isWanted(one));
  const node = view.node(nodeId ?? task?.nodeId ?? "");
  const isOpen = node?.status.state === "ready" && node.spec.Availability === "active";
  const { Name, TaskTemplate } = service.spec;
  if (nodeId === undefined) {
    // Else its home is given up, and the next one is chosen by the scheduler (stateful.ts).
    if (!node || node.status.state === "down" || node.spec.Availability === "drain") return;
    throw new ClusterError(
      "failed-precondition",
      `slot ${slot} of ${Name} is on ${nodeName(node)} and stays there: name the node that it is to move to`,
    );
  }
  if (!node) return;
  const where = `slot ${slot} of ${Name} cannot move to ${nodeName(node)}`;
  if (!isOpen) {
    throw new ClusterError(
      "failed-precondition",
      `${where}: the node is ${node.status.state}, its availability ${node.spec.Availability}; choose another, or activate it first`,
    );
  }
  if (matchesConstraints(TaskTemplate.Placement?.Constraints ?? [], node)) return;
  throw new ClusterError(
    "failed-precondition",
    `${where}: the service's constraints (${TaskTemplate.Placement?.Constraints?.join(", ")}) do not allow it`,
  );
}

function isKnown(service: Service, slot: number): boolean {
  return slot <= (replicasOf(service.spec) ?? 0) || service.slots?.[slot] !== undefined;
}

function noSlot(service: Service, text: string): ClusterError {
  return new ClusterError(
    "not-found",
    `service ${service.spec.Name} has no slot ${JSON.stringify(text)}: it has 1 to ${replicasOf(service.spec) ?? 0}`,
  );
}

function slotLines(view: ClusterView, service: Service): SlotLine[] {
  const replicas = replicasOf(service.spec) ?? 0;
  const used = Array.from({ length: replicas }, (_, index) => index + 1);
  const remembered = Object.keys(service.slots ?? {}).map(Number);
  const tasks = view.tasksByService(service.id).filter(isWanted);
  return [...new Set([...used, ...remembered])]
    .sort((a, b) => a - b)
    .map((slot): SlotLine => {
      const { nodeId, addresses = {} } = service.slots?.[slot] ?? {};
      const node = nodeId === undefined ? undefined : view.node(nodeId);
      const state = tasks.findLast((task) => task.slot === slot)?.status.state;
      return {
        Slot: slot,
        Name: `${service.spec.Name}-${slot}`,
        ...(node
          ? { Node: { ID: node.id, Hostname: nodeName(node), State: node.status.state } }
          : {}),
        Addresses: Object.fromEntries(
          Object.entries(addresses).map(([id, address]) => [
            view.network(id)?.spec.Name ?? id,
            address,
          ]),
        ),
        ...(state === undefined ? {} : { TaskState: state }),
        IsUsed: slot <= replicas,
      };
    });
}
