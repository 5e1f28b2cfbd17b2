import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { diffRouting } from "../../../net/mesh/diff.ts";
import { type MeshPlan, planMesh } from "../../../net/mesh/plan.ts";
import { nftChange, nftChangesText } from "../../../net/mesh/nft-change.ts";
import { type NftTable, nftTableText, renderNftTable } from "../../../net/mesh/render.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "./ipv6-lab.ts";
import { LAB_TASKS, labEndpoint, labTable, taskId } from "./lab-state.ts";

/** UPDATE_GOLDEN=1 writes the files anew; look at the difference before you commit it. */
const isUpdate = process.env["UPDATE_GOLDEN"] === "1";
const NONE = { link: undefined, mtu: 0 } as const;

function expectGolden(name: string, text: string): void {
  const path = join(import.meta.dir, `${name}.golden`);
  if (isUpdate || !existsSync(path)) writeFileSync(path, text);
  expect(text).toBe(readFileSync(path, "utf8"));
}

function planOf(table: MeshTable): MeshPlan {
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "increment",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("The table makes no plan");
  return plan;
}

function nftChangeText(before: NftTable, after: NftTable): string | undefined {
  const change = nftChange(before, after, 100);
  return change && nftChangesText([change]);
}

const empty = () => new Map<string, string>();

describe("rendered text", () => {
  test.each([1, 3])("nft table of node %d is as in the golden file", (node) => {
    expectGolden(`node${node}.nft`, nftTableText(renderNftTable(planOf(labTable(node)).filter)));
  });

  test("nft table of IPv6 on node 1 is as in the golden file", () => {
    const table = emptyTable();
    applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });
    const { filter6 } = planOf(table);
    if (!filter6) throw new Error("no IPv6");
    const text = nftTableText(renderNftTable(filter6));
    expectGolden("node1.nft6", text);
    // Nothing of the other family, but for the tunnel's peers by their MAC addresses.
    expect(text).not.toMatch(/\d+\.\d+\.\d+\.\d+|\bip (s|d)addr|ipv4/);
  });

  test.each([1, 3])("ip, bridge and sysctl lines of node %d are as in the golden file", (node) => {
    const plan = planOf(labTable(node));
    const steps = diffRouting(plan, {
      ...NONE,
      addresses: empty(),
      neighbours: empty(),
      forwarding: empty(),
      routes: empty(),
      rules: empty(),
    });
    const sysctls = plan.sysctls.map(({ key, value }) => `${key}=${value}`);
    expectGolden(
      `node${node}.ip`,
      [...steps.ip, ...steps.bridge, ...sysctls, ...steps.ipLast, ...steps.bridgeLast, ""].join(
        "\n",
      ),
    );
  });

  test("a task that leaves the balance changes its chains only", () => {
    const table = labTable(1);
    const before = renderNftTable(planOf(table).filter);
    const web2 = LAB_TASKS.find((task) => task.name === "web2");
    if (!web2) throw new Error("no web2");
    table.endpoints.set(`endpoint/${taskId("web2")}`, labEndpoint(web2, false));
    const change = nftChangeText(before, renderNftTable(planOf(table).filter));
    expectGolden("drain", change ?? "whole table");
  });

  test("a service without ready tasks moves from the map to the dead", () => {
    const table = labTable(1);
    const before = renderNftTable(planOf(table).filter);
    table.endpoints.delete(`endpoint/${taskId("far3")}`);
    const change = nftChangeText(before, renderNftTable(planOf(table).filter));
    expectGolden("gone", change ?? "whole table");
  });

  test("no change gives no command, another hooked chain or network the whole table", () => {
    const table = labTable(1);
    const before = renderNftTable(planOf(table).filter);
    expect(nftChangeText(before, renderNftTable(planOf(labTable(1)).filter))).toBe("");
    table.networks.delete("network/id-netC");
    expect(nftChangeText(before, renderNftTable(planOf(table).filter))).toBeUndefined();
    const withoutBridges = { ...planOf(labTable(1)).filter, hasBrNetfilter: false };
    expect(nftChangeText(before, renderNftTable(withoutBridges))).toBeUndefined();
  });
});
