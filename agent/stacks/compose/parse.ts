/**
 * YAML 1.2 with merge keys (`<<`) to nodes with places. Texts such as `22:22` and `yes` stay texts; numbers
 * are read as docker's YAML reads them, so that `0440` is octal. Pure.
 *
 * Bounds: depth, and the number of nodes after aliases were expanded, so that a small file cannot become a
 * huge tree.
 */
import {
  type Alias,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
} from "yaml";
import type { ComposeFile } from "./model.ts";
import type { Mapping, Node, Place } from "./node.ts";
import { NUL, NUL_PROBLEM, type Report, refuseText } from "./report.ts";

const DEPTH_MAX = 60;
const NODES_MAX = 200_000;
/** Of all values; aliases count each time. */
const TEXT_LENGTH_MAX = 8 * 1024 * 1024;
/** Of a file: the first one makes others. */
const YAML_ERRORS_MAX = 3;
const MERGE_KEY = "<<";

type Parsing = {
  report: Report;
  targets: ReadonlyMap<Alias, unknown>;
  placeOf(offset: number | undefined): Place;
  nodeCount: number;
  textLength: number;
  /** Told once; the rest of the file is not read then. */
  isTooLarge: boolean;
};

/** The file's top map; `undefined` when it is none, which is reported. */
export function parseFile(report: Report, { name: file, text }: ComposeFile): Mapping | undefined {
  const lines = new LineCounter();
  const document = parseText(text, lines);
  if (!document) {
    refuseText(report, undefined, `${file}: not readable as YAML: it is nested too deep`);
    return undefined;
  }
  const placeOf = (offset = 0): Place => {
    const { line, col } = lines.linePos(offset);
    return { file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  const errors = [...document.errors, ...document.warnings.filter(isUnknownTag)];
  for (const error of errors.slice(0, YAML_ERRORS_MAX)) {
    refuseText(report, placeOf(error.pos[0]), `not readable as YAML: ${error.message}`);
  }
  if (document.errors.length > 0) return undefined;
  const parsing: Parsing = {
    report,
    targets: aliasTargets(document),
    placeOf,
    nodeCount: 0,
    textLength: 0,
    isTooLarge: false,
  };
  const top = toNode(parsing, document.contents, "", 0);
  if (parsing.isTooLarge) return undefined;
  if (top?.kind === "map") return top;
  refuseText(report, placeOf(0), "there is no map with services: write `services:` at its top");
  return undefined;
}

function parseText(text: string, lineCounter: LineCounter): Document | undefined {
  const options = { merge: true, version: "1.2", prettyErrors: false } as const;
  try {
    return parseDocument(text, { ...options, lineCounter });
  } catch (error) {
    // Of the stack: the parser is recursive.
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/**
 * Found once, in the order of the file, since an anchor may be given again: the library looks through the whole
 * file for each alias, and copies the path to each node that it visits.
 */
function aliasTargets(document: Document): Map<Alias, unknown> {
  const anchored = new Map<string, unknown>();
  const targets = new Map<Alias, unknown>();
  const open: unknown[] = [document.contents];
  while (open.length > 0) {
    const node = open.pop();
    if (isAlias(node)) {
      const target = anchored.get(node.source);
      if (target !== undefined) targets.set(node, target);
      continue;
    }
    const isCollection = isMap(node) || isSeq(node);
    if ((isCollection || isScalar(node)) && node.anchor) anchored.set(node.anchor, node);
    const below = isMap(node) ? node.items.flatMap(({ key, value }) => [key, value]) : [];
    for (const child of isSeq(node) ? node.items.toReversed() : below.reverse()) open.push(child);
  }
  return targets;
}

function isUnknownTag({ message }: { message: string }): boolean {
  return !/!(?:override|reset)\b/.test(message);
}

function toNode(parsing: Parsing, given: unknown, path: string, depth: number): Node | undefined {
  const place = parsing.placeOf(rangeOf(given));
  if (depth > DEPTH_MAX || ++parsing.nodeCount > NODES_MAX) {
    if (!parsing.isTooLarge) {
      const why = depth > DEPTH_MAX ? `deeper than ${DEPTH_MAX}` : `more than ${NODES_MAX} values`;
      refuseText(parsing.report, place, `${path}: ${why}, with its aliases: make it smaller`);
    }
    parsing.isTooLarge = true;
    return undefined;
  }
  if (isAlias(given)) {
    const target = parsing.targets.get(given);
    if (target) return toNode(parsing, target, path, depth + 1);
    refuseText(parsing.report, place, `${path}: there is no anchor &${given.source} before it`);
    return undefined;
  }
  const common = { at: place, path, ...tagOf(given) };
  if (isMap(given)) {
    const entries = new Map<string, Node>();
    const inherited = new Map<string, Node>();
    for (const pair of given.items) {
      const keyAt = parsing.placeOf(rangeOf(pair.key));
      const key = keyText(parsing, pair.key);
      if (key === undefined) {
        refuseText(parsing.report, keyAt, `${path}: a key is a map or a list: write a text`);
        continue;
      }
      if (key.includes(NUL))
        refuseText(parsing.report, keyAt, `${path}: a key has a NUL: remove it`);
      if (key === MERGE_KEY && isPlain(pair.key)) {
        for (const [name, node] of mergedEntries(parsing, pair.value, path, depth + 1)) {
          if (!inherited.has(name)) inherited.set(name, node);
        }
        continue;
      }
      const child = toNode(parsing, pair.value, path === "" ? key : `${path}.${key}`, depth + 1);
      if (parsing.isTooLarge) return undefined;
      if (child) entries.set(key, { ...child, keyAt });
    }
    for (const [name, node] of inherited) if (!entries.has(name)) entries.set(name, node);
    return { ...common, kind: "map", entries };
  }
  if (isSeq(given)) {
    const items: Node[] = [];
    for (const [index, item] of given.items.entries()) {
      const child = toNode(parsing, item, `${path}[${index}]`, depth + 1);
      if (parsing.isTooLarge) return undefined;
      if (child) items.push(child);
    }
    return { ...common, kind: "list", items };
  }
  const value = isScalar(given) ? given.value : null;
  if (typeof value === "object" && value !== null) {
    const tag = isScalar(given) ? given.tag : "";
    refuseText(parsing.report, place, `${path}: ${tag} has no meaning here: remove the tag`);
  }
  const source = isScalar(given) && isPlain(given) ? (given.source ?? "") : undefined;
  const scalar = scalarValue(value, source);
  if (typeof scalar.value === "string" && scalar.value.includes(NUL)) {
    refuseText(parsing.report, place, `${path}: ${NUL_PROBLEM}`);
  }
  parsing.textLength += scalar.text.length;
  if (parsing.textLength > TEXT_LENGTH_MAX) {
    if (!parsing.isTooLarge) {
      const why = `more than ${TEXT_LENGTH_MAX} characters of values`;
      refuseText(parsing.report, place, `${path}: ${why}, with its aliases: make it smaller`);
    }
    parsing.isTooLarge = true;
    return undefined;
  }
  return { ...common, kind: "scalar", ...scalar };
}

/** What a merge key brings: of one map, or of several, the first of which wins. */
function mergedEntries(
  parsing: Parsing,
  given: unknown,
  path: string,
  depth: number,
): [string, Node][] {
  const node = toNode(parsing, given, path, depth);
  const maps = node?.kind === "list" ? node.items : node ? [node] : [];
  const found: [string, Node][] = [];
  for (const map of maps) {
    if (map.kind === "map") found.push(...map.entries);
    else refuseText(parsing.report, map.at, `${path}.${MERGE_KEY}: only maps can be merged`);
  }
  return found;
}

function scalarValue(value: unknown, source: string | undefined) {
  if (typeof value === "string" && source !== undefined) {
    const number = yaml11Number(source);
    if (number !== undefined) return { value: number, text: source };
  }
  if (typeof value === "number") {
    return { value: yaml11Number(source ?? "") ?? value, text: source ?? String(value) };
  }
  if (typeof value === "string" || typeof value === "boolean") {
    return { value, text: source ?? String(value) };
  }
  return { value: null, text: "" };
}

/** Whole numbers that YAML 1.2 does not know and docker's parser does. Source: go-yaml v3, resolve. */
function yaml11Number(source: string): number | undefined {
  const text = source.replaceAll("_", "");
  const octal = /^([-+]?)0o?([0-7]+)$/.exec(text);
  if (octal) return (octal[1] === "-" ? -1 : 1) * Number.parseInt(octal[2] ?? "", 8);
  if (/^0b[01]+$/.test(text)) return Number(text);
  return text !== source && /^[-+]?[1-9]\d*$/.test(text) ? Number(text) : undefined;
}

function tagOf(given: unknown): { tag?: "override" | "reset" } {
  const tag = typeof given === "object" && given !== null && "tag" in given ? given.tag : undefined;
  if (tag === "!override") return { tag: "override" };
  return tag === "!reset" ? { tag: "reset" } : {};
}

function rangeOf(given: unknown): number | undefined {
  if (typeof given !== "object" || given === null || !("range" in given)) return undefined;
  const { range } = given;
  return Array.isArray(range) && typeof range[0] === "number" ? range[0] : undefined;
}

/** `undefined` for a map or list, which is not read: as a text, nested ones would have no end. */
function keyText({ targets }: Parsing, given: unknown): string | undefined {
  const key = isAlias(given) ? targets.get(given) : given;
  if (!isScalar(key)) return undefined;
  return isPlain(key) ? (key.source ?? String(key.value)) : String(key.value);
}

function isPlain(given: unknown): boolean {
  return isScalar(given) && given.type === "PLAIN";
}
