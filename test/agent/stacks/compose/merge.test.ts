import { expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { neededContents } from "../../../../agent/stacks/compose/compose.ts";
import { base64, compose } from "./compose-of.ts";

const FIXTURES = join(import.meta.dir, "../../../fixtures/compose");

function merged(base: string, over: string, top: [string, string] = ["", ""]) {
  const file = (lines: string, more: string) =>
    `services:\n  web:\n    ${lines.replaceAll("\n", "\n    ")}\n${more}\n`;
  const { model } = compose([file(`image: nginx\n${base}`, top[0]), file(over, top[1])]);
  const spec = model.services[0];
  if (!spec) throw new Error("There is no service");
  return { ...spec.TaskTemplate.ContainerSpec, ...spec.TaskTemplate, ...spec, model };
}

test.each<[string, string, string, Record<string, unknown>]>([
  ["a text", "hostname: a", "hostname: b", { Hostname: "b" }],
  ["a command", "command: a b", "command: [c]", { Args: ["c"] }],
  ["variables", "environment: [A=1, B=1]", "environment: {B: 2}", { Env: ["A=1", "B=2"] }],
  [
    "lists",
    "cap_add: [kill]\ndns: 1.1.1.1",
    "cap_add: [chown, kill]\ndns: [2.2.2.2]",
    {
      CapabilityAdd: ["CAP_CHOWN", "CAP_KILL"],
      DNSConfig: { Nameservers: ["1.1.1.1", "2.2.2.2"] },
    },
  ],
  [
    "ports by what is published",
    "ports: ['80:80', '53:53/udp', '90']",
    "ports: ['80:81', {target: 53, published: 53, protocol: tcp}]",
    {
      EndpointSpec: {
        Ports: [
          { Protocol: "tcp", TargetPort: 90, PublishMode: "ingress" },
          { Protocol: "udp", TargetPort: 53, PublishedPort: 53, PublishMode: "ingress" },
          { Protocol: "tcp", TargetPort: 53, PublishedPort: 53 },
          { Protocol: "tcp", TargetPort: 81, PublishedPort: 80, PublishMode: "ingress" },
        ],
      },
    },
  ],
  [
    "mounts by target, then sorted",
    "volumes: ['/z:/z', '/a:/a']",
    "volumes: ['/b:/z']",
    {
      Mounts: [
        { Type: "bind", Source: "/a", Target: "/a" },
        { Type: "bind", Source: "/b", Target: "/z" },
      ],
    },
  ],
  [
    "a healthcheck's test",
    "healthcheck: {test: a, interval: 1s}",
    "healthcheck: {test: [CMD, b]}",
    { Healthcheck: { Test: ["CMD", "b"], Interval: 1e9 } },
  ],
  [
    "options of the same log driver",
    "logging: {driver: a, options: {x: 1}}",
    "logging: {options: {y: 2}}",
    { LogDriver: { Name: "a", Options: { x: "1", y: "2" } } },
  ],
  [
    "another log driver",
    "logging: {driver: a, options: {x: 1}}",
    "logging: {driver: b}",
    { LogDriver: { Name: "b" } },
  ],
  [
    "limits",
    "ulimits: {a: 1, b: {soft: 1, hard: 2}}",
    "ulimits: {b: 3}",
    {
      Ulimits: [
        { Name: "a", Hard: 1, Soft: 1 },
        { Name: "b", Hard: 3, Soft: 3 },
      ],
    },
  ],
  [
    "deploy",
    "deploy: {replicas: 2, labels: [a=1], placement: {constraints: [a==b]}}",
    "deploy: {labels: {b: 2}, placement: {constraints: [c==d]}}",
    { Mode: { Replicated: { Replicas: 2 } }, Placement: { Constraints: ["a==b", "c==d"] } },
  ],
  [
    "nothing",
    "hostname: a\ndeploy: {replicas: 2}",
    "deploy:",
    { Hostname: "a", Mode: { Replicated: { Replicas: 2 } } },
  ],
  ["!override", "cap_add: [kill]", "cap_add: !override [chown]", { CapabilityAdd: ["CAP_CHOWN"] }],
])("a second file merges %s", (_what, base, over, expected) => {
  expect(merged(base, over)).toMatchObject(expected);
});

test("!reset removes what the first file has", () => {
  const found = merged("hostname: a\nports: ['80:80']", "hostname: !reset\nports: !reset []");
  expect(found.Hostname).toBeUndefined();
  expect(found.EndpointSpec).toEqual({});
});

test("networks of both files are attached, and their definitions are merged", () => {
  const found = merged("networks: [a]", "networks: {a: {aliases: [x]}, b: }", [
    "networks: {a: {driver_opts: {x: 1}}, b: {internal: true}}",
    "networks: {a: {labels: {y: 2}}, b: {external: true, name: c}}",
  ]);
  expect(found.Networks).toEqual([
    { Target: "c", Aliases: ["web"] },
    { Target: "s_a", Aliases: ["x", "web"] },
  ]);
  expect(found.model.networks).toMatchObject([
    { Name: "s_a", Options: { x: "1" }, Labels: { y: "2" } },
  ]);
  expect(found.model.externals.networks).toEqual(["c"]);
});

test.each([["shop.yml"], ["shop.override.yml"], ["modes.yml"], ["job.yml"]])(
  "%s merged with itself is itself",
  (name) => {
    const names = name === "shop.override.yml" ? ["shop.yml", name] : [name];
    const texts = names.map((one) => readFileSync(join(FIXTURES, one), "utf8"));
    const env = { PWD: "/pwd" };
    const files = texts.map((one, i) => ({ name: `${i}`, text: one }));
    const contents = Object.fromEntries(
      neededContents({ files, env }).map((path) => [
        path,
        base64(path === "./one.env" ? "A=1" : "x"),
      ]),
    );
    const once = compose(texts, { env, contents }).model;
    const twice = compose([...texts, texts.at(-1) ?? ""], { env, contents }).model;
    expect(mountsSorted(twice)).toEqual(mountsSorted(once));
  },
);

/** Several files have their mounts sorted, as in stock; one has them as they are written. */
function mountsSorted(model: ReturnType<typeof compose>["model"]) {
  return model.services.map((spec) => ({
    ...spec,
    mounts: spec.TaskTemplate.ContainerSpec.Mounts?.sort((a, b) =>
      String(a["Target"]) < String(b["Target"]) ? -1 : 1,
    ),
  }));
}

const word = fc.constantFrom("a", "b", "c", "d");
const service = fc.record(
  {
    image: fc.constant("nginx"),
    cap_add: fc.array(word),
    environment: fc.dictionary(word, word),
    labels: fc.array(word),
    dns: fc.oneof(word, fc.array(word)),
    ports: fc.uniqueArray(fc.integer({ min: 1, max: 9 }).map((port) => `${port}:${port}`)),
    deploy: fc.record(
      { labels: fc.dictionary(word, word), replicas: fc.nat(3) },
      { requiredKeys: [] },
    ),
    command: fc.oneof(word, fc.array(word)),
  },
  { requiredKeys: ["image"] },
);

test("any service merged with itself is itself", () => {
  fc.assert(
    fc.property(service, (web) => {
      const text = JSON.stringify({ services: { web } });
      const unique = (list: string[] | undefined) => [...new Set(list)];
      const of = (texts: string[]) => {
        const spec = compose(texts).model.services[0];
        const container = spec?.TaskTemplate.ContainerSpec;
        return {
          ...spec,
          dns: unique(container?.DNSConfig?.Nameservers),
          TaskTemplate: {
            ...spec?.TaskTemplate,
            ContainerSpec: { ...container, DNSConfig: undefined },
          },
        };
      };
      expect(of([text, text])).toEqual(of([text]));
    }),
    { numRuns: 100 },
  );
});
