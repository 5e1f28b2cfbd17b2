import { expect, test } from "bun:test";
import { STACK_ID_LABEL } from "../../../core/objects/stack.ts";
import { planStackReaping } from "../../../core/orchestrator/stack-reaper.ts";
import { seededRandom } from "../../../core/random.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import {
  applyNext,
  applyOrThrow,
  AT_MS,
  clusterDraft,
  create,
  networkDraft,
  nodeDraft,
  secretDraft,
  serviceDraft,
  stackDraft,
  taskDraft,
  taskSpec,
  taskStatus,
} from "../store/objects.ts";

function cluster(...actions: StoreAction[]) {
  const rows = createMemoryRows();
  applyOrThrow(rows, create("cluster", clusterDraft()), create("node", nodeDraft("n1", 1)));
  applyOrThrow(rows, ...actions);
  const plan = () =>
    planStackReaping({ view: rows, nowMs: AT_MS, random: seededRandom(1) }).actions;
  return {
    rows,
    plan,
    removed: () => plan().flatMap((one) => (one.type === "remove" ? one.id : [])),
  };
}
const Labels = { [STACK_ID_LABEL]: "k1" };
const network = (id: string, labels: Record<string, string> = Labels) =>
  create(
    "network",
    networkDraft(id, { Name: id, Labels: labels }, { subnet: `10.9.${id.length}.0/24` }),
  );
const secret = (id: string) => {
  const draft = secretDraft(id);
  return create("secret", { ...draft, spec: { ...draft.spec, Labels } });
};
const stack = (networks: string[], secrets: string[][] = [[]]) => {
  const draft = stackDraft("k1", "shop", networks);
  const [first] = draft.revisions;
  const revisions = secrets.map((names, index) => ({
    ...(first ?? expect.unreachable()),
    number: index + 1,
    model: {
      ...(first?.model ?? expect.unreachable()),
      secrets: names.map((Name) => ({ Name, Labels: {} })),
    },
  }));
  return create("stack", { ...draft, revisions });
};

test("keeps what the newest revision wants, and secrets that any kept one names", () => {
  const { removed } = cluster(
    network("a"),
    network("bb"),
    network("ccc", {}),
    secret("x1"),
    secret("x2"),
    secret("x3"),
    stack(["a"], [["x1"], ["x2"]]),
  );
  // Without the label it is somebody else's.
  expect(removed()).toEqual(["bb", "x3"]);
});

test("takes all of a removed stack, each thing once nothing uses it, and asks apply for nothing else", () => {
  const spec = taskSpec({ Secrets: [{ SecretID: "x1" }] }, { Networks: [{ Target: "a" }] });
  const { rows, plan, removed } = cluster(
    network("a"),
    secret("x1"),
    secret("x2"),
    create("service", serviceDraft("s1", { TaskTemplate: spec })),
    create(
      "task",
      taskDraft("t1", "s1", {
        nodeId: "n1",
        spec,
        status: taskStatus("running"),
        networks: [{ networkId: "a", address: "10.9.1.5", aliases: [] }],
      }),
    ),
  );
  expect(removed()).toEqual(["x2"]);
  applyOrThrow(rows, ...plan());
  // The task is on it, of the version before.
  applyOrThrow(rows, {
    type: "update",
    table: "service",
    id: "s1",
    set: { spec: serviceDraft("s1").spec },
  });
  expect(removed()).toEqual(["x1"]);
  // Which a rollback would need.
  const previousSpec = serviceDraft("s1", { TaskTemplate: spec }).spec;
  const set = (fields: object) =>
    applyOrThrow(rows, { type: "update", table: "service", id: "s1", set: fields });
  set({ previousSpec });
  expect(removed()).toEqual([]);
  set({ updateStatus: { state: "completed", startedAtMs: AT_MS, message: "" } });
  applyOrThrow(rows, ...plan());
  applyOrThrow(rows, {
    type: "update",
    table: "task",
    id: "t1",
    set: { desiredState: "shutdown" },
  });
  expect(removed()).toEqual(["a"]);
  expect(applyNext(rows, plan()).outcome).toMatchObject({ type: "applied", droppedCount: 0 });
  expect(plan()).toEqual([]);
});
