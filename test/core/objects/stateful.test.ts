import { describe, expect, test } from "bun:test";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import {
  forgetSlot,
  isOrdered,
  isStateful,
  moveSlot,
  replaceAfterMs,
  rollbackProblem,
  slotNameOf,
  slotNameProblem,
  statefulProblem,
} from "../../../core/objects/stateful.ts";
import { aService, aServiceSpec, aTask, type ServiceWish } from "../../fixtures/cluster.ts";

const spec = (labels: Record<string, string>, wish: ServiceWish = { replicas: 3 }): ServiceSpec =>
  aServiceSpec("db", { ...wish, labels });
const on = { "shoal.stateful": "true" };

describe("stateful labels", () => {
  test("are read, and absent mean never and ordered", () => {
    expect(isStateful(spec(on))).toBe(true);
    expect(isStateful(spec({}))).toBe(false);
    expect(replaceAfterMs(on)).toBe(Number.POSITIVE_INFINITY);
    expect(replaceAfterMs({ "shoal.stateful.replace-after": "1h30m" })).toBe(5_400_000);
    expect(replaceAfterMs({ "shoal.stateful.replace-after": "0s" })).toBe(0);
    expect(isOrdered(on)).toBe(true);
    expect(isOrdered({ "shoal.stateful.order": "parallel" })).toBe(false);
  });

  test.each([
    [{ "shoal.stateful": "yes" }, '"yes" is not known: use true, or leave the label out'],
    [{ ...on, "shoal.stateful.replace-after": "soon" }, '"soon" is no duration: use one such as'],
    [{ ...on, "shoal.stateful.order": "random" }, '"random" is no order: use ordered or parallel'],
    [{ "shoal.stateful.order": "parallel" }, "is for stateful services: add shoal.stateful=true"],
  ])("%j is refused", (labels, message) => {
    expect(statefulProblem(spec(labels))).toContain(message);
  });

  test.each([
    [{}, "a global service cannot be stateful: use replicated mode"],
    [{ job: "global" as const }, "a global-job service cannot be stateful"],
    [{ job: { total: 1, max: 1 } }, "a replicated-job service cannot be stateful"],
    [
      { replicas: 1, update: { Order: "start-first" as const } },
      "UpdateConfig has order start-first, which runs two tasks of a slot at once: use --update-order stop-first",
    ],
    [
      { replicas: 1, rollback: { Order: "start-first" as const } },
      "RollbackConfig has order start-first, which runs two tasks of a slot at once: use --rollback-order stop-first",
    ],
  ])("a stateful service of the form %j is refused", (wish, message) => {
    expect(statefulProblem(spec(on, wish))).toContain(message);
    expect(statefulProblem(spec({}, wish))).toBeUndefined();
  });

  test("a service whose slots have names that are too long is refused", () => {
    const long = aServiceSpec("x".repeat(61), { replicas: 10, labels: on });
    expect(statefulProblem(long)).toContain("has 64 characters, 63 are possible");
    expect(statefulProblem({ ...long, Mode: { Replicated: { Replicas: 9 } } })).toBeUndefined();
  });

  test("good labels and those of others are no problem", () => {
    const all = {
      ...on,
      "shoal.stateful.replace-after": "never",
      "shoal.stateful.order": "ordered",
    };
    expect(statefulProblem(spec(all))).toBeUndefined();
    expect(statefulProblem(spec({ "shoal.statefulness": "1", other: "x" }, {}))).toBeUndefined();
  });
});

describe("slotNameProblem()", () => {
  const other = (name: string, labels = {}) => aServiceSpec(name, { replicas: 1, labels });
  test("refuses a stateful service whose slot has another service's name, and the reverse", () => {
    const problem = slotNameProblem(spec(on), [other("web"), other("DB-2")]);
    expect(problem).toContain("a slot would have the name of service DB-2");
    const reverse = slotNameProblem(other("db-12"), [spec(on)]);
    expect(reverse).toBe(
      "name db-12 is for a slot of the stateful service db: choose another service name",
    );
  });

  test("lets names alone that are no slot's", () => {
    const others = ["db-0", "db-02", "db-a", "db-2-x", "db2"].map((name) => other(name));
    expect(slotNameProblem(spec(on), others)).toBeUndefined();
    expect(slotNameProblem(other("db-2"), [spec({})])).toBeUndefined();
  });
});

describe("slotNameOf()", () => {
  test("names the tasks of stateful services only", () => {
    const task = aTask(aService("db", { replicas: 1 }), { slot: 2 });
    expect(slotNameOf(task)).toBeUndefined();
    expect(slotNameOf({ ...task, serviceLabels: on })).toBe("db-2");
    expect(slotNameOf({ ...task, serviceLabels: on, slot: 0 })).toBeUndefined();
  });
});

describe("rollbackProblem()", () => {
  const service = { ...aService("db", { replicas: 2, labels: on }), slots: { 1: {}, 2: {} } };
  test("is the homes that a spec without the label would forget", () => {
    expect(rollbackProblem(service, spec({}))).toBe(
      "service db was not stateful before: a rollback would forget the homes of its slots (1, 2); update what shall be as it was by its own flags, or take the label away if that is meant (docker service update --label-rm shoal.stateful db)",
    );
    expect(rollbackProblem(service, spec(on))).toBeUndefined();
    expect(rollbackProblem({ ...service, slots: {} }, spec({}))).toBeUndefined();
    expect(rollbackProblem({ ...service, spec: spec({}) }, spec({}))).toBeUndefined();
  });
});

test("forgetSlot() leaves the other slots", () => {
  const service = { ...aService("db", { replicas: 1 }), slots: { 1: { nodeId: "n1" }, 2: {} } };
  expect(forgetSlot(service, 2)).toEqual({ 1: { nodeId: "n1" } });
  expect(forgetSlot(aService("db"), 2)).toEqual({});
});

describe("moveSlot()", () => {
  test("changes the home and keeps addresses and other slots", () => {
    const service = {
      ...aService("db", { replicas: 2 }),
      slots: { 1: { nodeId: "n1", addresses: { net: "10.0.1.4" } }, 2: { nodeId: "n2" } },
    };
    expect(moveSlot(service, 1, "n3")).toEqual({
      1: { nodeId: "n3", addresses: { net: "10.0.1.4" } },
      2: { nodeId: "n2" },
    });
    expect(moveSlot(service, 2, undefined)).toEqual({ 1: service.slots[1], 2: {} });
    expect(moveSlot(aService("db", { replicas: 2 }), 1, "n1")).toEqual({ 1: { nodeId: "n1" } });
  });
});
