import { afterEach, beforeEach, expect, test } from "bun:test";
import { NET1_ID } from "./fake-ports.ts";
import { type ApiLab, at, createLab } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const prune = (filters?: unknown) =>
  lab.call(
    "POST",
    `/networks/prune${filters === undefined ? "" : `?filters=${encodeURIComponent(typeof filters === "string" ? filters : JSON.stringify(filters))}`}`,
  );
const asked = () => {
  const request = lab.engine.requests.findLast((line) => line.startsWith("POST /networks/prune"));
  const url = new URL(`http://x${request?.slice("POST ".length) ?? ""}`);
  const text = url.searchParams.get("filters") ?? "{}";
  return text.startsWith("{") ? JSON.parse(text) : text;
};
const clusterNames = () => lab.ports.rows.networks().map(({ spec }) => spec.Name);

test("removes the cluster's networks that nobody uses, and never ingress", async () => {
  const { status, body } = await prune();
  expect([status, at(body, "NetworksDeleted")]).toEqual([200, ["net1"]]);
  expect(clusterNames()).toContain("ingress");
  expect(clusterNames()).not.toContain("net1");
});

test.each([
  [undefined, { "label!": ["shoal.network.id"] }],
  [{ until: ["24h"] }, { until: ["24h"], "label!": ["shoal.network.id"] }],
  [{ label: { a: true } }, { label: ["a"], "label!": ["shoal.network.id"] }],
])("with filters %j the engine leaves the cluster's bridges alone", async (filters, passed) => {
  await prune(filters);
  expect(asked()).toEqual(passed);
});

test.each([{ label: ["keep"] }, { until: ["24h"] }])(
  "%j holds for the cluster's",
  async (filters) => {
    await prune(filters);
    expect(clusterNames()).toContain("net1");
  },
);

test("with label! the engine's are removed one by one, since it would want all labels at once", async () => {
  const Created = "2020-01-01T00:00:00Z";
  lab.engine.networks.push(
    { Name: "own", Id: "own1", Created, Labels: {} },
    { Name: "kept", Id: "own2", Created, Labels: { keep: "" } },
    { Name: "net1", Id: "br1", Created, Labels: { "shoal.network.id": NET1_ID } },
    { Name: "cfg", Id: "own3", Created, ConfigOnly: true, Labels: {} },
  );
  await prune({ "label!": { keep: true } });
  const deleted = lab.engine.requests.filter((line) => line.startsWith("DELETE "));
  expect(deleted).toEqual(["DELETE /networks/own1"]);
});

test.each([
  ["nonsense", "nonsense"],
  [{ nosuch: ["x"] }, { nosuch: ["x"] }],
  [{ until: ["soon"] }, { until: ["soon"], "label!": ["shoal.network.id"] }],
])("%j is the engine's to refuse", async (filters, passed) => {
  await prune(filters);
  expect(asked()).toEqual(passed);
  expect(clusterNames()).toContain("net1");
});
