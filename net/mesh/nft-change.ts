/**
 * Two tables of nft → what turns the one into the other in one transaction. Pure.
 *
 * A change is a list of element changes, with commands before and after them where chains come or go.
 * Most changes are elements only; those can be told to the kernel without the tool (`nft-netlink.ts`),
 * and any change can be told to the tool (`nftChangeText`).
 */
import { type NftElementChange, nftElementText } from "./nft-elements.ts";
import type { FilterPlan } from "./plan.ts";
import { changedParts } from "./plan-change.ts";
import {
  type NftFeatures,
  type NftTable,
  nftTableName,
  renderNftTable,
  spreadChains,
} from "./render.ts";

export type NftChange = {
  /** Lines for the tool that must come first: chains that elements lead to, or a whole table. */
  before: readonly string[];
  elements: readonly NftElementChange[];
  /** Lines for chains to which no element leads any more. */
  after: readonly string[];
};

export const NO_NFT_CHANGE: NftChange = { before: [], elements: [], after: [] };

/** A change that is known as text for the tool only, such as a whole table. */
export function textNftChange(text: string): NftChange {
  return { before: [text.trimEnd()], elements: [], after: [] };
}

export function isNftChangeEmpty({ before, elements, after }: NftChange): boolean {
  return before.length + elements.length + after.length === 0;
}

/** Several changes in one transaction, in this order. */
export function nftChangesText(changes: readonly NftChange[]): string {
  const lines = changes.flatMap(({ before, elements, after }) => [
    ...before,
    ...elements.map(elementLine),
    ...after,
  ]);
  return lines.map((line) => `${line}\n`).join("");
}

function elementLine({ kind, family, set, elements }: NftElementChange): string {
  const list = elements.map(nftElementText).join(", ");
  return `${kind} element ${nftTableName(family)} ${set} { ${list} }`;
}

/** As `nftChange` of both plans' tables, at the cost of what differs. */
export function nftPlanChange(
  before: FilterPlan,
  after: FilterPlan,
  commandsMax: number,
  features?: NftFeatures,
): NftChange | undefined {
  const parts = changedParts(before, after);
  const left = renderNftTable(parts.before, features);
  const right = renderNftTable(parts.after, features);
  if (!isSameChains(left.chains, right.chains)) {
    // Entries that are the same in both plans may need those chains, too.
    left.chains = spreadChains(before);
    right.chains = spreadChains(after);
  }
  return nftChange(left, right, commandsMax);
}

function isSameChains(a: NftTable["chains"], b: NftTable["chains"]): boolean {
  return a.size === b.size && [...a].every(([name, rule]) => b.get(name) === rule);
}

/**
 * What turns `before` into `after`: empty when nothing changed, undefined when only the whole table
 * will do (hooked chains or an interval set changed, or the change is larger than `commandsMax`).
 */
export function nftChange(
  before: NftTable,
  after: NftTable,
  commandsMax: number,
): NftChange | undefined {
  if (before.family !== after.family || before.fixed !== after.fixed) return undefined;
  if (before.sets.length !== after.sets.length) return undefined;
  const elements = elementChanges(before, after, commandsMax);
  if (!elements) return undefined;
  const change = { before: chainLines(before, after), elements, after: goneLines(before, after) };
  const { length } = [...change.before, ...elements, ...change.after];
  return length > commandsMax ? undefined : change;
}

function chainLines(before: NftTable, after: NftTable): string[] {
  const name = nftTableName(after.family);
  return [...after.chains].flatMap(([chain, rule]) => {
    const old = before.chains.get(chain);
    if (old === rule) return [];
    return [
      old === undefined ? `add chain ${name} ${chain}` : `flush chain ${name} ${chain}`,
      // One line for one rule: the statements of a published port are two rules.
      ...rule
        .split("; ")
        .filter((part) => part !== "")
        .map((part) => `add rule ${name} ${chain} ${part}`),
    ];
  });
}

function goneLines(before: NftTable, after: NftTable): string[] {
  const name = nftTableName(after.family);
  return [...before.chains.keys()]
    .filter((chain) => !after.chains.has(chain))
    .flatMap((chain) => [`flush chain ${name} ${chain}`, `delete chain ${name} ${chain}`]);
}

/** What leaves before what comes: a key that gets another value does both. */
function elementChanges(
  before: NftTable,
  after: NftTable,
  elementsMax: number,
): NftElementChange[] | undefined {
  const { family } = after;
  const removed: NftElementChange[] = [];
  const added: NftElementChange[] = [];
  for (const [place, set] of after.sets.entries()) {
    const old = before.sets[place];
    if (old?.name !== set.name || old.declaration !== set.declaration) return undefined;
    const gone = missingIn(set.elements, old.elements);
    const fresh = missingIn(old.elements, set.elements);
    if (gone.length + fresh.length === 0) continue;
    const { name, shape } = set;
    if (shape === undefined || gone.length + fresh.length > elementsMax) return undefined;
    if (gone.length > 0) removed.push({ kind: "delete", family, set: name, shape, elements: gone });
    if (fresh.length > 0) added.push({ kind: "add", family, set: name, shape, elements: fresh });
  }
  return [...removed, ...added];
}

type Elements = NftTable["sets"][number]["elements"];

function missingIn(known: Elements, elements: Elements) {
  return [...elements].filter(([key, value]) => !known.has(key) || known.get(key) !== value);
}
