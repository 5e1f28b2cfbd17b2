import { beforeEach, describe, expect, test } from "bun:test";
import { planStack, type StackPlan, type StackWish } from "../../../agent/stacks/plan.ts";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import {
  STACK_ID_LABEL,
  STACK_LABEL,
  type StackData,
  type StackModel,
} from "../../../core/objects/stack.ts";
import { seededRandom } from "../../../core/random.ts";
import { createFakePorts, type FakePorts, makeNode } from "../api/fake-ports.ts";

const Labels = { [STACK_LABEL]: "shop" };
const service = (
  name: string,
  set: Partial<ServiceSpec> = {},
  container: object = {},
): ServiceSpec => ({
  Name: `shop_${name}`,
  Labels,
  Mode: { Replicated: { Replicas: 2 } },
  ...set,
  TaskTemplate: {
    ContainerSpec: { Image: "lab:1", ...container },
    Networks: [{ Target: "shop_default", Aliases: [name] }],
    ...set.TaskTemplate,
  },
});
const secretOf = (name: string) => ({
  File: { Name: "key", UID: "0", GID: "0", Mode: 0o444 },
  SecretID: "",
  SecretName: name,
});
const model = (set: Partial<StackModel> = {}): StackModel => ({
  services: [service("web")],
  networks: [{ Name: "shop_default", Driver: "overlay", Labels }],
  secrets: [],
  configs: [],
  externals: { networks: [], secrets: [], configs: [] },
  ...set,
});

let ports: FakePorts;
beforeEach(() => {
  ports = createFakePorts("/nowhere");
});

function plan(given: StackModel, set: Partial<StackWish> = {}): StackPlan {
  const wish: StackWish = {
    name: "shop",
    files: [{ name: "compose.yaml", text: JSON.stringify(given) }],
    model: given,
    data: { secrets: new Map(), configs: new Map() },
    prune: true,
    images: new Map(),
    authOf: () => undefined,
    ...set,
  };
  const { random, vault } = ports;
  return planStack(ports.rows, wish, { random, vault, nowMs: ports.nowMs() });
}
const refusal = (...args: Parameters<typeof plan>) => {
  try {
    plan(...args);
  } catch (error) {
    return String(error);
  }
  return undefined;
};
async function deploy(...args: Parameters<typeof plan>): Promise<StackPlan> {
  const made = plan(...args);
  if (made.isChange) await ports.propose(made.actions);
  return made;
}
const told = ({ changes }: StackPlan) =>
  changes.map(({ kind, name, action }) => `${action} ${kind} ${name}`);
const stack = () => ports.rows.stackByName("shop") ?? expect.unreachable();

