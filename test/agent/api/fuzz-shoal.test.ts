/**
 * /shoal/v1 under hostile input, in process, as fuzz.test.ts is for Docker's API: every call that takes a body or
 * a parameter. What is refused is refused with 4xx and a message; nothing is stored then, and no call fails by us.
 */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { parse } from "yaml";
import { OPENAPI } from "../../../agent/api/openapi.ts";
import { type Call, createFuzzInput, expectRefusal, send, storedBy } from "./fuzz-input.ts";
import { type ApiLab, at, createLab } from "./lab.ts";

const CASES = Number(process.env["SHOAL_FUZZ_CASES"] ?? 1_200);
const MIB = 1024 * 1024;

let lab: ApiLab;
const bugs: string[] = [];
const input = createFuzzInput(Number(process.env["SHOAL_FUZZ_SEED"] ?? 2026));
const { pick, badText, oddName } = input;
const stored = () => storedBy(lab);

const COMPOSE = `
services:
  web:
    image: busybox:1
    env_file: ./env
    ports: ["8080:80"]
    secrets: [key]
    configs: [{ source: motd, target: /motd }]
    networks: [back]
    deploy: { replicas: 2, labels: { a: b } }
networks:
  back: { labels: { a: b } }
secrets:
  key: { file: ./key }
configs:
  motd: { content: hello }
`;
const GOOD_REQUEST = {
  Files: [{ Name: "compose.yaml", Text: COMPOSE }],
  Env: { A: "1" },
  Contents: { "./key": "aGVsbG8=", "./env": "QT0x" },
  Prune: true,
  ResolveImage: "never",
  Token: "",
  RegistryAuth: { "docker.io": "e30=" },
};
const GOOD_MOVE = { Node: "alpha", Force: false };

beforeAll(async () => {
  lab = createLab();
  lab.ports.reportBug = (where, error) => void bugs.push(`${where}: ${String(error)}`);
  await lab.createService({ Name: "db", Labels: { "shoal.stateful": "true" } });
  await lab.createService({ Name: "plain" });
  for (const A of ["1", "2"]) {
    const answer = await lab.call("PUT", "/shoal/v1/stacks/fuzz", {
      ...GOOD_REQUEST,
      Files: [{ Name: "compose.yaml", Text: `${COMPOSE}x-a: ${A}\n` }],
    });
    if (answer.status !== 200) throw new Error(answer.text);
  }
  lab.ports.proposed.length = 0;
});
afterEach(() => {
  lab.ports.proposed.length = 0;
  bugs.length = 0;
});
afterAll(async () => lab.engine.stop());

// ---- compose files ----------------------------------------------------------------------------

/** Services around `text`, where a file is a good one but for it. */
const inService = (text: string) => `services:\n  a:\n    image: busybox:1\n${text}`;
/** Each alias is ten of the one before. */
const bomb = (levels: number) =>
  [
    "x0: &x0 lol",
    ...Array.from(
      { length: levels },
      (_, i) => `x${i + 1}: &x${i + 1} [${Array.from({ length: 10 }, () => `*x${i}`).join(", ")}]`,
    ),
  ].join("\n");
const bytes = (...parts: (string | number[])[]) => Buffer.concat(parts.map((p) => Buffer.from(p)));

