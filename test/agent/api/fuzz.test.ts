/**
 * The API under hostile input, in process, 1,000 seeded cases and more: always an answer with a
 * message and a status of 4xx (or 501: refused with its reason), never a 500 of ours, nothing
 * stored, nothing of the process changed. A mutation that happens to be a good request may succeed;
 * then what it stored can be read, listed and removed.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Random, seededRandom } from "../../../core/random.ts";
import { type ApiLab, asObject, createLab, field, serviceSpec } from "./lab.ts";

/** SHOAL_FUZZ_SEED and SHOAL_FUZZ_CASES: another run, or a longer one. */
const SEED = Number(process.env["SHOAL_FUZZ_SEED"] ?? 2026);
const CASES = Number(process.env["SHOAL_FUZZ_CASES"] ?? 1_200);
const HOSTILE_CASES = CASES / 2;
const MUTATED_CASES = CASES / 2;

let lab: ApiLab;
const bugs: string[] = [];
beforeAll(() => {
  lab = createLab();
  lab.ports.reportBug = (where, error) => void bugs.push(`${where}: ${String(error)}`);
});
afterAll(async () => lab.engine.stop());

const random = seededRandom(SEED);
const pick = <T>(items: readonly T[]): T => {
  const item = items[below(random, items.length)];
  if (item === undefined) throw new Error("Nothing to pick from");
  return item;
};

/** 0 to `limit` - 1. */
function below(source: Random, limit: number): number {
  return Math.floor(source.next() * limit);
}

type Call = { method: string; path: string; body?: string | Uint8Array; type?: string };

/** What the cluster holds, as bytes. */
const stored = () =>
  JSON.stringify([
    lab.ports.rows.services(),
    lab.ports.rows.nodes(),
    lab.ports.rows.networks(),
    lab.ports.rows.secrets(),
    lab.ports.rows.configs(),
    lab.ports.rows.cluster(),
  ]);

async function send(call: Call): Promise<{ status: number; text: string }> {
  const request = new Request(`http://d${call.path}`, {
    method: call.method,
    ...(call.body === undefined ? {} : { body: call.body }),
    headers: { "content-type": call.type ?? "application/json" },
  });
  const answer = await lab.app.fetch(request);
  return { status: answer.status, text: await answer.text() };
}

function expectRefusal(answer: { status: number; text: string }, call: Call): void {
  const shown = `${call.method} ${call.path} ${String(call.body).slice(0, 300)} → ${answer.text.slice(0, 300)}`;
  if (!((answer.status >= 400 && answer.status < 500) || answer.status === 501)) {
    throw new Error(`Status ${answer.status}: ${shown}`);
  }
  const parsed: unknown = JSON.parse(answer.text);
  const message = field(parsed, "message");
  if (message === "") throw new Error(`No message: ${shown}`);
}

// ---- requests that can never be right ---------------------------------------------------------

const GOOD_SECRET = { Name: "fuzz", Labels: { a: "b" }, Data: "aGVsbG8=" };
const GOOD_NETWORK = {
  Name: "fuzz",
  Driver: "overlay",
  Attachable: false,
  Labels: { a: "b" },
  IPAM: { Driver: "default", Config: [{ Subnet: "10.9.0.0/24", Gateway: "10.9.0.1" }] },
  Options: {},
};
const GOOD_NODE = { Labels: { a: "b" }, Role: "worker", Availability: "active" };

