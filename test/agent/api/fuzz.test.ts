/**
 * The API under hostile input, in process, 1,000 seeded cases and more: always an answer with a
 * message and a status of 4xx (or 501: refused with its reason), never a 500 of ours, nothing
 * stored, nothing of the process changed. A mutation that happens to be a good request may succeed;
 * then what it stored can be read, listed and removed.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Call, createFuzzInput, expectRefusal, send, storedBy } from "./fuzz-input.ts";
import { type ApiLab, createLab, field, serviceSpec } from "./lab.ts";

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

const input = createFuzzInput(SEED);
const { pick, badText, oddName } = input;
const stored = () => storedBy(lab);

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
const hostile: (() => Call)[] = [
  () => ({ method: "POST", path: pick(BODY_PATHS), body: badText() }),
  () => wrongField("/services/create", FULL_SPEC),
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
    path: `/${pick(["services", "nodes", "secrets", "configs", "networks"])}/${oddName()}`,
  }),
  () => ({ method: "GET", path: `/tasks/${oddName()}` }),
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
  () => ({ method: "POST", path: "/swarm/unlock", body: badText() }),
  () => ({ method: "GET", path: `/${pick(LISTS)}/${oddName()}/${oddName()}/x` }),
  () => ({ method: "POST", path: "/services/create", body: `{"Name":"x".${"a".repeat(100_000)}` }),
  () => ({
    method: "POST",
    path: pick(["/secrets/create", "/configs/create"]),
    body: JSON.stringify({ ...GOOD_SECRET, Data: "A".repeat(2_000_000) }),
  }),
];

function wrongField(path: string, good: Record<string, unknown>): Call {
  return { method: "POST", path, body: input.wrongField(good) };
}

describe("hostile requests", () => {
  test(`${HOSTILE_CASES} of them are refused with a message, and nothing is stored`, async () => {
    const before = stored();
    for (let count = 0; count < HOSTILE_CASES; count += 1) {
      const call = pick(hostile)();
      expectRefusal(await send(lab, call), call);
      if (lab.ports.proposed.length > 0) throw new Error(`Proposed: ${JSON.stringify(call)}`);
    }
    expect(stored()).toBe(before);
    expect(bugs).toEqual([]);
  }, 60_000);

  test("a body above the limit is refused before it is read", async () => {
    const body = new Uint8Array(17 * 1024 * 1024).fill(0x20);
    for (const path of BODY_PATHS) {
      const call = { method: "POST", path, body };
      expectRefusal(await send(lab, call), { ...call, body: "" });
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
    expectRefusal(await send(lab, call), call);
  });
});

// ---- good specs, mutated ----------------------------------------------------------------------

const TARGETS: { path: string; list: string; good: unknown }[] = [
  { path: "/services/create", list: "/services", good: FULL_SPEC },
  { path: "/services/create", list: "/services", good: FULL_SPEC },
  { path: "/secrets/create", list: "/secrets", good: GOOD_SECRET },
  { path: "/configs/create", list: "/configs", good: GOOD_SECRET },
  { path: "/networks/create", list: "/networks", good: GOOD_NETWORK },
];

test("the specs that are mutated are good ones", async () => {
  for (const { path, good, list } of TARGETS) {
    const answer = await send(lab, { method: "POST", path, body: JSON.stringify(good) });
    expect([answer.status, answer.text]).toEqual([201, expect.stringContaining("{")]);
    const made: unknown = JSON.parse(answer.text);
    await send(lab, {
      method: "DELETE",
      path: `${list}/${field(made, "ID") || field(made, "Id")}`,
    });
  }
});

test(`${MUTATED_CASES} mutated specs are refused with a message or can be read, listed and removed`, async () => {
  let refused = 0;
  for (let count = 0; count < MUTATED_CASES; count += 1) {
    const target = pick(TARGETS);
    const body = JSON.stringify(input.mutated(target.good)) ?? "";
    const call = { method: "POST", path: target.path, body };
    const before = stored();
    lab.ports.proposed.length = 0;
    const answer = await send(lab, call);
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
      const found = await send(lab, { method: "GET", path: read });
      if (found.status !== 200)
        throw new Error(`${read}: ${found.text} after ${body.slice(0, 500)}`);
    }
    const removed = await send(lab, { method: "DELETE", path });
    expect(removed.status).toBeLessThan(300);
  }
  // Most mutations hurt; else they would prove nothing.
  expect(refused).toBeGreaterThan(MUTATED_CASES / 3);
  expect(bugs).toEqual([]);
  const plain: Record<string, unknown> = {};
  expect(plain["polluted"]).toBeUndefined();
}, 60_000);
