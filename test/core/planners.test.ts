import { expect, test } from "bun:test";
import * as fc from "fast-check";
import type { UpdateConfig } from "../../core/objects/service.ts";
import { isTaskDead, type Task, type TaskState } from "../../core/objects/task.ts";
import { PLANNERS } from "../../core/planners.ts";
import type { ClusterView } from "../../core/store/view.ts";
import {
  aNetwork,
  aNode,
  anAgent,
  anIngressNetwork,
  aService,
  aState,
  runningTasks,
  runToQuiet,
  scaleTo,
  set,
  setAvailability,
  setImage,
  setNodeState,
  updateSpec,
} from "../fixtures/cluster.ts";

const NODES = ["n1", "n2", "n3", "n4"];
const SERVICES = ["first", "second", "kept", "all"];

const nodeId = fc.constantFrom(...NODES);
const eventArbitrary = fc.oneof(
  fc.record({ type: fc.constant("node-state" as const), nodeId, isUp: fc.boolean() }),
  fc.record({
    type: fc.constant("availability" as const),
    nodeId,
    availability: fc.constantFrom("active" as const, "pause" as const, "drain" as const),
  }),
  fc.record({ type: fc.constant("label" as const), nodeId, isSet: fc.boolean() }),
  fc.record({
    type: fc.constant("scale" as const),
    service: fc.constantFrom("first", "second", "kept"),
    replicas: fc.integer({ min: 0, max: 8 }),
  }),
  fc.record({
    type: fc.constant("image" as const),
    service: fc.constantFrom(...SERVICES),
    image: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({ type: fc.constant("place" as const), service: fc.constantFrom(...SERVICES) }),
  fc.record({ type: fc.constant("wait" as const), seconds: fc.integer({ min: 1, max: 90 }) }),
);
type ClusterEvent = typeof eventArbitrary extends fc.Arbitrary<infer T> ? T : never;

const updateArbitrary: fc.Arbitrary<UpdateConfig> = fc.record({
  Parallelism: fc.integer({ min: 0, max: 3 }),
  Delay: fc.constantFrom(0, 2e9),
  FailureAction: fc.constantFrom("pause" as const, "continue" as const, "rollback" as const),
  MaxFailureRatio: fc.constantFrom(0, 0.5),
  Order: fc.constantFrom("stop-first" as const, "start-first" as const),
});

const scenarioArbitrary = fc.record({
  seed: fc.integer({ min: 1, max: 1_000_000 }),
  update: updateArbitrary,
  historyLimit: fc.constantFrom(0, 1, 5),
  events: fc.array(eventArbitrary, { maxLength: 12 }),
  isTogether: fc.boolean(),
});

/** What must hold in every state, whatever the planners, nodes and users did. */
function checkSafety(view: ClusterView): void {
  const capacity = new Map(view.nodes().map((node) => [node.id, 4e9]));
  const inSlot = new Map<string, Task[]>();
  for (const task of view.tasksByService("kept")) {
    // Its node is written down one round after it was placed there.
    const home = view.service("kept")?.slots?.[task.slot]?.nodeId ?? task.nodeId;
    expect(`${task.id} ${task.nodeId ?? home}`).toBe(`${task.id} ${home}`);
  }
  for (const task of view.tasks()) {
    if (isTaskDead(task.status.state) || task.nodeId === undefined) continue;
    const reserved = task.spec.Resources?.Reservations?.NanoCPUs ?? 0;
    if (task.status.state !== "pending" && task.status.state !== "new") {
      capacity.set(task.nodeId, (capacity.get(task.nodeId) ?? 0) - reserved);
    }
    if (task.desiredState !== "running") continue;
    const key = `${task.serviceId}/${task.slot > 0 ? task.slot : task.nodeId}`;
    inSlot.set(key, [...(inSlot.get(key) ?? []), task]);
  }
  for (const [id, rest] of capacity) expect(`${id} ${Math.min(rest, 0)}`).toBe(`${id} 0`);
  for (const [key, tasks] of inSlot) {
    const service = view.service(tasks[0]?.serviceId ?? "");
    // The order may have been changed by a rollback while two ran.
    const isStateful = service?.spec.Labels?.["shoal.stateful"] === "true";
    const isStartFirst = service?.spec.UpdateConfig?.Order === "start-first" && !isStateful;
    expect(`${key} ${tasks.length > (isStartFirst ? 3 : 1)}`).toBe(`${key} false`);
  }
}

test("PLANNERS keep slots, resources and addresses safe in random histories, and converge", () => {
  fc.assert(
    fc.property(scenarioArbitrary, ({ seed, update, historyLimit, events, isTogether }) => {
      const common = { update, reserve: { cpus: 0.4 } };
      const cluster = aState({
        seed,
        nodes: NODES.map((id) => aNode({ id })),
        networks: [
          anIngressNetwork(),
          aNetwork("net", { subnet: "10.0.1.0/26", gateway: "10.0.1.1" }),
        ],
        services: [
          aService("first", {
            ...common,
            replicas: 3,
            networks: ["net"],
            ports: [{ TargetPort: 80 }],
          }),
          aService("second", { ...common, replicas: 2, ports: [{ TargetPort: 81 }] }),
          // Stateful: test/core/orchestrator/stateful.test.ts has more of it.
          aService("kept", {
            ...common,
            replicas: 3,
            networks: ["net"],
            labels: { "shoal.stateful": "true" },
          }),
          aService("all", { ...common, networks: ["net"] }),
        ],
      });
      const { spec } = cluster.view.cluster() ?? {};
      if (spec) {
        const Orchestration = { TaskHistoryRetentionLimit: historyLimit };
        set(cluster, "cluster", "cluster", { spec: { ...spec, Orchestration } }, 1);
      }
      // Image 3 is bad: half of its tasks die as they start.
      const agent = anAgent((task): TaskState | undefined =>
        task.spec.ContainerSpec.Image === "busybox:3" && task.id < "i" ? "failed" : undefined,
      );
      const runOptions = {
        planners: PLANNERS,
        agent,
        isTogether,
        roundMs: 100,
        onRound: checkSafety,
      };
      let nowMs = runToQuiet(cluster, runOptions);
      for (const event of events) {
        play(cluster, event, nowMs);
        const forMs = event.type === "wait" ? event.seconds * 1_000 : 500;
        nowMs = Math.max(
          nowMs + forMs,
          runToQuiet(cluster, { ...runOptions, nowMs, untilMs: nowMs + forMs }),
        );
      }
      for (const id of NODES) {
        setNodeState(cluster, id, "ready", nowMs);
        setAvailability(cluster, id, "active", nowMs);
      }
      for (const id of SERVICES) {
        updateSpec(
          cluster,
          id,
          (old) => {
            delete old.TaskTemplate.Placement;
            return setImage(old, "busybox:good");
          },
          nowMs,
        );
      }
      runToQuiet(cluster, { ...runOptions, nowMs });
      for (const id of SERVICES) {
        const service = cluster.view.service(id);
        const wanted = service?.spec.Mode.Replicated?.Replicas ?? NODES.length;
        expect(runningTasks(cluster.view, id).length).toBe(wanted);
        const images = runningTasks(cluster.view, id).map((t) => t.spec.ContainerSpec.Image);
        expect(images.filter((image) => image !== "busybox:good")).toEqual([]);
        expect(service?.updateStatus?.state ?? "completed").toBe("completed");
      }
    }),
    { numRuns: 150 },
  );
}, 60_000);

function play(cluster: ReturnType<typeof aState>, event: ClusterEvent, nowMs: number): void {
  switch (event.type) {
    case "node-state":
      return setNodeState(cluster, event.nodeId, event.isUp ? "ready" : "down", nowMs);
    case "availability":
      return setAvailability(cluster, event.nodeId, event.availability, nowMs);
    case "label": {
      const node = cluster.view.node(event.nodeId);
      if (!node) return;
      const Labels: Record<string, string> = event.isSet ? { a: "1" } : {};
      return set(cluster, "node", event.nodeId, { spec: { ...node.spec, Labels } }, nowMs);
    }
    case "scale":
      return updateSpec(cluster, event.service, (spec) => scaleTo(spec, event.replicas), nowMs);
    case "image":
      return updateSpec(
        cluster,
        event.service,
        (spec) => setImage(spec, `busybox:${event.image}`),
        nowMs,
      );
    case "place":
      return updateSpec(
        cluster,
        event.service,
        (spec) => {
          spec.TaskTemplate.Placement = { Constraints: ["node.labels.a != 1"] };
          return spec;
        },
        nowMs,
      );
    case "wait":
  }
}