/** A spec that uses every part that has a type. */
const FULL_SPEC = serviceSpec({
  Name: "fuzz",
  Labels: { a: "b" },
  container: {
    Image: "busybox:1",
    Labels: { c: "d" },
    Command: ["a"],
    Args: ["b"],
    Hostname: "h",
    Env: ["A=1"],
    Dir: "/",
    User: "u",
    Groups: ["g"],
    Init: true,
    StopSignal: "SIGTERM",
    TTY: true,
    OpenStdin: true,
    ReadOnly: true,
    Mounts: [{ Type: "volume", Source: "v", Target: "/v", ReadOnly: true }],
    StopGracePeriod: 1_000_000_000,
    Healthcheck: { Test: ["CMD", "x"], Interval: 1_000_000_000, Retries: 1 },
    Hosts: ["10.9.9.9 a"],
    DNSConfig: { Nameservers: ["10.9.9.9"], Search: ["s"], Options: ["o"] },
    Sysctls: { x: "y" },
    CapabilityAdd: ["CAP_CHOWN"],
    Ulimits: [{ Name: "nofile", Hard: 2, Soft: 1 }],
  },
  template: {
    Resources: {
      Limits: { NanoCPUs: 1_000_000_000, MemoryBytes: 10_000_000, Pids: 5 },
      Reservations: { NanoCPUs: 1_000_000_000, MemoryBytes: 10_000_000 },
    },
    RestartPolicy: { Condition: "any", Delay: 1, MaxAttempts: 1, Window: 1 },
    Placement: {
      Constraints: ["node.role==worker"],
      Preferences: [{ Spread: { SpreadDescriptor: "node.labels.z" } }],
      MaxReplicas: 2,
      Platforms: [{ Architecture: "x86_64", OS: "linux" }],
    },
    LogDriver: { Name: "json-file", Options: { a: "b" } },
    Networks: [{ Target: "net1", Aliases: ["a"] }],
  },
  UpdateConfig: {
    Parallelism: 1,
    Delay: 1,
    FailureAction: "pause",
    Monitor: 1,
    Order: "stop-first",
  },
  RollbackConfig: { Parallelism: 1, MaxFailureRatio: 0.5 },
  EndpointSpec: { Mode: "vip", Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080 }] },
});

type Path = (string | number)[];

function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [path];
  const below = Object.entries(value).flatMap(([key, child]) => pathsOf(child, [...path, key]));
  return path.length > 0 ? [path, ...below] : below;
}

/** A copy with what is at `path` replaced by what `change` makes of it; undefined removes it. */
function changed(value: unknown, path: Path, change: (old: unknown) => unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return change(value);
  if (Array.isArray(value)) {
    return value.map((item: unknown, index) =>
      String(index) === String(key) ? changed(item, rest, change) : item,
    );
  }
  const object = asObject(value);
  return { ...object, [key]: changed(object[key], rest, change) };
}

/** Of a type that is certainly another one than `old`'s; a text for no text, a number for no number. */
function wrongType(old: unknown): unknown {
  const texts = ["", "x", "\u0000", "__proto__"];
  const others: unknown[] = [
    [[]],
    [{ a: [1] }],
    { a: { b: 1 } },
    { __proto__: null, constructor: 1 },
  ];
  if (Array.isArray(old)) return pick([...texts, 7, true, { 0: "a" }]);
  if (typeof old === "object") return pick([...texts, 7, true, [1]]);
  if (typeof old === "string") return pick([...others, 7, -1, 1e308, true, false]);
  if (typeof old === "number") {
    return pick([...others, ...texts, "7", true, 0.5, 1e300, Number.MAX_VALUE]);
  }
  return pick([...others, ...texts, 7, "true"]);
}

const BAD_TEXTS: (() => string | Uint8Array)[] = [
  () => "",
  () => " ",
  () => "{",
  () => "}",
  () => '{"Name":"x"',
  () => '{"Name":"x",}',
  () => "{'Name':'x'}",
  () => "nope",
  () => "undefined",
  () => "NaN",
  () => "Infinity",
  () => "[]",
  () => "[{}]",
  () => "5",
  () => '"text"',
  () => "true",
  () => "\u0000",
  () => new Uint8Array([0xff, 0xfe, 0x00, 0x7b]),
  () => new Uint8Array([0x7b, 0x22, 0xc3, 0x28, 0x22, 0x3a]),
  () => new Uint8Array(Array.from({ length: 200 }, () => below(random, 256))),
  () => "[".repeat(50_000),
  () => `${"[".repeat(50_000)}${"]".repeat(50_000)}`,
  () => `${'{"a":'.repeat(30_000)}1${"}".repeat(30_000)}`,
  () => `{"Labels":${'{"a":'.repeat(500)}1${"}".repeat(500)}}`,
  () => '{"__proto__":[]',
  () => `{"Name":${"9".repeat(5_000)}}`,
];