/** Each is refused, whatever takes it. */
const BAD_YAML: Record<string, string | Uint8Array> = {
  "a bomb of anchors": `${bomb(9)}\nservices: *x9`,
  "a bomb in a service": `${bomb(9)}\n${inService("    environment: *x9")}`,
  "a bomb of merged maps": `${Array.from({ length: 30 }, (_, i) =>
    i === 0 ? "x-0: &m0 { a: 1 }" : `x-${i}: &m${i} { <<: [*m${i - 1}, *m${i - 1}] }`,
  ).join("\n")}\n${inService("    environment: *m29")}`,
  "an anchor in itself": "services: &a\n  a: *a",
  "a merge of itself": "services: &a\n  <<: *a\n  a: { image: x }",
  "two anchors in each other": "x-a: &a [*b]\nx-b: &b [*a]\nservices: *a",
  "flow lists, nested": "[".repeat(100_000),
  "flow maps, nested": `services: ${"{a: ".repeat(20_000)}`,
  "blocks, nested": `services:\n${Array.from({ length: 800 }, (_, i) => `${" ".repeat(i + 1)}a:`).join("\n")}`,
  "lists, nested": `services: ${"- ".repeat(5_000)}`,
  "one key of 1 MiB": `services:\n  ${"k".repeat(MIB - 100)}: { image: x }`,
  "a long key of a service": inService(`    ${"k".repeat(500_000)}: 1`),
  "a file above the limit": inService(`    hostname: ${"h".repeat(MIB)}`),
  "1 MiB of colons": ":".repeat(MIB),
  "1 MiB of exclamation marks": "!".repeat(MIB),
  "lists in one line": "- ".repeat(50_000),
  "1 MiB of percent signs": "%".repeat(MIB),
  "many documents": `${inService("")}\n---\n`.repeat(1_000),
  "a NUL": inService("    hostname: a\0b"),
  "a NUL, escaped": inService('    hostname: "a\\0b"'),
  "a NUL in a variable's value": inService('    environment: { A: "a\\0b" }'),
  "a NUL in a variable's name": inService('    environment: { "A\\0": b }'),
  "a NUL in a command": inService('    command: ["a\\0b"]'),
  "a NUL in a label": inService('    labels: { a: "\\0" }'),
  "a NUL in a target": inService('    tmpfs: "/a\\0b"'),
  "a NUL in a source": inService('    volumes: ["/a\\0b:/c"]'),
  "a NUL in a service's name": 'services: { "a\\0": { image: x } }',
  "a NUL in a network's name": `${inService("    networks: [n]")}\nnetworks: { n: { name: "a\\0" } }`,
  "bytes that are no UTF-8": bytes(inService("    hostname: a"), [0xff, 0xfe]),
  "half a character": bytes(inService("    labels: { a: "), [0xf0, 0x9f], " }"),
  "UTF-16": Buffer.from(inService(""), "utf16le"),
  "a number as a key": "services: { 7: [] }",
  "a map as a key": "services: { ? { a: b } : { image: x } }",
  "a list as a key": "? [services]\n: a",
  "maps as keys, nested": `services: { a: { image: x } }\n${"? ".repeat(60)}a`,
  "lists as keys, nested": `${"[".repeat(50)}a${"]: 1".repeat(50)}`,
  "null as a key": "~: 1\nservices: {}",
  "__proto__ at the top": "__proto__: { services: { a: { image: x } } }",
  "__proto__ in a service": inService("    __proto__: { privileged: true }"),
  "__proto__ as a service": "services: { __proto__: { image: x } }",
  "constructor as a key": inService("    constructor: { prototype: { polluted: 1 } }"),
  "__proto__ as a network": inService("    networks: [__proto__]"),
  "constructor as a secret": inService("    secrets: [constructor]"),
  "toString as a config": inService("    configs: [toString]"),
  "hasOwnProperty as a volume": inService("    volumes: ['hasOwnProperty:/a']"),
  "a number as an image": "services: { a: { image: { b: 7 } } }",
  "a text as a number": inService('    deploy: { replicas: "many" }'),
  "a number that is none": inService("    deploy: { replicas: .nan }"),
  "an infinite number": inService("    deploy: { replicas: .inf }"),
  "a negative number": inService("    deploy: { replicas: -1 }"),
  "a huge number": inService("    deploy: { replicas: 1e300 }"),
  "a number with a long tail": inService(`    deploy: { replicas: ${"9".repeat(5_000)} }`),
  "a date": inService("    deploy: { replicas: 2001-12-14t21:59:43.10-05:00 }"),
  "a tag of a language": inService("    command: !!js/function 'function() {}'"),
  binary: inService("    ports: !!binary aGVsbG8="),
  "a port too large": inService('    ports: ["70000:80"]'),
  "a range of ports too large": inService('    ports: ["1-65535:1-65535"]'),
  "a variable in itself": inService(`    hostname: ${"${A:-".repeat(5_000)}`),
  "a key twice": inService("    hostname: a\n    hostname: b"),
  "a duration too long": inService("    stop_grace_period: 99999999999999999999h"),
  "a size too large": inService("    shm_size: 99999999999999999999t"),
  "services that are a list": "services: [{ image: x }]",
  "services that are null": "services:",
  "a service that is null": "services: { a: }",
  "too many services": `services: { ${Array.from({ length: 501 }, (_, i) => `s${i}: { image: x }`).join(", ")} }`,
};

