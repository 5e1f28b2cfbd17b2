import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { openSecret } from "../../../agent/vault.ts";
import goldenConfigs from "./golden/configs.json" with { type: "json" };
import goldenSecrets from "./golden/secrets.json" with { type: "json" };
import { type ApiLab, at, createLab, field, keyPaths } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const base64 = (text: string) => Buffer.from(text).toString("base64");
const KINDS = [
  { root: "secrets", kind: "secret", golden: goldenSecrets, max: 512_000, showsData: false },
  { root: "configs", kind: "config", golden: goldenConfigs, max: 1_024_000, showsData: true },
] as const;

describe.each(KINDS)("/$root", ({ root, kind, golden, max, showsData }) => {
  const create = (set: Record<string, unknown> = {}) =>
    lab.call("POST", `/${root}/create`, { Name: "one", Labels: {}, Data: base64("data"), ...set });
  const createId = async (set: Record<string, unknown> = {}) =>
    field((await create(set)).body, "ID");
  const version = (id: string) => lab.ports.rows.get(kind, id)?.version ?? 0;
  const update = (id: string, body: unknown) =>
    lab.call("POST", `/${root}/${id}/update?version=${version(id)}`, body);
  const reference = (id: string) => {
    const upper = kind === "secret" ? "Secret" : "Config";
    const file = { Name: "f", UID: "0", GID: "0", Mode: 292 };
    return { [`${upper}s`]: [{ [`${upper}ID`]: id, [`${upper}Name`]: "one", File: file }] };
  };

  test("create, list, inspect, remove", async () => {
    const created = await create();
    expect(created.status).toBe(201);
    const id = field(created.body, "ID");
    const list = await lab.call("GET", `/${root}`);
    expect([...keyPaths(list.body)].sort()).toEqual([...keyPaths(golden)].sort());
    const one = await lab.call("GET", `/${root}/one`);
    expect(at(one.body, "Spec", "Data")).toBe(showsData ? base64("data") : undefined);
    const removed = await lab.call("DELETE", `/${root}/${id.slice(0, 6)}`);
    expect([removed.status, removed.text]).toEqual([204, ""]);
    const again = await lab.call("GET", `/${root}/one`);
    expect([again.status, again.body]).toEqual([404, { message: `${kind} one not found` }]);
  });

  test.each([
    ["no name", { Name: "" }, 400, "name must be provided"],
    ["a dash first", { Name: "-x" }, 400, "invalid name"],
    ["a long name", { Name: "a".repeat(65) }, 400, "invalid name"],
    [
      "empty data",
      { Data: "" },
      400,
      `${kind} data must be larger than 0 and less than ${max} bytes`,
    ],
    ["no data", { Data: null }, 400, `${kind} data must be larger than 0`],
    ["large data", { Data: base64("x".repeat(max)) }, 400, `${kind} data must be larger than 0`],
    ["no base64", { Data: "no base64!" }, 400, "invalid value for Data: illegal base64 data"],
    [
      "an unknown template",
      { Templating: { Name: "perl" } },
      400,
      'template driver "perl" is unknown: use golang',
    ],
  ])("create refuses %s", async (_what, set, status, message) => {
    const answer = await create(set);
    expect(answer.status).toBe(status);
    expect(field(answer.body, "message")).toContain(message);
  });

  test("create takes a driver for data of secrets only", async () => {
    const answer = await create({ Driver: { Name: "vault" } });
    expect(answer.status).toBe(kind === "secret" ? 501 : 201);
    const nameless = await create({ Driver: {}, Name: "two" });
    expect(nameless.status).toBe(kind === "secret" ? 400 : 201);
  });

  test("create takes the largest data", async () => {
    expect((await create({ Data: base64("x".repeat(max - 1)) })).status).toBe(201);
  });

  test("create refuses a name that is taken", async () => {
    await create();
    const again = await create();
    expect([again.status, again.body]).toEqual([
      409,
      { message: `rpc error: code = AlreadyExists desc = ${kind} one already exists` },
    ]);
  });

  test("update changes labels only", async () => {
    const id = await createId();
    const same = { Name: "one", Labels: { a: "b" }, Data: base64("data") };
    expect((await update(id, same)).status).toBe(200);
    expect((await update(id, { Name: "one", Labels: { c: "d" } })).status).toBe(200);
    const spec = lab.ports.rows.get(kind, id)?.spec ?? { Name: "" };
    // What is stored of a secret does not tell its data.
    expect(spec.Data === undefined).toBe(kind === "secret");
    expect(JSON.stringify(spec).includes(base64("data"))).toBe(kind === "config");
    const opened = openSecret(lab.ports.vault, id, spec);
    expect(opened).toEqual({ Name: "one", Labels: { c: "d" }, Data: base64("data") });
    for (const other of [
      { ...same, Data: base64("other") },
      { ...same, Name: "two" },
    ]) {
      const answer = await update(id, other);
      expect([answer.status, answer.body]).toEqual([
        400,
        { message: "rpc error: code = InvalidArgument desc = only updates to Labels are allowed" },
      ]);
    }
    const stale = await lab.call("POST", `/${root}/${id}/update?version=1`, same);
    expect([stale.status, field(stale.body, "message")]).toEqual([
      500,
      "rpc error: code = Unknown desc = update out of sequence",
    ]);
    const wrong = await lab.call("POST", `/${root}/${id}/update?version=`, same);
    expect(field(wrong.body, "message")).toBe(`invalid ${kind} version`);
  });

  test("remove refuses what a service uses", async () => {
    const id = await createId();
    await lab.createService({ container: reference(id) });
    const one = await lab.call("DELETE", `/${root}/one`);
    expect([one.status, one.body]).toEqual([
      400,
      {
        message: `rpc error: code = InvalidArgument desc = ${kind} 'one' is in use by the following service: web`,
      },
    ]);
    await lab.createService({ Name: "second", container: reference(id) });
    expect((await lab.call("DELETE", `/${root}/one`)).text).toContain("following services: ");
  });

  test("list filters by name, names, label and id", async () => {
    const id = await createId({ Labels: { x: "1" } });
    await create({ Name: "one-more" });
    const count = async (filters: Record<string, unknown>) => {
      const path = `/${root}?filters=${encodeURIComponent(JSON.stringify(filters))}`;
      const { body } = await lab.call("GET", path);
      return Array.isArray(body) ? body.length : body;
    };
    expect(await count({ name: ["one"] })).toBe(2);
    expect(await count({ names: ["one"] })).toBe(1);
    expect(await count({ label: ["x=1"] })).toBe(1);
    expect(await count({ id: [id] })).toBe(1);
  });
});
