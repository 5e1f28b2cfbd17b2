import { describe, expect, test } from "bun:test";
import { decodeProposal } from "../../../core/protocol.ts";
import { seededRandom } from "../../../core/random.ts";
import { cutPlan } from "../../../core/store/worker-leader.ts";
import { create, secretDraft } from "./objects.ts";

const secrets = (count: number, dataBytes: number) =>
  Array.from({ length: count }, (_, i) => {
    const draft = secretDraft(`x${i}`);
    return create("secret", { ...draft, spec: { ...draft.spec, Data: "A".repeat(dataBytes) } });
  });
const cut = (count: number, dataBytes: number) =>
  cutPlan(secrets(count, dataBytes), 7, seededRandom(1)).map(({ id, data }) => {
    const proposal = decodeProposal(data);
    expect(proposal).toMatchObject({ id, atMs: 7, mode: "each" });
    return {
      bytes: data.length,
      ids: proposal.actions.map((a) => a.type === "create" && a.object.id),
    };
  });

describe("cutPlan()", () => {
  test("puts 200 actions into a proposal, in order", () => {
    const proposals = cut(450, 1);
    expect(proposals.map(({ ids }) => ids.length)).toEqual([200, 200, 50]);
    expect(proposals.flatMap(({ ids }) => ids)).toEqual(secrets(450, 1).map((a) => a.object.id));
  });

  test("cuts proposals of more than a megabyte, down to one action", () => {
    const proposals = cut(5, 400_000);
    expect(proposals.flatMap(({ ids }) => ids)).toEqual(["x0", "x1", "x2", "x3", "x4"]);
    for (const { bytes } of proposals) expect(bytes).toBeLessThanOrEqual(1024 * 1024);
    expect(cut(2, 3_000_000).map(({ ids }) => ids)).toEqual([["x0"], ["x1"]]);
  });

  test("leaves what is too much for the next round", () => {
    expect(cut(10_000, 1)).toHaveLength(32);
    expect(cut(40, 900_000).length).toBeLessThan(20);
  });
});