const TYPES = ["application/yaml", "text/plain", "multipart/form-data", "application/octet-stream"];

test.each(Object.keys(BAD_YAML))(
  "a file with %s is refused, by itself and in JSON",
  async (name) => {
    const text = BAD_YAML[name] ?? expect.unreachable();
    const before = stored();
    const calls: Call[] = [
      {
        method: "PUT",
        path: "/shoal/v1/stacks/new?resolve-image=never",
        body: text,
        type: pick(TYPES),
      },
    ];
    // JSON has no way to say bytes that are no text.
    if (typeof text === "string") {
      const body = JSON.stringify({ ...GOOD_REQUEST, Files: [{ Name: "f", Text: text }] });
      calls.push({ method: "POST", path: "/shoal/v1/stacks/new/plan", body });
    }
    for (const call of calls) {
      expectRefusal(await send(lab, call), call);
    }
    expect([stored() === before, lab.ports.proposed.length, bugs]).toEqual([true, 0, []]);
  },
);

// ---- calls ------------------------------------------------------------------------------------

const RESTORE = "/shoal/v1/restore";
const STACK = "/shoal/v1/stacks/fuzz";
const BAD_NAMES = [
  "%00",
  "%ff",
  "__proto__",
  "x".repeat(5_000),
  "%F0%9F%90%8B",
  "a%20b",
  "%zz",
  "*",
  "-a",
];
const BAD_NUMBERS = [
  "0",
  "-1",
  "1.5",
  "x",
  "9".repeat(30),
  "1e0",
  "%00",
  "__proto__",
  "0x1",
  " 1",
  "NaN",
];
const BAD_FLAGS = ["2", "yes", "%00", "TRUEE", "__proto__"];
const MULTIPART = [
  '--x\r\nContent-Disposition: form-data; name="Files"; filename="compose.yaml"\r\n\r\nservices: {}\r\n--x--\r\n',
  `--x\r\nContent-Disposition: form-data; name="${"n".repeat(100_000)}"\r\n\r\n`,
  "--x--",
];
const asJson = (value: unknown) => JSON.stringify(value);
/** Requests of which one part is wrong by what it says, not by its type. */
const BAD_REQUESTS: Record<string, unknown>[] = [
  { Files: [] },
  { Files: Array.from({ length: 51 }, () => GOOD_REQUEST.Files[0]) },
  { Files: [{ Name: "f", Text: "\0" }] },
  {
    Files: [
      { Name: "f", Text: COMPOSE, __proto__: null },
      { Name: "g", Text: "services: [" },
    ],
  },
  { Contents: {} },
  { Contents: { "./key": "%%%", "./env": "QT0x" } },
  { Contents: { "./key": "aGVsbG8=", "./env": btoa("A\0=1") } },
  { Contents: { "./key": "aGVsbG8=", "./env": btoa("A=1\0") } },
  { Contents: { "./key": "aGVsbG8=", "./env": btoa("a b=1") } },
  { Contents: { "./key": "A".repeat(2 * MIB), "./env": "QT0x" } },
  { Contents: { "./key": "", "./env": "QT0x" } },
  { Contents: { "./key": "aGVsbG8=", "./env": btoa("\xff=1") } },
  { Contents: { "./key": "aGVsbG8=", "./env": btoa(`A=${"x".repeat(3 * MIB)}`) } },
  { Env: { UNUSED: "\0" } },
  { ResolveImage: "sometimes" },
  { Token: "0".repeat(100_000) },
  { Files: [{ Name: "f", Text: "services: { a: { image: '${A}' } }" }], Env: { A: "\0" } },
  {
    Files: [{ Name: "f", Text: "services: { a: { image: '${A}' } }" }],
    Env: { A: "x".repeat(9 * MIB) },
  },
  { Files: [{ Name: "f", Text: "services: { a: { image: '${__proto__}' } }" }], Env: {} },
];

