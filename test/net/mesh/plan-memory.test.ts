/** Plans that are patched are the plans that are made anew, and so are the steps between them. */
import { describe, expect, test } from "bun:test";
import { changedRouting, diffRouting, wantedRouting } from "../../../net/mesh/diff.ts";
import {
  iptablesChangeText,
  leafChains,
  renderIptables,
} from "../../../net/mesh/iptables-rules.ts";
import { diffIpvs, ipvsMarks, renderIpvs } from "../../../net/mesh/ipvs-services.ts";
import { nftChange, nftPlanChange } from "../../../net/mesh/nft-change.ts";
import {
  createPlanMemory,
  type FilterPlan,
  type MeshPlan,
  planMesh,
} from "../../../net/mesh/plan.ts";
import { changedParts, membershipOf } from "../../../net/mesh/plan-change.ts";
import { changedEntries, seenEntries } from "../../../net/mesh/plan-memory.ts";
import { renderNftTable } from "../../../net/mesh/render.ts";
import type { MeshTable } from "../../../net/mesh/table.ts";
import { changingTable } from "./random-change.ts";
import { seededRandom } from "./random-plan.ts";

const SEEDS = Array.from({ length: 16 }, (_, seed) => seed);
const CHANGES = 50;
const COMMANDS_MAX = 1_000_000;
const TIMEOUT_MS = 30_000;

/** The same table, as if its services and tasks had come in another order. */
function reversed(table: MeshTable): MeshTable {
  return {
    ...table,
    services: new Map([...table.services].reverse()),
    endpoints: new Map([...table.endpoints].reverse()),
  };
}

function expectSame(plan: MeshPlan | undefined, wanted: MeshPlan | undefined): void {
  // The text says nothing of where it differs; most of the time it does not.
  if (JSON.stringify(plan) === JSON.stringify(wanted)) return;
  expect(plan).toEqual(wanted);
  expect(JSON.stringify(plan)).toBe(JSON.stringify(wanted));
}

function expectSameSteps(before: FilterPlan, after: FilterPlan): void {
  expect(nftPlanChange(before, after, COMMANDS_MAX)).toEqual(
    nftChange(renderNftTable(before), renderNftTable(after), COMMANDS_MAX),
  );
  const parts = changedParts(before, after);
  if (before.family === "ipv4") {
    const [markBefore, markAfter] = [ipvsMarks(before), ipvsMarks(after)];
    expect(
      diffIpvs("ipv4", renderIpvs(parts.before, markBefore), renderIpvs(parts.after, markAfter)),
    ).toEqual(diffIpvs("ipv4", renderIpvs(before, markBefore), renderIpvs(after, markAfter)));
  }
  if (!Bun.deepEquals(membershipOf(parts.before), membershipOf(parts.after))) return;
  const features = { balancer: "nat", hasZones: true, hasCluster: true } as const;
  const leaves = (plan: FilterPlan) => leafChains(renderIptables(plan, features), "SH-");
  expect(iptablesChangeText(leaves(parts.before), leaves(parts.after))).toBe(
    iptablesChangeText(renderIptables(before, features), renderIptables(after, features)),
  );
}

describe("a plan made with the memory of those before", () => {
  test(
    "is, byte for byte, the one made without, whatever changes in whichever order",
    () => {
      let patched = 0;
      for (const seed of SEEDS) {
        const changing = changingTable(seed);
        const memory = createPlanMemory();
        for (let count = 0; count < CHANGES; count += 1) {
          const { table, present, options } = changing;
          const fixed = memory.last?.fixed;
          const plan = planMesh(table, present, options, memory);
          if (fixed !== undefined && memory.last?.fixed === fixed) patched += 1;
          expectSame(plan, planMesh(table, present, options));
          expectSame(plan, planMesh(reversed(table), present, options));
          changing.change();
        }
      }
      // Else this would say nothing.
      expect(patched).toBeGreaterThan((SEEDS.length * CHANGES) / 2);
    },
    TIMEOUT_MS,
  );

  test("leaves the one before as it was", () => {
    for (const seed of SEEDS.slice(0, 6)) {
      const changing = changingTable(seed);
      const memory = createPlanMemory();
      const made: { plan: MeshPlan | undefined; text: string }[] = [];
      for (let count = 0; count < CHANGES; count += 1) {
        const plan = planMesh(changing.table, changing.present, changing.options, memory);
        made.push({ plan, text: JSON.stringify(plan) });
        changing.change();
      }
      for (const { plan, text } of made) expect(JSON.stringify(plan)).toBe(text);
    }
  });

  test(
    "leads to the same steps as the whole of both",
    () => {
      for (const seed of SEEDS) {
        const changing = changingTable(1_000 + seed);
        const memory = createPlanMemory();
        let before: MeshPlan | undefined;
        for (let count = 0; count < CHANGES; count += 1) {
          const after = planMesh(changing.table, changing.present, changing.options, memory);
          if (before && after) {
            const step = changedRouting(before, after);
            expect(diffRouting(step.plan, step.found)).toEqual(
              diffRouting(after, wantedRouting(before)),
            );
            expectSameSteps(before.filter, after.filter);
            if (before.filter6 && after.filter6) expectSameSteps(before.filter6, after.filter6);
          }
          before = after;
          changing.change();
        }
      }
    },
    TIMEOUT_MS,
  );

  test("is the same object while nothing changes", () => {
    const { table, present, options } = changingTable(1);
    const memory = createPlanMemory();
    const plan = planMesh(table, present, options, memory);
    expect(planMesh(table, new Set(present), { ...options }, memory)).toBe(plan);
    expect(planMesh(reversed(table), present, options, memory)).toBe(plan);
  });
});

test("changed entries are found in a map that was changed in place, and in any other", () => {
  const random = seededRandom(5);
  const map = new Map<string, object>();
  for (let count = 0; count < 300; count += 1) {
    const seen = seenEntries(map);
    const before = new Map(map);
    for (let step = Math.floor(random() * 5); step > 0; step -= 1) {
      const key = `key${Math.floor(random() * 20)}`;
      const entry = map.get(key);
      if (random() < 0.4) map.delete(key);
      if (random() < 0.7) map.set(key, entry && random() < 0.3 ? entry : {});
    }
    const wanted = [...new Set([...before.keys(), ...map.keys()])]
      .filter((key) => before.get(key) !== map.get(key))
      .map((key) => ({ key, before: before.get(key), after: map.get(key) }));
    for (const some of [map, new Map([...map].reverse())]) {
      const changes = changedEntries(seen, some).toSorted((a, b) => (a.key < b.key ? -1 : 1));
      expect(changes.map(({ key }) => key)).toEqual(wanted.map(({ key }) => key).sort());
      for (const { key, before: old, after } of changes) {
        expect(old).toBe(before.get(key));
        expect(after).toBe(map.get(key));
      }
    }
  }
});
