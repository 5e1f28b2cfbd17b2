import { describe, expect, test } from "bun:test";
import type { CommandResult, RunCommand } from "../../../net/mesh/backend.ts";
import { nftablesBackend } from "../../../net/mesh/nftables.ts";
import { type FilterPlan, planMesh } from "../../../net/mesh/plan.ts";
import { labEndpoint, labTable } from "./lab-state.ts";

const OK: CommandResult = { code: 0, stdout: "", stderr: "" };

function filterOf(prepare?: (table: ReturnType<typeof labTable>) => void): FilterPlan {
  const table = labTable(1);
  prepare?.(table);
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("no plan");
  return plan.filter;
}
const drained = () =>
  filterOf((table) => {
    const web2 = { name: "web2", service: "web", node: 2, legs: { netA: "10.101.0.22" } };
    table.endpoints.set("endpoint/task-web2", labEndpoint(web2, false));
  });

/** An nft that remembers transactions; `listed` is what it prints as the table. */
function fakeNft() {
  const state = { transactions: [] as string[], failures: 0, listed: "a", isGone: false };
  const run: RunCommand = async (argv, stdin) => {
    const line = argv.join(" ");
    if (line === "nft -f -") {
      if (state.failures > 0) {
        state.failures -= 1;
        return { ...OK, code: 1, stderr: "Error: busy" };
      }
      state.transactions.push(stdin ?? "");
      state.isGone = false;
      return OK;
    }
    if (state.isGone) return { ...OK, code: 1 };
    return { ...OK, stdout: line.includes("list table") ? state.listed : "" };
  };
  return { state, backend: nftablesBackend(run) };
}
const isWhole = (text: string | undefined) => text?.startsWith("table inet shoal\ndelete table");

describe("nftables back-end", () => {
  test("the first apply replaces the table, later ones change it, none does nothing", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    await backend.apply(drained());
    await backend.apply(drained());
    expect(state.transactions).toHaveLength(2);
    expect(isWhole(state.transactions[0])).toBeTrue();
    expect(state.transactions[1]).toStartWith("flush chain inet shoal ");
  });

  test("a change that the kernel refuses becomes a replacement", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    state.failures = 1;
    await backend.apply(drained());
    expect(state.transactions).toHaveLength(2);
    expect(isWhole(state.transactions[1])).toBeTrue();
  });

  test("a failure is told, and the next apply says everything again", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    state.failures = 2;
    expect(await backend.apply(drained()).catch(String)).toContain(
      "Cannot program nftables: Error: busy",
    );
    await backend.apply(drained());
    expect(isWhole(state.transactions[1])).toBeTrue();
  });

  test("a table that is gone or was changed is replaced, an own change is not drift", async () => {
    const { state, backend } = fakeNft();
    expect(await backend.mend()).toBeFalse();
    await backend.apply(filterOf());
    expect(await backend.mend()).toBeFalse();
    await backend.apply(drained());
    state.listed = "b";
    expect(await backend.mend()).toBeFalse();
    state.isGone = true;
    expect(await backend.mend()).toBeTrue();
    expect(isWhole(state.transactions.at(-1))).toBeTrue();
    expect(await backend.mend()).toBeFalse();
  });
});