const hostile: (() => Call)[] = [
  () => ({
    method: pick(["PUT", "POST"]),
    path: pick([STACK, `${STACK}/plan`, "/shoal/v1/services/db/slots/1"]),
    body: badText(),
  }),
  () => ({ method: "PUT", path: STACK, body: input.wrongField(GOOD_REQUEST) }),
  () => ({ method: "POST", path: `${STACK}/plan`, body: input.wrongField(GOOD_REQUEST) }),
  () => ({ method: "PUT", path: STACK, body: asJson({ ...GOOD_REQUEST, ...pick(BAD_REQUESTS) }) }),
  () => ({
    method: "PUT",
    path: STACK,
    body: pick(MULTIPART),
    type: "multipart/form-data; boundary=x",
  }),
  () => ({
    method: "PUT",
    path: STACK,
    body: COMPOSE,
    type: pick(["", "application/json", "x/json"]),
  }),
  () => ({
    method: "PUT",
    path: STACK,
    body: asJson(GOOD_REQUEST),
    type: "application/x-www-form-urlencoded",
  }),
  () => ({
    method: "PUT",
    path: `/shoal/v1/stacks/${pick(BAD_NAMES)}`,
    body: asJson(GOOD_REQUEST),
  }),
  () => ({
    method: "PUT",
    path: `${STACK}?${pick([`prune=${pick(BAD_FLAGS)}`, "resolve-image=x", `token=${oddName()}`])}`,
    body: "services: { a: { image: 'busybox:1' } }",
    type: "application/yaml",
  }),
  () => ({ method: pick(["GET", "DELETE"]), path: `/shoal/v1/stacks/${oddName()}` }),
  () => ({ method: "POST", path: `/shoal/v1/stacks/${oddName()}/rollback` }),
  () => ({
    method: "POST",
    path: `${STACK}/rollback?revision=${encodeURIComponent(pick(BAD_NUMBERS))}`,
  }),
  () => ({
    method: "POST",
    path: `${STACK}/rollback`,
    body: input.wrongField({ RegistryAuth: GOOD_REQUEST.RegistryAuth }),
  }),
  () => ({ method: "POST", path: `${STACK}/rollback`, body: asJson(GOOD_REQUEST) }),
  () => ({ method: "POST", path: `${STACK}/rollback?plan=${pick(BAD_FLAGS)}` }),
  () => ({ method: "GET", path: `${STACK}/revisions/${pick(BAD_NUMBERS)}` }),
  () => ({ method: pick(["POST", "PATCH", "LOCK"]), path: STACK, body: asJson(GOOD_REQUEST) }),
  () => ({ method: "GET", path: `/shoal/v1/services/${oddName()}/slots` }),
  () => ({
    method: "POST",
    path: "/shoal/v1/services/db/slots/1",
    body: input.wrongField(GOOD_MOVE),
  }),
  () => ({
    method: "POST",
    path: `/shoal/v1/services/${pick(["plain", oddName()])}/slots/1`,
    body: asJson(GOOD_MOVE),
  }),
  () => ({
    method: "POST",
    path: `/shoal/v1/services/db/slots/${encodeURIComponent(pick(BAD_NUMBERS))}`,
    body: asJson(GOOD_MOVE),
  }),
  () => ({
    method: "POST",
    path: "/shoal/v1/services/db/slots/1",
    body: asJson({ Node: pick(["nosuch", "\0", "__proto__", "x".repeat(100_000)]) }),
  }),
  () => ({
    method: "DELETE",
    path: `/shoal/v1/services/${pick(["db", "plain", oddName()])}/slots/${pick(BAD_NUMBERS)}`,
  }),
  () => ({ method: "GET", path: `/shoal/v1/why/${oddName()}` }),
  () => ({ method: "GET", path: `/shoal/v1/${oddName()}/${oddName()}` }),
];

