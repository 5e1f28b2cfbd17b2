import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import {
  applyAssignments,
  assignmentsFor,
  diffAssignments,
} from "../../../core/dispatcher/assignments.ts";
import {
  addReceiver,
  createDispatch,
  dispatchRound,
  dropReceiver,
} from "../../../core/dispatcher/dispatch.ts";
import { isHeld } from "../../../core/dispatcher/withdrawal.ts";
import type { Change } from "../../../core/store/action.ts";
import { apply } from "../../../core/store/apply.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import {
  applyOrThrow,
  clusterDraft,
  create,
  nodeDraft,
  serviceDraft,
  taskDraft,
  taskStatus,
} from "../store/objects.ts";
import { proposals } from "../store/random-actions.ts";

describe("dispatchRound()", () => {
  test("keeps every session at the set computed from scratch", () => {
    fc.assert(
      fc.property(proposals, fc.integer({ min: 1, max: 4 }), (list, perRound) => {
        const rows = createMemoryRows();
        const dispatch = createDispatch(rows, 0);
        const received = new Map<string, Map<string, AssignmentItem>>();
        const generations = new Map<string, number>();
        let changes: Change[] = [];
        for (const [i, proposal] of list.entries()) {
          rows.setIndex(i + 1);
          changes.push(...apply(rows, proposal, i + 1).changes);
          if (i % perRound !== 0) continue;
          // One more node connects in each of the first rounds.
          const nodeId = `n${i / perRound + 1}`;
          if (rows.node(nodeId) && !received.has(nodeId)) addReceiver(dispatch, nodeId, nodeId);
          const { messages } = dispatchRound(dispatch, rows, changes, i * 100);
          for (const { sessionId, message } of messages) {
            const generation = (generations.get(sessionId) ?? 0) + 1;
            expect(message.generation).toBe(generation);
            expect(message.type).toBe(generation === 1 ? "complete" : "incremental");
            generations.set(sessionId, generation);
            const before = received.get(sessionId) ?? new Map();
            received.set(sessionId, applyAssignments(before, message));
          }
          changes = [];
          for (const [sessionId, set] of received) {
            if (!rows.node(sessionId)) {
              // As the shell does when the node is removed.
              dropReceiver(dispatch, sessionId);
              received.delete(sessionId);
              generations.delete(sessionId);
              continue;
            }
            const held = (id: string) => isHeld(dispatch.withdrawals, id);
            const wanted = assignmentsFor(rows, sessionId, held);
            expect(diffAssignments(set, wanted)).toEqual({ put: [], removed: [] });
          }
        }
      }),
      { numRuns: 150 },
    );
  });

  test("sends nothing when nothing changed, and nothing to a dropped session", () => {
    const rows = createMemoryRows();
    applyOrThrow(
      rows,
      create("cluster", clusterDraft()),
      create("node", nodeDraft("n1", 1)),
      create("service", serviceDraft("s1")),
    );
    const dispatch = createDispatch(rows, 0);
    addReceiver(dispatch, "a", "n1");
    expect(dispatchRound(dispatch, rows, [], 0).messages.map((m) => m.message.type)).toEqual([
      "complete",
    ]);
    expect(dispatchRound(dispatch, rows, [], 0).messages).toEqual([]);
    const task = taskDraft("t1", "s1", { nodeId: "n1", status: taskStatus("assigned") });
    const changes = applyOrThrow(rows, create("task", task));
    dropReceiver(dispatch, "a");
    expect(dispatchRound(dispatch, rows, changes, 0).messages).toEqual([]);
  });

  test("sends nothing to a removed node: an empty set would stop its containers", () => {
    const rows = createMemoryRows();
    applyOrThrow(rows, create("node", nodeDraft("n1", 1)));
    const dispatch = createDispatch(rows, 0);
    addReceiver(dispatch, "a", "n1");
    dispatchRound(dispatch, rows, [], 0);
    const changes = applyOrThrow(rows, { type: "remove", table: "node", id: "n1" });
    expect(dispatchRound(dispatch, rows, changes, 0).messages).toEqual([]);
  });
});
