import { describe, expect, test } from "bun:test";
import {
  type ClusterEvent,
  createClusterEvents,
  PAST_EVENTS_MAX,
} from "../../../agent/api/cluster-events.ts";
import type { NodeObject } from "../../../core/objects/node.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Change } from "../../../core/store/action.ts";
import { makeNode } from "./fake-ports.ts";

const NOW_MS = 1_795_331_542_576;
const META = { version: 1, createdAtMs: NOW_MS - 10, updatedAtMs: NOW_MS - 5 };
const NO_MODEL = {
  services: [],
  networks: [],
  secrets: [],
  configs: [],
  externals: { networks: [], secrets: [], configs: [] },
};
const service = (set: Partial<Service> = {}, replicas = 2, image = "one"): Service => ({
  ...META,
  id: "s1",
  spec: {
    Name: "web",
    Mode: { Replicated: { Replicas: replicas } },
    TaskTemplate: { ContainerSpec: { Image: image } },
  },
  specVersion: 1,
  ...set,
});
const ofService = (kind: Change["kind"], object: Service): Change => ({
  index: 1,
  kind,
  table: "service",
  id: object.id,
  object,
});
const ofNode = (object: NodeObject): Change => ({
  index: 1,
  kind: "update",
  table: "node",
  id: object.id,
  object,
});

function listening() {
  const events = createClusterEvents(() => NOW_MS);
  const seen: ClusterEvent[] = [];
  const stop = events.listen((event) => void seen.push(event));
  const take = (...changes: Change[]) => {
    events.take(changes);
    return seen.splice(0).map((event) => event.attributes);
  };
  return { events, seen, take, stop };
}

describe("events of a service", () => {
  test("name what has changed, with the value before", () => {
    const { take } = listening();
    const status = { startedAtMs: 1, message: "" };
    expect(take(ofService("create", service()))).toEqual([{ name: "web" }]);
    expect(take(ofService("update", service({ specVersion: 2 })))).toEqual([{ name: "web" }]);
    // The allocator's part.
    expect(take(ofService("update", service({ specVersion: 2 })))).toEqual([]);
    expect(take(ofService("update", service({}, 3)))).toEqual([
      { name: "web", "replicas.old": "2", "replicas.new": "3" },
    ]);
    expect(take(ofService("update", service({}, 3, "two")))).toEqual([
      { name: "web", "image.old": "one", "image.new": "two" },
    ]);
    const updating = service({ updateStatus: { ...status, state: "updating" } }, 3, "two");
    expect(take(ofService("update", updating))).toEqual([
      { name: "web", "updatestate.new": "updating" },
    ]);
    const done = service({ updateStatus: { ...status, state: "completed" } }, 3, "two");
    expect(take(ofService("update", done))).toEqual([
      { name: "web", "updatestate.old": "updating", "updatestate.new": "completed" },
    ]);
    expect(take(ofService("remove", done))).toEqual([{ name: "web" }]);
  });

  test("have the time of the change, a removal that of now", () => {
    const { events, seen } = listening();
    const updated = service({ specVersion: 2 });
    events.take([ofService("create", service()), ofService("update", updated)]);
    events.take([ofService("remove", service())]);
    expect(seen.map((event) => [event.action, event.atMs])).toEqual([
      ["create", NOW_MS - 10],
      ["update", NOW_MS - 5],
      ["remove", NOW_MS],
    ]);
  });
});

describe("events of a node", () => {
  const worker = makeNode("n7", "h7");

  test("name availability, role, state and reachability", () => {
    const { take } = listening();
    take(ofNode(worker));
    const { spec, status } = worker;
    expect(take(ofNode({ ...worker, spec: { ...spec, Availability: "drain" } }))).toEqual([
      { name: "h7", "availability.old": "active", "availability.new": "drain" },
    ]);
    take(ofNode(worker));
    const manager: NodeObject = { ...worker, role: "manager", managerAddr: "10.0.0.7:2377" };
    expect(take(ofNode(manager))).toEqual([
      {
        name: "h7",
        "role.old": "worker",
        "role.new": "manager",
        "reachability.new": "reachable",
      },
    ]);
    expect(take(ofNode({ ...manager, status: { ...status, state: "down" } }))).toEqual([
      {
        name: "h7",
        "state.old": "ready",
        "state.new": "down",
        "reachability.old": "reachable",
        "reachability.new": "unreachable",
      },
    ]);
  });

  test("tell another leader, but not the first", () => {
    const { events, seen, take } = listening();
    take(ofNode(worker), ofNode(makeNode("n8", "h8")));
    const status = { term: 1, isLeader: false, commitIndex: 1, appliedIndex: 1, members: [] };
    events.takeStatus({ ...status, leaderId: "n7" });
    events.takeStatus(status);
    events.takeStatus({ ...status, leaderId: "n7" });
    expect(seen).toEqual([]);
    events.takeStatus({ ...status, leaderId: "n8" });
    expect(seen.map((event) => event.attributes)).toEqual([
      { name: "h7", "leader.old": "true", "leader.new": "false" },
      { name: "h8", "leader.old": "false", "leader.new": "true" },
    ]);
  });
});

test("events of a stack have its newest revision", () => {
  const { seen, events } = listening();
  const revision = { number: 1, atMs: NOW_MS, files: [], model: NO_MODEL, images: {} };
  const object = { ...META, id: "st1", spec: { Name: "shop" }, revisions: [revision] };
  const ofStack = (kind: Change["kind"], ...more: (typeof revision)[]): Change => {
    const revisions = [...object.revisions, ...more];
    return { index: 1, kind, table: "stack", id: object.id, object: { ...object, revisions } };
  };
  const second = { ...revision, number: 2 };
  events.take([ofStack("create"), ofStack("update", second), ofStack("remove", second)]);
  expect(seen.map(({ type, action, id, attributes }) => [type, action, id, attributes])).toEqual([
    ["stack", "create", "st1", { name: "shop", revision: "1" }],
    ["stack", "update", "st1", { name: "shop", revision: "2" }],
    ["stack", "remove", "st1", { name: "shop", revision: "2" }],
  ]);
});

test("past events are kept, the last ones, in order and apart", () => {
  const { events, stop } = listening();
  stop();
  for (let at = 0; at < 3 * PAST_EVENTS_MAX; at += 1) {
    events.take([ofService("update", service({ specVersion: at }))]);
  }
  expect(events.past()).toHaveLength(PAST_EVENTS_MAX);
  const nanoseconds = events.past().map((event) => event.nanoseconds);
  expect(nanoseconds).toEqual([...nanoseconds].sort((a, b) => a - b));
  expect(new Set(nanoseconds).size).toBe(PAST_EVENTS_MAX);
  events.clear();
  expect(events.past()).toEqual([]);
});
