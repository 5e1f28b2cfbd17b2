/** `depends_on`, which is about several services. */
import { expect, test } from "bun:test";
import { compose, problemsOf } from "./compose-of.ts";

const OTHERS = `
  db: {image: x}
  migrate: {image: x, deploy: {mode: replicated-job}}
  cache: {image: x}
`;
const fileOf = (lines: string) =>
  `services:${OTHERS}  web:\n    image: x\n${lines.replaceAll(/^/gm, "    ")}\n`;
const labelOf = (lines: string) =>
  compose(fileOf(lines)).model.services.find(({ Name }) => Name === "s_web")?.Labels?.[
    "shoal.depends-on"
  ];

test.each([
  ["depends_on: [db, cache]", "s_db:started,s_cache:started"],
  [
    "depends_on: {db: {condition: service_healthy}, migrate: {condition: service_completed_successfully}, cache: {condition: service_started, restart: false}}",
    "s_db:healthy,s_migrate:completed,s_cache:started",
  ],
  ["depends_on: {nobody: {required: false}, db: {required: true}}", "s_db:started"],
  ["depends_on: {nobody: {required: false}}", undefined],
  ["depends_on: []", undefined],
  ["tty: true", undefined],
])("%s is the label %s", (lines, label) => {
  expect(labelOf(lines)).toBe(label);
});

test.each([
  [
    "depends_on: [dbb]",
    "services.web.depends_on.dbb: there is no service dbb in the files: did you mean db?",
  ],
  ["depends_on: [web]", "services.web.depends_on: s_web waits for s_web, so that none of them"],
  ["depends_on: [db, db]", 'services.web.depends_on[1] is "db": it is listed twice: remove one'],
  ["depends_on: [{db: x}]", "services.web.depends_on[0]: it must be the name of a service"],
  ["depends_on: db", 'services.web.depends_on is "db": it must be a map'],
  [
    "depends_on: {db: {condition: service_ready}}",
    'services.web.depends_on.db.condition is "service_ready": it must be service_started or service_healthy or service_completed_successfully',
  ],
  ["depends_on: {db: {when: now}}", "services.web.depends_on.db.when: there is no such key"],
  [
    "depends_on: {db: {condition: service_completed_successfully}}",
    "services.web.depends_on: s_db is no job, and never completes: make it one (mode replicated-job)",
  ],
  [
    "depends_on: {migrate: {condition: service_healthy}}",
    "services.web.depends_on: s_migrate is a job, which ends: wait for it to be completed",
  ],
])("%s is refused", (lines, problem) => {
  expect(problemsOf(fileOf(lines)).join("\n")).toContain(problem);
});

test("services that wait for each other are refused, each with its place", () => {
  const text = "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}\n";
  expect(problemsOf(text)).toEqual([
    "a.yml:2:29: services.a.depends_on: s_a waits for s_b waits for s_a, so that none of them would ever start: take one of these out",
    "a.yml:3:29: services.b.depends_on: s_b waits for s_a waits for s_b, so that none of them would ever start: take one of these out",
  ]);
});

test("restart is a warning", () => {
  expect(compose(fileOf("depends_on: {db: {restart: true}}")).warnings).toEqual([
    "a.yml:7:23: services.web.depends_on.db.restart: ignored: a service is not restarted because another one was updated",
  ]);
});

test("a list in one file and a map in another are one", () => {
  const first = fileOf("depends_on: [db, cache]");
  const second = "services:\n  web: {depends_on: {db: {condition: service_healthy}}}\n";
  const web = compose([first, second]).model.services.find(({ Name }) => Name === "s_web");
  expect(web?.Labels?.["shoal.depends-on"]).toBe("s_db:healthy,s_cache:started");
});
