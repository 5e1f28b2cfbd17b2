import { afterEach, beforeEach, expect, test } from "bun:test";
import { isShoalPath } from "../../../agent/api/paths.ts";
import { NET1_ID } from "./fake-ports.ts";
import { type ApiLab, createLab } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const ask = async (filters: unknown) => {
  const query = encodeURIComponent(JSON.stringify(filters));
  await lab.call("GET", `/v1.41/containers/json?all=1&filters=${query}`);
  const url = new URL(`http://x${lab.engine.requests.at(-1)?.slice("GET ".length) ?? ""}`);
  return { path: url.pathname, ...JSON.parse(url.searchParams.get("filters") ?? "{}") };
};

test("is-task=true asks for the label of tasks' containers", async () => {
  expect(await ask({ "is-task": ["true"], label: ["a=b"], name: { x: true } })).toEqual({
    path: "/v1.41/containers/json",
    name: ["x"],
    label: ["a=b", "shoal.task.id"],
  });
});

test("is-task=false asks for all of them", async () => {
  expect(await ask({ "is-task": { false: true } })).toEqual({
    path: "/v1.41/containers/json",
  });
});

test("a network of the cluster may be given by its id", async () => {
  lab.engine.networks.push({ Name: "net1", Id: "b1", Labels: { "shoal.network.id": NET1_ID } });
  const refs = [NET1_ID, NET1_ID.slice(0, 12), "net1", "own"];
  expect(await ask({ network: refs })).toMatchObject({ network: ["net1", "net1", "net1", "own"] });
});

test("a word that is neither is the engine's to refuse", async () => {
  expect(await ask({ "is-task": ["maybe"] })).toMatchObject({ "is-task": ["maybe"] });
});

test("other lists go to the engine as they are", () => {
  expect(isShoalPath("GET", "/v1.41/containers/json?all=1")).toBe(false);
  expect(
    isShoalPath("GET", "/containers/json?filters=%7B%22is-task%22%3A%5B%22true%22%5D%7D"),
  ).toBe(true);
});
