import { describe, expect, test } from "bun:test";
import type { Task } from "../../../core/objects/task.ts";
import { ORPHAN_AFTER_MS, planReaping } from "../../../core/orchestrator/reaper.ts";
import { seededRandom } from "../../../core/random.ts";
import { aCluster, aNode, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

const service = aService("web", { replicas: 1 });
const dead = (id: string, age: number, over: Partial<Task> = {}) =>
  aTask(service, {
    id,
    state: "failed",
    desiredState: "shutdown",
    nodeId: "n1",
    createdAtMs: START_MS - age,
    ...over,
  });

function plan(tasks: Task[], limit: number, nowMs = START_MS, over = service) {
  const base = aCluster();
  const { view } = aState({
    cluster: {
      ...base,
      spec: { ...base.spec, Orchestration: { TaskHistoryRetentionLimit: limit } },
    },
    nodes: [aNode({ id: "n1" }), aNode({ id: "n2", state: "down" })],
    services: [over],
    tasks,
  });
  return planReaping({ view, nowMs, random: seededRandom(1) });
}

function removedIds(...args: Parameters<typeof plan>): string[] {
  return plan(...args).actions.flatMap((action) => (action.type === "remove" ? [action.id] : []));
}

describe("planReaping()", () => {
  const history = [dead("a", 40), dead("b", 30), dead("c", 20), dead("d", 10)];
  const live = aTask(service, { id: "live", nodeId: "n1" });

  test("keeps the newest tasks of a slot, the running one included", () => {
    expect(removedIds([...history, live], 5)).toEqual([]);
    expect(removedIds([...history, live], 3)).toEqual(["a", "b"]);
    expect(removedIds([...history, live], 0)).toEqual(["a", "b", "c", "d"]);
    expect(removedIds([...history, live], -1)).toEqual([]);
  });

  test("keeps the newest task of a slot in which nothing is wanted", () => {
    expect(removedIds(history, 0)).toEqual(["a", "b", "c"]);
  });

  test("keeps what the restart policy and a running update need", () => {
    const limited = aService("web", { replicas: 1, restart: { MaxAttempts: 3 } });
    expect(removedIds([...history, live], 0, START_MS, limited)).toEqual(["a"]);
    const updateStatus = { state: "updating" as const, startedAtMs: START_MS, message: "" };
    const updating = { ...service, updateStatus };
    expect(removedIds([...history, live], 0, START_MS, updating)).toEqual(["a", "b"]);
  });

  test("removes what is to be removed once it has stopped or when it never began", () => {
    const gone = { desiredState: "remove" } as const;
    const tasks = [
      dead("dead", 1, gone),
      aTask(service, { id: "alive", nodeId: "n1", ...gone }),
      aTask(service, { id: "pending", state: "pending", ...gone }),
      aTask(service, { id: "lost", nodeId: "n9", ...gone }),
      aTask(service, { id: "away", nodeId: "n2", ...gone }),
    ];
    expect(removedIds(tasks, 5)).toEqual(["dead", "lost", "pending"]);
  });

  test("orphans tasks of removed nodes at once and of down nodes after a day", () => {
    const tasks = [
      aTask(service, { id: "lost", slot: 1, nodeId: "n9" }),
      aTask(service, { id: "away", slot: 2, nodeId: "n2" }),
    ];
    const first = plan(tasks, 5);
    expect(first.actions).toMatchObject([{ id: "lost", set: { status: { state: "orphaned" } } }]);
    expect(first.wakeAtMs).toBe(START_MS + ORPHAN_AFTER_MS);
    const later = plan(tasks, 5, START_MS + ORPHAN_AFTER_MS);
    expect(later.actions.map((action) => "id" in action && action.id)).toEqual(["away", "lost"]);
  });
});
