/**
 * Values of the tree as the types that they must have. What has another one is reported, and read as absent.
 * Numbers and flags may be texts, since variables are.
 */
import { isNull, type List, type Mapping, type Node, type Scalar } from "./node.ts";
import { sortKeys } from "./order.ts";
import { type Report, refuse, warn } from "./report.ts";
import { splitWords } from "./shell-words.ts";
import { goNumber, parseDurationNs, parseNanoCpus, parseSizeBytes } from "./units.ts";

export function child(node: Node | undefined, key: string): Node | undefined {
  return node?.kind === "map" ? node.entries.get(key) : undefined;
}

export function readMap(report: Report, node: Node | undefined): Mapping | undefined {
  if (!node || isNull(node)) return undefined;
  if (node.kind === "map") return node;
  refuse(report, node, "it must be a map: `key: value`");
  return undefined;
}

export function readList(report: Report, node: Node | undefined): List | undefined {
  if (!node || isNull(node)) return undefined;
  if (node.kind === "list") return node;
  refuse(report, node, "it must be a list: `- value`");
  return undefined;
}

function readScalar(report: Report, node: Node | undefined, words: string): Scalar | undefined {
  if (!node || isNull(node)) return undefined;
  if (node.kind === "scalar") return node;
  refuse(report, node, `it must be ${words}`);
  return undefined;
}

/** As it is written: a number or flag is a text too. */
export function readText(report: Report, node: Node | undefined): string | undefined {
  return readScalar(report, node, "a text")?.text;
}

/** One of the words, whatever its case. */
export function readWord<W extends string>(
  report: Report,
  node: Node | undefined,
  words: readonly W[],
): W | undefined {
  const text = readText(report, node);
  const found = words.find((word) => word === text?.toLowerCase());
  if (node && text !== undefined && found === undefined) {
    refuse(report, node, `it must be ${words.join(" or ")}`);
  }
  return found;
}

export function readFlag(report: Report, node: Node | undefined): boolean | undefined {
  const scalar = readScalar(report, node, "true or false");
  if (!scalar) return undefined;
  if (typeof scalar.value === "boolean") return scalar.value;
  if (/^(?:true|yes|on|y|1)$/i.test(scalar.text)) return true;
  if (!/^(?:false|no|off|n|0)$/i.test(scalar.text)) refuse(report, scalar, "use true or false");
  return false;
}

/** A flag of a map; absent is false. */
export function isSet(report: Report, map: Mapping, key: string): boolean {
  return readFlag(report, child(map, key)) ?? false;
}

/** `isMode`: of a file, so that a text of digits is octal as a number with a zero before it is. */
export type Range = { min: number; max?: number; isMode?: boolean };

export function readWhole(
  report: Report,
  node: Node | undefined,
  { min, max = Number.MAX_SAFE_INTEGER, isMode = false }: Range,
): number | undefined {
  const scalar = readScalar(report, node, "a whole number");
  if (!scalar) return undefined;
  const isOctal = isMode && typeof scalar.value === "string" && /^[0-7]+$/.test(scalar.text);
  const value = isOctal ? Number.parseInt(scalar.text, 8) : numberOf(scalar);
  if (value !== undefined && Number.isSafeInteger(value) && value >= min && value <= max) {
    return value;
  }
  const bounds = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
  refuse(report, scalar, `it must be a whole number ${bounds}`);
  return undefined;
}

export function readRatio(report: Report, node: Node | undefined): number | undefined {
  const scalar = readScalar(report, node, "a number from 0 to 1");
  if (!scalar) return undefined;
  const value = numberOf(scalar);
  if (value !== undefined && value >= 0 && value <= 1) return value;
  refuse(report, scalar, "it must be a number from 0 to 1");
  return undefined;
}

/** Of a text only if it is one of digits: from a variable, or in quotes. */
function numberOf({ value, text }: Scalar): number | undefined {
  if (typeof value === "number") return value;
  return typeof value === "string" && /^-?\d+(?:\.\d+)?$/.test(text) ? Number(text) : undefined;
}

/** A text that `parse` understands. */
function readUnit(
  report: Report,
  node: Node | undefined,
  words: string,
  parse: (text: string) => number | undefined,
): number | undefined {
  const scalar = readScalar(report, node, words);
  if (!scalar) return undefined;
  const value = parse(typeof scalar.value === "number" ? goNumber(scalar.value) : scalar.text);
  if (value === undefined) refuse(report, scalar, `it must be ${words}`);
  return value;
}

export function readDurationNs(report: Report, node: Node | undefined): number | undefined {
  return readUnit(report, node, "a duration with its unit, such as 1m30s", parseDurationNs);
}

export function readSizeBytes(report: Report, node: Node | undefined): number | undefined {
  return readUnit(report, node, "a size such as 50m or 1gb", parseSizeBytes);
}

export function readNanoCpus(report: Report, node: Node | undefined): number | undefined {
  return readUnit(report, node, "a number of CPUs such as 0.5", parseNanoCpus);
}

/** A number of µs, or a duration. */
export function readMicroseconds(report: Report, node: Node | undefined): number | undefined {
  const parse = (text: string) => {
    if (/^\d+$/.test(text)) return Number(text);
    const ns = parseDurationNs(text);
    return ns === undefined ? undefined : Math.round(ns / 1_000);
  };
  return readUnit(report, node, "a number of microseconds, or a duration such as 400ms", parse);
}

/** A list of texts, or one of them alone. */
export function readTexts(report: Report, node: Node | undefined): string[] | undefined {
  if (!node || isNull(node)) return undefined;
  const items = node.kind === "list" ? node.items : [node];
  return items.flatMap((item) => {
    const text = readText(report, item);
    return text === undefined ? [] : [text];
  });
}

/** Words, as a list or as one text that is split as by a shell. */
export function readCommand(report: Report, node: Node | undefined): string[] | undefined {
  if (!node || isNull(node)) return undefined;
  if (node.kind === "list") return readTexts(report, node);
  const text = readText(report, node);
  if (text === undefined) return undefined;
  const words = splitWords(text);
  if (!words) refuse(report, node, "a quote is not closed: close it, or write a list of words");
  return words;
}

/** A map of texts, ordered by key; no value is the blank text. */
export function readTextMap(
  report: Report,
  node: Node | undefined,
): Record<string, string> | undefined {
  const found = readNullableMap(report, node);
  if (!found) return undefined;
  return sortKeys(Object.fromEntries([...found].map(([key, value]) => [key, value ?? ""])));
}

/** A map of texts, where no value is a value of its own. Numbers become what docker makes of them. */
export function readNullableMap(
  report: Report,
  node: Node | undefined,
): Map<string, string | null> | undefined {
  const map = readMap(report, node);
  if (!map) return undefined;
  const found = new Map<string, string | null>();
  for (const [key, value] of map.entries) {
    const scalar = readScalar(report, value, "a text");
    if (scalar) found.set(key, valueText(report, scalar));
    else if (isNull(value)) found.set(key, null);
  }
  return found;
}

function valueText(report: Report, scalar: Scalar): string {
  if (typeof scalar.value !== "number" || !Number.isFinite(scalar.value)) return scalar.text;
  // Beyond what a number holds exactly, docker has integers.
  const isWhole = /^-?[1-9]\d{15,18}$/.test(scalar.text);
  const text = isWhole ? scalar.text : goNumber(scalar.value);
  if (text !== scalar.text) {
    warn(
      report,
      scalar,
      `${scalar.text} is the number ${text}: put it in quotes to have it as it is`,
    );
  }
  return text;
}
