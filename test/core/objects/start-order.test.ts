import { expect, test } from "bun:test";
import {
  dependenciesOf,
  dependencyProblem,
  dependsOnText,
} from "../../../core/objects/start-order.ts";
import { aServiceSpec, type ServiceWish } from "../../fixtures/cluster.ts";

const LABEL = "shoal.depends-on";
const waiting = (name: string, text: string, wish: ServiceWish = {}) =>
  aServiceSpec(name, { replicas: 1, ...wish, labels: { [LABEL]: text } });
const problemOf = (text: string, others = [aServiceSpec("db", { replicas: 1 })]) =>
  dependencyProblem(waiting("web", text), others);

test("the label names services and conditions", () => {
  const found = dependenciesOf({ [LABEL]: "db:healthy, migrate:completed,cache" });
  expect(found).toEqual([
    { serviceName: "db", condition: "healthy" },
    { serviceName: "migrate", condition: "completed" },
    { serviceName: "cache", condition: "started" },
  ]);
  expect(dependenciesOf({ [LABEL]: dependsOnText(found) })).toEqual(found);
  expect(dependenciesOf({})).toEqual([]);
  expect(dependenciesOf({ [LABEL]: "db:soon" })).toEqual([]);
});

test.each([
  ["", '"" is no service: write <service> or <service>:<condition>, with commas between them'],
  ["db,,a", '"" is no service'],
  ["db:healthy:now", '"db:healthy:now" is no service'],
  ["db:soon", '"soon" is no condition: use started, healthy, completed'],
  ["db,db:healthy", "db is there twice: keep one of them"],
  [
    Array.from({ length: 51 }, (_, n) => `s${n}`).join(","),
    "it names 51 services, and 50 is the most",
  ],
  ["db:completed", "db is no job, and never completes: make it one (mode replicated-job)"],
  ["web", "web waits for web, so that none of them would ever start"],
])("%j is refused", (text, problem) => {
  expect(problemOf(text)).toContain(problem);
});

test("a job is waited for to its end", () => {
  const job = aServiceSpec("migrate", { job: { total: 1, max: 1 } });
  expect(problemOf("migrate:completed", [job])).toBeUndefined();
  expect(problemOf("migrate", [job])).toBeUndefined();
  expect(problemOf("migrate:healthy", [job])).toBe(
    "migrate is a job, which ends: wait for it to be completed",
  );
});

test("a service that is not there yet may be named", () => {
  expect(problemOf("later:healthy")).toBeUndefined();
});

test("services that would wait for each other are refused, with the way round", () => {
  const others = [waiting("a", "b,x"), waiting("b", "x,c"), waiting("c", "web"), waiting("x", "y")];
  expect(problemOf("a", others)).toBe(
    "web waits for a waits for b waits for c waits for web, so that none of them would ever start: take one of these out",
  );
  expect(problemOf("x", others)).toBeUndefined();
  // A circle of others is not this one's fault.
  expect(problemOf("p", [waiting("p", "q"), waiting("q", "p")])).toBeUndefined();
});