test(`${CASES} hostile calls are refused with a message, and nothing is stored`, async () => {
  const before = stored();
  for (let count = 0; count < CASES; count += 1) {
    const call = pick(hostile)();
    expectRefusal(await send(lab, call), call);
    if (lab.ports.proposed.length > 0) throw new Error(`Proposed: ${asJson(call).slice(0, 300)}`);
  }
  expect(stored()).toBe(before);
  expect(bugs).toEqual([]);
}, 60_000);

test("a request with mutations is refused with a message, or can be read, rolled back and removed", async () => {
  let refused = 0;
  const path = "/shoal/v1/stacks/mutated";
  const compose = COMPOSE.replace("8080:", "8081:");
  const good = { ...GOOD_REQUEST, Files: [{ Name: "compose.yaml", Text: compose }] };
  for (let count = 0; count < CASES / 2; count += 1) {
    const Text = asJson(input.mutated(parse(compose))) ?? "";
    const isFile = count % 2 === 0;
    const request = isFile ? { ...good, Files: [{ Name: "f", Text }] } : input.mutated(good);
    const call = { method: "PUT", path, body: asJson(request) ?? "" };
    const before = stored();
    const answer = await send(lab, call);
    if (answer.status !== 200) {
      expectRefusal(answer, call);
      expect(stored()).toBe(before);
      refused += 1;
      continue;
    }
    const uses = ["GET ", "GET /revisions/1", "POST /plan", "POST /rollback?revision=1", "DELETE "];
    for (const [method = "", more = ""] of uses.map((use) => use.split(" "))) {
      const body = more === "/plan" ? { body: call.body } : {};
      const used = await send(lab, { method, path: `${path}${more}`, ...body });
      if (used.status >= 300) throw new Error(`${method} ${more}: ${used.text} after ${call.body}`);
    }
  }
  expect(refused).toBeGreaterThan(CASES / 8);
  // Some are good all the same: else what is behind a refusal is never reached.
  expect(refused).toBeLessThan((CASES / 2) * 0.97);
  expect([bugs, at({}, "polluted")]).toEqual([[], undefined]);
}, 60_000);

test("a body above the limit is refused before it is read", async () => {
  const body = new Uint8Array(17 * MIB).fill(0x20);
  for (const type of ["application/yaml", "application/json"]) {
    const call = { method: "PUT", path: STACK, body, type };
    expectRefusal(await send(lab, call), { ...call, body: "" });
  }
});

test("a restore with words it does not know is refused", async () => {
  const { local } = lab.ports;
  const call = { method: "POST", path: RESTORE, body: "x" };
  expect((await send(lab, call)).status).toBe(503);
  lab.ports.local = { ...local, state: "inactive", isManager: false };
  const odd = { ...call, path: `${RESTORE}?availability=${"x".repeat(5_000)}` };
  expectRefusal(await send(lab, odd), odd);
  lab.ports.local = local;
});

test("every path of the document that takes a body or a parameter is called here", () => {
  const calls = hostile.flatMap((make) => Array.from({ length: 50 }, () => make().path));
  const called = [...new Set([...calls, RESTORE].map((path) => path.replace(/\?.*/, "")))];
  // What it takes is the name of a node, which that node's doctor looks up.
  const elsewhere = ["/shoal/v1/net/doctor"];
  const open = Object.entries(OPENAPI.paths).filter(([path, item]) => {
    const takes = /"(?:requestBody|parameters)":/.test(JSON.stringify(item));
    const shape = new RegExp(`^${path.replaceAll(/\{\w+\}/g, "[^/]+")}$`);
    return takes && !elsewhere.includes(path) && !called.some((one) => shape.test(one));
  });
  expect(open.map(([path]) => path)).toEqual([]);
});