const BODY_PATHS = [
  "/services/create",
  "/secrets/create",
  "/configs/create",
  "/networks/create",
  "/nodes/alpha/update?version=5",
  "/swarm/update?version=5",
];
const LISTS = ["services", "nodes", "tasks", "secrets", "configs", "networks"];
const BAD_FILTERS = [
  "{",
  "[]",
  '"x"',
  "5",
  "true",
  '{"name":5}',
  '{"name":"x"}',
  '{"name":[5]}',
  '{"name":[["x"]]}',
  '{"nosuch":["x"]}',
  '{"__proto__":["x"]}',
  '{"constructor":["x"]}',
  '{"toString":{"x":true}}',
  '{"name":true}',
  "\u0000",
  "%",
  "[".repeat(5_000),
];
const BAD_VERSIONS = [
  "",
  "x",
  "-1",
  "1.5",
  "0x5",
  "1e3",
  " 5",
  "5 ",
  "9".repeat(30),
  "\u0000",
  "NaN",
];
const ODD_NAMES = [
  "nosuch",
  "%00",
  "%2e%2e",
  "..%2f..%2fetc",
  "%ff%fe",
  "__proto__",
  "constructor",
  "x".repeat(5_000),
  "%F0%9F%90%8B",
  "a%20b",
  "'%20or%201=1--",
  "%zz",
  "{}",
  "*",
];

const hostile: (() => Call)[] = [
  () => ({ method: "POST", path: pick(BODY_PATHS), body: pick(BAD_TEXTS)() }),
  () => {
    const path = pick(pathsOf(FULL_SPEC).filter((one) => isTyped(one)));
    const body = JSON.stringify(changed(FULL_SPEC, path, wrongType));
    return { method: "POST", path: "/services/create", body };
  },
  () => wrongField("/secrets/create", GOOD_SECRET),
  () => wrongField("/configs/create", GOOD_SECRET),
  () => wrongField("/networks/create", GOOD_NETWORK),
  () => wrongField("/nodes/alpha/update?version=5", GOOD_NODE),
  () => ({
    method: "GET",
    path: `/${pick(LISTS)}?filters=${encodeURIComponent(pick(BAD_FILTERS))}`,
  }),
  () => {
    const kind = pick(["services", "nodes", "secrets", "configs"]);
    const path = `/${kind}/alpha/update?version=${encodeURIComponent(pick(BAD_VERSIONS))}`;
    return { method: "POST", path, body: JSON.stringify(GOOD_NODE) };
  },
  () => ({
    method: pick(["GET", "DELETE"]),
    path: `/${pick(["services", "nodes", "secrets", "configs", "networks"])}/${pick(ODD_NAMES)}`,
  }),
  () => ({ method: "GET", path: `/tasks/${pick(ODD_NAMES)}` }),
  () => ({
    method: pick(["PUT", "PATCH", "DELETE"]),
    path: `/${pick(LISTS)}`,
    body: pick(["{}", "", "x"]),
  }),
  () => ({
    method: "GET",
    path: `/v${pick(["1.99", "0", "1.1", "99999999999", "1..4"])}/services`,
  }),
  () => ({
    method: "GET",
    path: `/services?status=${pick(["x", "2", "yes", "%00", "TRUEE"])}`,
  }),
  () => ({
    method: "POST",
    path: `/swarm/update?version=5&rotateWorkerToken=${pick(["x", "2", "yes"])}`,
    body: "{}",
  }),
  () => ({ method: "POST", path: "/swarm/unlock", body: pick(BAD_TEXTS)() }),
  () => ({ method: "GET", path: `/${pick(LISTS)}/${pick(ODD_NAMES)}/${pick(ODD_NAMES)}/x` }),
  () => ({ method: "POST", path: "/services/create", body: `{"Name":"x".${"a".repeat(100_000)}` }),
  () => ({
    method: "POST",
    path: pick(["/secrets/create", "/configs/create"]),
    body: JSON.stringify({ ...GOOD_SECRET, Data: "A".repeat(2_000_000) }),
  }),
];

function wrongField(path: string, good: Record<string, unknown>): Call {
  const where = pick(pathsOf(good).filter((one) => isTyped(one)));
  return { method: "POST", path, body: JSON.stringify(changed(good, where, wrongType)) };
}

/** A fraction is a good ratio. */
function isTyped(path: Path): boolean {
  const name = String(path.at(-1));
  return !["MaxFailureRatio"].includes(name);
}

describe("hostile requests", () => {
  test(`${HOSTILE_CASES} of them are refused with a message, and nothing is stored`, async () => {
    const before = stored();
    for (let count = 0; count < HOSTILE_CASES; count += 1) {
      const call = pick(hostile)();
      expectRefusal(await send(call), call);
      if (lab.ports.proposed.length > 0) throw new Error(`Proposed: ${JSON.stringify(call)}`);
    }
    expect(stored()).toBe(before);
    expect(bugs).toEqual([]);
  }, 60_000);

  test("a body above the limit is refused before it is read", async () => {
    const body = new Uint8Array(17 * 1024 * 1024).fill(0x20);
    for (const path of BODY_PATHS) {
      const call = { method: "POST", path, body };
      expectRefusal(await send(call), { ...call, body: "" });
    }
    expect(lab.ports.proposed).toEqual([]);
  });

  test.each([
    "",
    "text/plain",
    "application/xml",
    "multipart/form-data",
    "\u00ff/x",
    "application/json; charset=utf-16",
  ])("content type %j is no reason to fail", async (type) => {
    const call = { method: "POST", path: "/services/create", body: '{"Name":5}', type };
    expectRefusal(await send(call), call);
  });
});