describe("planStack()", () => {
  test("makes everything in one proposal, and nothing the second time", async () => {
    const withSecret = model({
      services: [service("web", {}, { Secrets: [secretOf("shop_key-1")] })],
      secrets: [{ Name: "shop_key-1", Labels }],
    });
    const data = { secrets: new Map([["shop_key-1", btoa("hush")]]), configs: new Map() };
    const first = await deploy(withSecret, { data });
    expect(told(first)).toEqual([
      "create network shop_default",
      "create secret shop_key-1",
      "create service shop_web",
    ]);
    expect(first.changes.at(-1)?.effect).toBe("starts 2 tasks");
    expect(ports.proposed).toHaveLength(1);
    const { spec } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    const network = ports.rows.networkByName("shop_default");
    expect(spec.TaskTemplate.Networks?.[0]?.Target).toBe(network?.id ?? "");
    expect(network?.spec.Labels).toEqual({ ...Labels, [STACK_ID_LABEL]: stack().id });
    const secret = ports.rows.secretByName("shop_key-1");
    expect(spec.TaskTemplate.ContainerSpec.Secrets?.[0]?.["SecretID"]).toBe(secret?.id ?? "");
    // Sealed, and in no revision.
    expect(secret?.spec.Data).toBeUndefined();
    expect(JSON.stringify(stack())).not.toContain(btoa("hush"));
    const again = await deploy(withSecret, { data });
    expect(told(again)).toEqual([
      "keep network shop_default",
      "keep secret shop_key-1",
      "keep service shop_web",
    ]);
    expect([again.isChange, again.revision]).toEqual([false, 1]);
  });

  test("an update names the fields and the tasks it costs; a change of labels costs none", async () => {
    await deploy(model());
    const changed = plan(
      model({ services: [service("web", {}, { Image: "lab:2", Env: ["A=1"] })] }),
    );
    expect(changed.changes.at(-1)).toMatchObject({
      action: "update",
      fields: [
        { path: "TaskTemplate.ContainerSpec.Image", from: "lab:1", to: "lab:2" },
        { path: "TaskTemplate.ContainerSpec.Env", to: "A=1" },
      ],
      effect: "no task is replaced",
    });
    const labelled = plan(model({ services: [service("web", { Labels: { ...Labels, a: "b" } })] }));
    expect(labelled.changes.at(-1)?.effect).toBe("no task is replaced");
    const scaled = plan(
      model({ services: [service("web", { Mode: { Replicated: { Replicas: 5 } } })] }),
    );
    expect(scaled.changes.at(-1)?.effect).toBe("no task is replaced; starts 3 tasks");
  });

  test("services that the model lacks go, unless they are to stay; what is not the stack's never", async () => {
    await deploy(model({ services: [service("web"), service("db")] }));
    const pruned = plan(model());
    expect(told(pruned)).toContain("remove service shop_db");
    expect(told(plan(model(), { prune: false }))).not.toContain("remove service shop_db");
    expect(pruned.actions.filter(({ type }) => type === "remove")).toHaveLength(1);
  });

  test("a port goes from a removed service to a new one", async () => {
    const EndpointSpec = { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] };
    await deploy(model({ services: [service("old", { EndpointSpec })] }));
    expect(
      refusal(
        model({ services: [service("old", { EndpointSpec }), service("new", { EndpointSpec })] }),
      ),
    ).toContain("service shop_new: port '8080' is already in use by service 'shop_old'");
    await deploy(model({ services: [service("new", { EndpointSpec })] }));
    expect(ports.rows.services().map(({ spec }) => spec.Name)).toEqual(["shop_new"]);
  });

  /** Ingress ports as published, by service: what the spec names and what is served. */
  const published = () =>
    Object.fromEntries(
      ports.rows
        .services()
        .map(({ spec, endpoint }) => [
          spec.Name,
          [spec.EndpointSpec?.Ports ?? [], endpoint?.ports ?? []].map((list) =>
            list.map(({ PublishedPort }) => PublishedPort),
          ),
        ]),
    );
  const publishing = (name: string, ...numbers: number[]) =>
    service(name, {
      EndpointSpec: { Ports: numbers.map((PublishedPort) => ({ TargetPort: 80, PublishedPort })) },
    });
  /** As the allocator does after each change. */
  async function serveAll() {
    for (const { id, spec, specVersion } of ports.rows.services()) {
      const served = (spec.EndpointSpec?.Ports ?? []).map(
        ({ PublishedPort, TargetPort }, index) => ({
          Protocol: "tcp" as const,
          TargetPort,
          PublishedPort: PublishedPort || 30_000 + index,
          PublishMode: "ingress" as const,
        }),
      );
      const endpoint = { specVersion, mode: "vip" as const, virtualIps: [], ports: served };
      await ports.propose([{ type: "update", table: "service", id, set: { endpoint } }]);
    }
  }

  test.each([
    ["to a service that is there", { a: [8_080], b: [] }, { a: [], b: [8_080] }],
    ["to a new one", { a: [8_080, 8_081] }, { a: [8_081], b: [8_080] }],
    ["to each other", { a: [8_080], b: [8_081] }, { a: [8_081], b: [8_080] }],
    ["in a circle", { a: [1], b: [2], c: [3] }, { a: [2], b: [3], c: [1] }],
  ] as const)("ports go %s in one deployment", async (_how, from, to) => {
    const modelOf = (wish: Readonly<Record<string, readonly number[]>>) =>
      model({ services: Object.entries(wish).map(([name, of]) => publishing(name, ...of)) });
    await deploy(modelOf(from));
    await serveAll();
    const before = ports.rows.serviceByName("shop_a") ?? expect.unreachable();
    const made = await deploy(modelOf(to));
    for (const [name, numbers] of Object.entries(to)) {
      expect(published()[`shop_${name}`]?.[0]).toEqual([...numbers]);
    }
    const after = ports.rows.serviceByName("shop_a") ?? expect.unreachable();
    // Goes back to what it was, but for ports that others have by then.
    const old = before.spec.EndpointSpec?.Ports ?? [];
    const kept: readonly number[] = to.a;
    const Ports = old.filter(({ PublishedPort = 0 }) => kept.includes(PublishedPort));
    expect([after.previousSpec, after.previousSpecVersion]).toEqual([
      { ...before.spec, EndpointSpec: { ...before.spec.EndpointSpec, Ports } },
      before.specVersion,
    ]);
    expect(after.specVersion).toBe(ports.rows.index);
    const change = made.changes.find(({ name }) => name === "shop_a");
    expect(JSON.stringify(change?.fields)).toContain(String(from.a[0]));
    await serveAll();
    expect((await deploy(modelOf(to))).isChange).toBe(false);
  });

  test("whatever the ports were, those of a file are given, and none to two services", async () => {
    const random = seededRandom(2026);
    const below = (limit: number) => Math.floor(random.next() * limit);
    for (let round = 0; round < 60; round += 1) {
      const wish = new Map(["a", "b", "c"].map((name): [string, number[]] => [name, []]));
      // Each port has one service, or none.
      for (const port of [1, 2, 3, 4]) wish.get(["a", "b", "c", ""][below(4)] ?? "")?.push(port);
      const services = [...wish].map(([name, of]) => publishing(name, ...of));
      await deploy(model({ services: services.slice(below(2)) }));
      // Sometimes the allocator has not been there since.
      if (below(3) > 0) await serveAll();
      const held = Object.values(published()).map((lists) => [...new Set(lists.flat())]);
      expect(held.flat()).toHaveLength(new Set(held.flat()).size);
    }
  });

  test("a port that its service keeps, or that another stack has, goes nowhere", async () => {
    await deploy(model({ services: [publishing("a", 8_080), publishing("b", 0)] }));
    await serveAll();
    const taken = (wish: StackModel) => expect(refusal(wish));
    taken(model({ services: [publishing("a", 8_080), publishing("b", 8_080)] })).toContain(
      "service shop_b: port '8080' is already in use by service 'shop_a'",
    );
    taken(model({ services: [publishing("a", 30_000), publishing("b", 0)] })).toContain(
      "service shop_a: port '30000' is already in use by service 'shop_b'",
    );
    taken(model({ services: [publishing("b", 8_080), publishing("c", 8_080)] })).toContain(
      "service shop_c: port '8080' is already in use by service 'shop_b'",
    );
    expect(refusal(model({ services: [publishing("c", 8_080)] }), { prune: false })).toContain(
      "service shop_c: port '8080' is already in use by service 'shop_a'",
    );
  });

  test("a service that changes meanwhile keeps its port: the proposal is refused as a whole", async () => {
    const two = (a: number, b: number) =>
      model({ services: [publishing("a", a), publishing("b", b)] });
    await deploy(two(1, 2));
    await serveAll();
    const made = plan(two(2, 1));
    await serveAll();
    const before = JSON.stringify(published());
    expect(await ports.propose(made.actions).catch(String)).toContain("out of sequence");
    expect(JSON.stringify(published())).toBe(before);
  });

  test("a service that gives a port away is warned that its update cannot undo itself", async () => {
    const withRollback = (name: string, port: number) => {
      const made = publishing(name, port);
      return { ...made, UpdateConfig: { FailureAction: "rollback" as const } };
    };
    const two = (a: number, b: number) =>
      model({ services: [withRollback("a", a), withRollback("b", b)] });
    expect((await deploy(two(1, 2))).warnings).toEqual([]);
    expect((await deploy(two(1, 3))).warnings).toEqual([]);
    expect((await deploy(two(4, 1))).warnings).toEqual([
      expect.stringContaining("service shop_a gives a published port to another service"),
    ]);
  });

  test("other labels of a secret are set in place, and back again; no task is replaced", async () => {
    const labelled = (more: Record<string, string>) =>
      model({
        services: [service("web", {}, { Secrets: [secretOf("shop_key-1")] })],
        secrets: [{ Name: "shop_key-1", Labels: { ...Labels, ...more } }],
      });
    const data = { secrets: new Map([["shop_key-1", btoa("hush")]]), configs: new Map() };
    const secret = () => ports.rows.secretByName("shop_key-1") ?? expect.unreachable();
    await deploy(labelled({ a: "1", gone: "x" }), { data });
    const before = secret();
    const made = await deploy(labelled({ a: "2" }), { data });
    expect(made.changes.filter(({ action }) => action === "update")).toEqual([
      {
        kind: "secret",
        name: "shop_key-1",
        action: "update",
        effect: "",
        fields: [
          { path: "Labels.a", from: "1", to: "2" },
          { path: "Labels.gone", from: "x" },
        ],
      },
    ]);
    const own = { [STACK_ID_LABEL]: stack().id };
    expect(secret().spec).toEqual({ ...before.spec, Labels: { ...Labels, a: "2", ...own } });
    expect((await deploy(labelled({ a: "2" }), { data })).isChange).toBe(false);
    // A rollback has no data, and needs none.
    await deploy(labelled({ a: "1", gone: "x" }), { repeats: 1 });
    expect(secret().spec).toEqual(before.spec);
  });

  test("another template driver under the same name is refused", async () => {
    const templated = (set: Partial<StackData>) =>
      model({ services: [], configs: [{ Name: "motd", Labels, ...set }] });
    const data = { secrets: new Map(), configs: new Map([["motd", btoa("hi")]]) };
    await deploy(templated({}), { data });
    expect(refusal(templated({ Templating: { Name: "golang" } }), { data })).toContain(
      'config motd: its template_driver is "" where "golang" is wanted, and cannot be changed',
    );
  });

  test("a network that is kept as it is although the file says otherwise is warned of", async () => {
    const withNetwork = (set: Record<string, unknown>) =>
      model({
        services: [],
        networks: [{ Name: "shop_n", Driver: "overlay", Labels, ...set }],
      });
    const pool = (more: Record<string, string>) => ({
      IPAM: { Config: [{ Subnet: "10.99.7.0/24", ...more }] },
    });
    await deploy(withNetwork(pool({ Gateway: "10.99.7.1" })));
    expect(plan(withNetwork(pool({}))).warnings).toEqual([]);
    const other = withNetwork({
      ...pool({ Gateway: "10.99.7.9", IPRange: "10.99.7.128/25" }),
      Labels: { ...Labels, a: "b" },
    });
    const made = await deploy(other);
    expect([made.warnings, told(made)]).toEqual([
      [
        'network shop_n is never changed and keeps Labels.a nothing, not "b"; Gateway "10.99.7.1", not "10.99.7.9"; IPRange nothing, not "10.99.7.128/25": give it another name (name: …) in the file to have it made anew',
      ],
      ["keep network shop_n"],
    ]);
  });

  test("two new networks get subnets of their own", async () => {
    const networks = ["shop_a", "shop_b"].map((Name) => ({ Name, Driver: "overlay", Labels }));
    await deploy(model({ services: [], networks }));
    const subnets = networks.map(({ Name }) => ports.rows.networkByName(Name)?.subnet);
    expect(new Set(subnets).size).toBe(2);
  });

  test("revisions are kept, and one can be applied again without its data", async () => {
    const revision = (digest: string) =>
      model({
        services: [service("web", {}, { Secrets: [secretOf(`shop_key-${digest}`)] })],
        secrets: [{ Name: `shop_key-${digest}`, Labels }],
      });
    const dataOf = (digest: string) => ({
      data: { secrets: new Map([[`shop_key-${digest}`, btoa(digest)]]), configs: new Map() },
    });
    await deploy(revision("1"), dataOf("1"));
    await deploy(revision("2"), dataOf("2"));
    const [old] = stack().revisions;
    const back = await deploy(old?.model ?? expect.unreachable(), {
      repeats: 1,
      files: old?.files ?? [],
    });
    expect([back.revision, told(back)]).toEqual([
      3,
      ["keep network shop_default", "keep secret shop_key-1", "update service shop_web"],
    ]);
    expect(stack().revisions.map(({ number, repeats }) => [number, repeats])).toEqual([
      [1, undefined],
      [2, undefined],
      [3, 1],
    ]);
    expect(refusal(revision("9"))).toContain(
      "secret shop_key-9: it was removed since that revision",
    );
  });

  test("takes over what docker stack deploy has made, and refuses what is another's", async () => {
    await deploy(model());
    const before = stack().id;
    await ports.propose([{ type: "remove", table: "stack", id: before }]);
    const taken = await deploy(model());
    expect(told(taken)).toEqual(["update network shop_default", "keep service shop_web"]);
    expect(ports.rows.networkByName("shop_default")?.spec.Labels?.[STACK_ID_LABEL]).toBe(
      stack().id,
    );
    expect(stack().id).not.toBe(before);
    const { id, spec } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    await ports.propose([
      { type: "update", table: "service", id, set: { spec: { ...spec, Labels: {} } } },
    ]);
    expect(refusal(model())).toContain("service shop_web: it is there and not of stack shop");
  });

  test("the token stands for what is done and what it was planned from", async () => {
    await deploy(model());
    const next = model({ services: [service("web", {}, { Image: "lab:2" })] });
    const { token } = plan(next);
    expect(plan(next).token).toBe(token);
    expect(plan(model()).token).not.toBe(token);
    const { id, spec } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    // The allocator's work is no change.
    const endpoint = { specVersion: 1, mode: "vip" as const, ports: [], virtualIps: [] };
    await ports.propose([{ type: "update", table: "service", id, set: { endpoint } }]);
    expect(plan(next).token).toBe(token);
    await ports.propose([{ type: "update", table: "service", id, set: { spec } }]);
    expect(plan(next).token).not.toBe(token);
  });

  test("the token stands for all of what is made, also of what is new", () => {
    const tokens = [
      plan(model()),
      plan(model({ services: [service("web", {}, { Image: "evil" })] })),
      plan(model({ services: [service("web", {}, { Command: ["rm"] })] })),
      plan(
        model({ networks: [{ Name: "shop_default", Driver: "overlay", Internal: true, Labels }] }),
      ),
      plan(model(), { images: new Map([["shop_web", `lab@sha256:${"0".repeat(64)}`]]) }),
      plan(model(), { prune: false }),
    ].map(({ token }) => token);
    expect(new Set(tokens).size).toBe(tokens.length);
  });

  test("a tag that has moved is a revision, and the one before has the image of then", async () => {
    const pinned = (digit: string) => ({
      images: new Map([["shop_web", `lab@sha256:${digit.repeat(64)}`]]),
    });
    await deploy(model(), pinned("a"));
    expect((await deploy(model(), pinned("b"))).revision).toBe(2);
    const [old] = stack().revisions;
    await deploy(old?.model ?? expect.unreachable(), {
      repeats: 1,
      images: new Map(Object.entries(old?.images ?? {})),
    });
    const { spec } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    expect(spec.TaskTemplate.ContainerSpec.Image).toContain("a".repeat(64));
  });

  test.each([
    [{ Config: [{ Subnet: "10.99.7.0/24" }] }, { Config: [{ Subnet: "10.99.7.1/24" }] }],
    [{ Config: [{ Subnet: "FD00:9::0/64" }] }, { Config: [{ Subnet: "fd00:9::/64" }] }],
    [{ Config: [{ Subnet: "10.99.7.0/24" }, { Subnet: "fd00:9::/64" }] }, {}],
    [{ Config: [{}] }, {}],
    [{}, {}],
  ])("a network with IPAM %j is the same as one with %j", async (first, second) => {
    const withIpam = (IPAM: object) =>
      model({
        networks: [{ Name: "shop_default", Driver: "overlay", EnableIPv6: true, Labels, IPAM }],
      });
    await deploy(withIpam(first));
    expect(plan(withIpam(first)).isChange).toBe(false);
    expect(refusal(withIpam(second))).toBeUndefined();
    expect(refusal(withIpam({ Config: [{ Subnet: "10.99.8.0/24" }] }))).toContain(
      "a network is never changed, and Subnets is",
    );
  });

  test("an update that was given up is tried again", async () => {
    await deploy(model());
    const { id } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    const updateStatus = { state: "paused" as const, startedAtMs: 1, message: "update paused" };
    await ports.propose([{ type: "update", table: "service", id, set: { updateStatus } }]);
    const again = await deploy(model());
    expect(again.changes.at(-1)).toMatchObject({ action: "update", effect: "no longer paused" });
    expect(ports.rows.service(id)?.updateStatus).toBeUndefined();
    expect(plan(model()).isChange).toBe(false);
  });

  test("a change by hand is seen, and a forced update is none", async () => {
    await deploy(model());
    const { id, spec } = ports.rows.serviceByName("shop_web") ?? expect.unreachable();
    const byHand = (more: object) => ({ ...spec, TaskTemplate: { ...spec.TaskTemplate, ...more } });
    await ports.propose([
      { type: "update", table: "service", id, set: { spec: byHand({ ForceUpdate: 3 }) } },
    ]);
    expect(plan(model()).isChange).toBe(false);
    await ports.propose([
      {
        type: "update",
        table: "service",
        id,
        set: { spec: byHand({ ContainerSpec: { Image: "other" } }) },
      },
    ]);
    const drifted = await deploy(model());
    expect([told(drifted).at(-1), drifted.revision]).toEqual(["update service shop_web", 1]);
  });

  test.each([
    [
      "an unknown network",
      model({ networks: [] }),
      "service shop_web: network shop_default not found",
    ],
    [
      "externals that are not there",
      model({ externals: { networks: ["far"], secrets: ["s"], configs: [] } }),
      "declared as external and not there: network far, secret s",
    ],
    [
      "a bad constraint",
      model({
        services: [
          service("web", {
            TaskTemplate: { ContainerSpec: { Image: "a" }, Placement: { Constraints: ["x"] } },
          }),
        ],
      }),
      "service shop_web: ",
    ],
    [
      "a node's own driver",
      model({ networks: [{ Name: "shop_default", Driver: "bridge", Labels }] }),
      'network shop_default: driver "bridge" is a node\'s own',
    ],
  ])("refuses %s and proposes nothing", (_, given, text) => {
    expect(refusal(given)).toContain(text);
  });

  test("refuses while a manager does not know the object", () => {
    const old = makeNode("node2aaaaaaaaaaaaaaaaaaaa", "older", { role: "manager" });
    delete old.description?.knows;
    ports.put("node", old);
    expect(refusal(model())).toContain(
      "managers older run a version of shoal that knows no stacks",
    );
  });

  test("refuses to change a network, or the data of a secret that the file names", async () => {
    const wanted = model({ secrets: [{ Name: "fixed", Labels }] });
    const data = (text: string) => ({
      data: { secrets: new Map([["fixed", btoa(text)]]), configs: new Map() },
    });
    await deploy(wanted, data("a"));
    const internal = [{ Name: "shop_default", Driver: "overlay", Internal: true, Labels }];
    expect(refusal({ ...wanted, networks: internal }, data("a"))).toContain(
      "network shop_default: a network is never changed, and Internal is null where true is wanted",
    );
    expect(refusal(wanted, data("b"))).toContain("secret fixed: its data is other");
  });
});
