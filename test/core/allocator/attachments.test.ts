import { expect, test } from "bun:test";
import {
  ATTACHMENTS_PER_NODE_MAX,
  planAttachment,
  planDetachment,
} from "../../../core/allocator/attachments.ts";
import { seededRandom } from "../../../core/random.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import {
  applyNext,
  applyOrThrow,
  clusterDraft,
  create,
  networkDraft,
  nodeDraft,
} from "../store/objects.ts";

function withNetwork(subnet: string, Attachable = true) {
  const rows = createMemoryRows();
  const gateway = subnet.replace(/\d+\/\d+$/, "1");
  applyOrThrow(
    rows,
    create("cluster", clusterDraft()),
    create("node", nodeDraft("n1", 1)),
    create("network", networkDraft("net", { Attachable }, { subnet, gateway })),
  );
  const random = seededRandom(1);
  const attach = (name: string) => {
    const request = { nodeId: "n1", network: "net", name, aliases: [] };
    const { object } = planAttachment(rows, request, random);
    applyOrThrow(rows, create("attachment", object));
    return object;
  };
  return { rows, attach };
}

test("containers on a network of a local driver get no address, and share one attachment a node", () => {
  const { rows } = withNetwork("10.9.0.0/29");
  applyOrThrow(
    rows,
    create("node", nodeDraft("n2", 2)),
    create("network", networkDraft("mv", { Driver: "macvlan", Attachable: true })),
  );
  const random = seededRandom(1);
  const ids = ["n1", "n1", "n2"].map((nodeId) => {
    const request = { nodeId, network: "mv", name: "c", aliases: [] };
    const { object, isNew } = planAttachment(rows, request, random);
    expect(object.address).toBe("");
    if (isNew) applyOrThrow(rows, create("attachment", object));
    return object.id;
  });
  expect(ids[0]).toBe(ids[1] ?? "");
  expect(
    rows
      .attachments()
      .map(({ nodeId }) => nodeId)
      .sort(),
  ).toEqual(["n1", "n2"]);
});

test("each container gets an address of its own, until there is none", () => {
  const { attach } = withNetwork("10.9.0.0/29");
  const addresses = Array.from({ length: 5 }, (_, i) => attach(`c${i}`).address);
  expect(new Set(addresses).size).toBe(5);
  expect(addresses).not.toContain("10.9.0.1");
  expect(() => attach("c6")).toThrow("could not find an available IP");
});

test("the address that a user wants is given, unless it is taken or nobody can have it", () => {
  const { rows } = withNetwork("10.9.0.0/24");
  const ask = (address: string) =>
    planAttachment(
      rows,
      { nodeId: "n1", network: "net", name: "c", aliases: [], address },
      seededRandom(1),
    ).object;
  const given = ask("10.9.0.77");
  expect(given.address).toBe("10.9.0.77");
  applyOrThrow(rows, create("attachment", given));
  expect(() => ask("10.9.0.77")).toThrow("Address already in use: 10.9.0.77");
  expect(() => ask("10.9.0.1")).toThrow("it is the gateway's");
  expect(() => ask("10.9.0.255")).toThrow("it is none of 10.9.0.0/24");
  expect(() => ask("nonsense")).toThrow("it is none of 10.9.0.0/24");
});

test("a network that is unknown, or not attachable, is refused", () => {
  const { rows, attach } = withNetwork("10.9.0.0/24", false);
  expect(() => attach("c")).toThrow("not manually attachable");
  const request = { nodeId: "n1", network: "other", name: "c", aliases: [] };
  expect(() => planAttachment(rows, request, seededRandom(1))).toThrow("network other not found");
});

test("one node cannot take everything", () => {
  const { attach } = withNetwork("10.9.0.0/16");
  for (let i = 0; i < ATTACHMENTS_PER_NODE_MAX; i++) attach(`c${i}`);
  expect(() => attach("more")).toThrow("hold 1000 addresses already");
});

test("its network stays, and an address is not given twice", () => {
  const { rows, attach } = withNetwork("10.9.0.0/24");
  const held = attach("db");
  const refused = applyNext(rows, [{ type: "remove", table: "network", id: "net" }]).outcome;
  expect(refused).toMatchObject({ code: "in-use" });
  expect(JSON.stringify(refused)).toContain("in use by container db of node n1");
  const twice = applyNext(rows, [create("attachment", { ...held, id: "other" })]).outcome;
  expect(twice).toMatchObject({ type: "refused", code: "failed-precondition" });
});

test("what containers of a removed node hold is given back", () => {
  const { rows, attach } = withNetwork("10.9.0.0/24");
  attach("db");
  const input = { view: rows, nowMs: 0, random: seededRandom(1) };
  expect(planDetachment(input).actions).toEqual([]);
  applyOrThrow(rows, { type: "remove", table: "node", id: "n1" });
  applyOrThrow(rows, ...planDetachment(input).actions);
  expect(rows.attachments()).toEqual([]);
});

test("a node that cannot encrypt gets no address on an encrypted network, and is told why", () => {
  const { rows } = withNetwork("10.9.0.0/29");
  const spec = { Attachable: true, Options: { encrypted: "" } };
  const block = { subnet: "10.8.0.0/29", gateway: "10.8.0.1" };
  applyOrThrow(rows, create("network", networkDraft("secret", spec, block)));
  const request = { nodeId: "n1", network: "secret", name: "c", aliases: [] };
  const says = (lack?: string) => {
    const encryption = { generations: [], keyIds: [], ...(lack === undefined ? {} : { lack }) };
    applyOrThrow(rows, { type: "update", table: "node", id: "n1", set: { encryption } });
  };
  const attach = () => planAttachment(rows, request, seededRandom(1)).object.address;
  says("kernel lacks ESP: load module esp4");
  expect(attach).toThrow(
    "Could not attach to network secret: it is encrypted, and this node cannot encrypt (kernel lacks ESP: load module esp4)",
  );
  says();
  expect(attach()).toBe("10.8.0.2");
});