// ---- good specs, mutated ----------------------------------------------------------------------

const SURPRISES: unknown[] = [
  null,
  "",
  " ",
  "\u0000",
  "\ud800",
  "{{",
  "{{.Service.Name}}",
  "x".repeat(70_000),
  "../../etc/passwd",
  0,
  -1,
  0.1,
  1e21,
  Number.MAX_SAFE_INTEGER + 2,
  true,
  [],
  {},
  [null],
  [[]],
  { a: null },
  JSON.parse('{"__proto__":{"polluted":true}}'),
  { constructor: { prototype: { polluted: true } } },
];
const SURPRISING_KEYS = [
  "__proto__",
  "constructor",
  "toString",
  "length",
  "\u0000",
  "",
  "a".repeat(5_000),
];

function mutated(good: unknown): unknown {
  let value = good;
  for (let rounds = 1 + below(random, 3); rounds > 0; rounds -= 1) {
    const path = pick(pathsOf(value));
    const kind = below(random, 4);
    if (kind === 0) value = changed(value, path, () => undefined);
    else if (kind === 1) {
      const key = pick(SURPRISING_KEYS);
      const more = new Map([[key, pick(SURPRISES)]]);
      value = changed(value, path.slice(0, -1), (old) =>
        Array.isArray(old)
          ? [...old, pick(SURPRISES)]
          : { ...asObject(old), ...Object.fromEntries(more) },
      );
    } else value = changed(value, path, () => pick(SURPRISES));
  }
  return value;
}

const TARGETS: { path: string; list: string; good: unknown }[] = [
  { path: "/services/create", list: "/services", good: FULL_SPEC },
  { path: "/services/create", list: "/services", good: FULL_SPEC },
  { path: "/secrets/create", list: "/secrets", good: GOOD_SECRET },
  { path: "/configs/create", list: "/configs", good: GOOD_SECRET },
  { path: "/networks/create", list: "/networks", good: GOOD_NETWORK },
];

test("the specs that are mutated are good ones", async () => {
  for (const { path, good, list } of TARGETS) {
    const answer = await send({ method: "POST", path, body: JSON.stringify(good) });
    expect([answer.status, answer.text]).toEqual([201, expect.stringContaining("{")]);
    const made: unknown = JSON.parse(answer.text);
    await send({ method: "DELETE", path: `${list}/${field(made, "ID") || field(made, "Id")}` });
  }
});

test(`${MUTATED_CASES} mutated specs are refused with a message or can be read, listed and removed`, async () => {
  let refused = 0;
  for (let count = 0; count < MUTATED_CASES; count += 1) {
    const target = pick(TARGETS);
    const body = JSON.stringify(mutated(target.good)) ?? "";
    const call = { method: "POST", path: target.path, body };
    const before = stored();
    lab.ports.proposed.length = 0;
    const answer = await send(call);
    if (answer.status !== 201) {
      expectRefusal(answer, call);
      // What apply refuses has been proposed; stored is nothing in either case.
      expect(stored()).toBe(before);
      refused += 1;
      continue;
    }
    const made: unknown = JSON.parse(answer.text);
    const path = `${target.list}/${field(made, "ID") || field(made, "Id")}`;
    if (lab.ports.proposed.length === 0) continue; // a network of the engine
    for (const read of [target.list, path, `${path}?insertDefaults=true`]) {
      const found = await send({ method: "GET", path: read });
      if (found.status !== 200)
        throw new Error(`${read}: ${found.text} after ${body.slice(0, 500)}`);
    }
    const removed = await send({ method: "DELETE", path });
    expect(removed.status).toBeLessThan(300);
  }
  // Most mutations hurt; else they would prove nothing.
  expect(refused).toBeGreaterThan(MUTATED_CASES / 3);
  expect(bugs).toEqual([]);
  const plain: Record<string, unknown> = {};
  expect(plain["polluted"]).toBeUndefined();
}, 60_000);
