import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { openRegistryAuth } from "../../../agent/vault.ts";
import { ClusterError } from "../../../core/errors.ts";
import { seededRandom } from "../../../core/random.ts";
import { type ApiLab, at, createLab } from "./lab.ts";

const COMPOSE = `
services:
  web:
    image: busybox:1
    environment: { A: "\${A:-1}" }
    secrets: [key]
secrets:
  key: { file: ./key }
`;
const request = (set: Record<string, unknown> = {}) => ({
  Files: [{ Name: "compose.yaml", Text: COMPOSE }],
  Contents: { "./key": btoa("hush") },
  ...set,
});

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());
const stack = (method: string, path = "", body?: unknown, type = "application/json") =>
  lab.call(method, `/shoal/v1/stacks/shop${path}`, body, { "content-type": type });
const services = () => lab.ports.rows.services().map(({ spec }) => spec);

describe("stacks", () => {
  test("are planned, deployed, shown, rolled back and removed", async () => {
    const plan = await stack("POST", "/plan", request());
    expect(plan).toMatchObject({ status: 200, body: { Revision: 1, IsChange: true } });
    expect(lab.ports.proposed).toEqual([]);
    const first = await stack("PUT", "", request({ Token: at(plan.body, "Token") }));
    expect(first).toMatchObject({ status: 200, body: { Revision: 1, IsChange: true } });
    expect(lab.ports.proposed).toHaveLength(1);
    expect(await stack("PUT", "", request())).toMatchObject({ body: { IsChange: false } });
    await stack("PUT", "", request({ Env: { A: "2" } }));
    expect(services()[0]?.TaskTemplate.ContainerSpec.Env).toEqual(["A=2"]);
    const shown = await stack("GET");
    expect(shown.body).toMatchObject({
      Name: "shop",
      Revision: 2,
      ServiceCount: 1,
      Services: [{ Name: "shop_web", Desired: 1, Running: 0 }],
      Revisions: [{ Number: 1 }, { Number: 2 }],
      Files: [{ Text: COMPOSE }],
    });
    expect(shown.text).not.toContain(btoa("hush"));
    expect((await stack("POST", "/rollback?plan=1")).body).toMatchObject({ IsChange: true });
    expect((await stack("POST", "/rollback")).body).toMatchObject({ Revision: 3 });
    expect(services()[0]?.TaskTemplate.ContainerSpec.Env).toEqual(["A=1"]);
    expect((await stack("GET", "/revisions/2")).body).toMatchObject({ Number: 2, Services: 1 });
    expect((await lab.call("GET", "/shoal/v1/stacks")).body).toMatchObject([{ Name: "shop" }]);
    expect((await stack("DELETE")).status).toBe(204);
    expect([services(), lab.ports.rows.stacks()]).toEqual([[], []]);
  });

  test("a compose file is a body, too", async () => {
    const text = "services:\n  one: { image: 'busybox:1' }\n";
    const put = await stack("PUT", "?prune=0&resolve-image=never", text, "application/yaml");
    expect(put).toMatchObject({ status: 200, body: { Revision: 1 } });
    expect(services().map(({ Name }) => Name)).toEqual(["shop_one"]);
  });

  test("a rollback gives credentials to services that it makes again; others keep theirs", async () => {
    const auth = (text: string) => ({ RegistryAuth: { "docker.io": btoa(text) } });
    const stored = (name: string) =>
      lab.ports.rows.serviceByName(name)?.spec.TaskTemplate.ContainerSpec.PullOptions?.RegistryAuth;
    const opened = (name: string) => openRegistryAuth(lab.ports.vault, stored(name) ?? "");
    const other = "services:\n  other: { image: 'busybox:1' }\n";
    await stack("PUT", "", request(auth("first")));
    await stack("PUT", "", { Files: [{ Name: "f", Text: other }], ...auth("other") });
    const back = await stack("POST", "/rollback", auth("second"));
    expect([back.status, opened("shop_web")]).toEqual([200, btoa("second")]);
    await stack("PUT", "", request({ Env: { A: "2" } }));
    expect((await stack("POST", "/rollback", {})).status).toBe(200);
    expect(opened("shop_web")).toBe(btoa("second"));
    expect(JSON.stringify(lab.ports.rows.stacks())).not.toContain(btoa("second"));
  });

  test("a deployment that is overtaken is planned anew", async () => {
    const { propose } = lab.ports;
    let refusals = 2;
    lab.ports.propose = async (actions) => {
      if (refusals-- > 0) throw new ClusterError("version-conflict", "it has changed");
      return propose(actions);
    };
    expect((await stack("PUT", "", request())).status).toBe(200);
    refusals = 99;
    expect((await stack("PUT", "", request({ Env: { A: "3" } }))).status).toBe(500);
  });

  test.each([
    ["GET", "", undefined, 404, "stack shop not found"],
    ["POST", "/rollback", undefined, 404, "stack shop not found"],
    ["POST", "/rollback", { RegistryAuth: [] }, 400, "invalid value for RegistryAuth"],
    ["POST", "/rollback", { Prune: false }, 400, "Unrecognized key: "],
    ["PUT", "", request({ Prun: false }), 400, "Unrecognized key: "],
    ["DELETE", "", undefined, 404, "stack shop not found"],
    ["PUT", "", { Files: [] }, 400, "invalid value for Files"],
    ["PUT", "", request({ ResolveImage: "often" }), 400, "invalid value for ResolveImage"],
    ["PUT", "", request({ Contents: { a: "%" } }), 400, "invalid value for Contents.a"],
    ["PUT", "", request({ Token: "0" }), 409, "the plan 0 is out of date"],
    ["PUT", "", request({ Contents: {} }), 400, "./key"],
    ["PUT", "", { Files: [{ Name: "a", Text: "services: [" }] }, 400, "a:1"],
  ] as const)(
    "%s %s %j is refused and changes nothing",
    async (method, path, body, status, text) => {
      const answer = await stack(method, path, body);
      expect([answer.status, answer.text]).toEqual([status, expect.stringContaining(text)]);
      expect(lab.ports.proposed).toEqual([]);
    },
  );

  test("one that a client has deployed is told apart from one that is not there", async () => {
    await lab.createService({ Name: "shop_x", Labels: { "com.docker.stack.namespace": "shop" } });
    expect((await stack("GET")).text).toContain("its services were deployed by a client");
  });

  test("1,000 broken files are planned or refused with a message, and nothing else", async () => {
    const bugs: string[] = [];
    lab.ports.reportBug = (where, error) => void bugs.push(`${where}: ${String(error)}`);
    const random = seededRandom(2026);
    const below = (limit: number) => Math.floor(random.next() * limit);
    const pieces = [
      "{",
      "]",
      "\t",
      "\n  ",
      "&a",
      "*a",
      "<<: *a",
      "${",
      "$",
      "${A:?x}",
      "!!binary",
      "0x9",
      "~",
      "'",
      "\u0000",
    ];
    for (let i = 0; i < 1_000; i += 1) {
      let text = COMPOSE;
      for (let edits = 1 + below(3); edits > 0; edits -= 1) {
        const from = below(text.length);
        const put = below(3) === 0 ? "" : (pieces[below(pieces.length)] ?? "");
        text = text.slice(0, from) + put + text.slice(from + below(4));
      }
      const answer = await stack(
        "POST",
        "/plan",
        request({ Files: [{ Name: "f", Text: text }], ResolveImage: "never" }),
      );
      const isGood = answer.status === 200 || (answer.status >= 400 && answer.status < 500);
      if (!isGood || !(answer.status === 200 || at(answer.body, "message"))) {
        throw new Error(`${answer.status} ${answer.text}: ${JSON.stringify(text)}`);
      }
    }
    expect([bugs, lab.ports.proposed]).toEqual([[], []]);
  }, 60_000);
});
