/** Two outcomes of one step → the places where they differ. Pure. */
import { type Known, normaliseJson, normaliseText } from "./normalise.ts";

/** What a step gave: named texts (`code`, `stdout`, `stderr`; `status`, `header x`, `body`). */
export type Outcome = ReadonlyMap<string, string>;

export type Difference = {
  /** `stdout`, `status`, `header api-version`, or a place in JSON: `body[].Spec.Name`. */
  where: string;
  stock: string;
  shoal: string;
};

export type Seen = { outcome: Outcome; known: Known };

/**
 * Where the code or status differs, the rest follows from it: then all of it is one difference,
 * `result`, as `code stdout stderr` or `status message`.
 */
export function compareOutcomes(stock: Seen, shoal: Seen): Difference[] {
  const left = summary(stock);
  const right = summary(shoal);
  if (left.code !== right.code) return [{ where: "result", stock: left.text, shoal: right.text }];
  const names = new Set([...stock.outcome.keys(), ...shoal.outcome.keys()]);
  return [...names].flatMap((name) =>
    comparePart(
      name,
      [stock.outcome.get(name), stock.known],
      [shoal.outcome.get(name), shoal.known],
    ),
  );
}

function summary({ outcome, known }: Seen): { code: string; text: string } {
  const code = outcome.get("code") ?? outcome.get("status") ?? outcome.get("error") ?? "";
  const body = outcome.get("body");
  const said =
    body === undefined
      ? [outcome.get("stdout") ?? "", outcome.get("stderr") ?? ""]
      : [messageOf(body) ?? body];
  const texts = said.map((text) => normaliseText(text, known)).filter((text) => text !== "");
  return { code, text: [code, ...texts].join(" ") };
}

function messageOf(body: string): string | undefined {
  const value = tryJson(body)?.value;
  return isObject(value) && typeof value["message"] === "string" ? value["message"] : undefined;
}

function comparePart(
  name: string,
  [stock, stockKnown]: [string | undefined, Known],
  [shoal, shoalKnown]: [string | undefined, Known],
): Difference[] {
  const stockJson = parseJson(stock);
  const shoalJson = parseJson(shoal);
  if (stockJson && shoalJson) {
    return compareJson(
      name,
      normaliseJson(stockJson.value, stockKnown),
      normaliseJson(shoalJson.value, shoalKnown),
    );
  }
  const left = stock === undefined ? "(absent)" : normaliseText(stock, stockKnown);
  const right = shoal === undefined ? "(absent)" : normaliseText(shoal, shoalKnown);
  return left === right ? [] : [{ where: name, stock: left, shoal: right }];
}

/** Objects and lists only: a bare number or word is compared as text. Lines of JSON are a list. */
function parseJson(text: string | undefined): { value: unknown } | undefined {
  const trimmed = text?.trim() ?? "";
  if (!/^[[{]/.test(trimmed)) return undefined;
  const whole = tryJson(trimmed);
  if (whole) return whole;
  const lines = trimmed.split("\n").map(tryJson);
  return lines.every((line) => line !== undefined)
    ? { value: lines.map((line) => line.value) }
    : undefined;
}

function tryJson(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return undefined;
  }
}

function compareJson(where: string, stock: unknown, shoal: unknown): Difference[] {
  if (Array.isArray(stock) && Array.isArray(shoal)) {
    if (stock.length !== shoal.length) {
      return [difference(`${where}[]`, withoutThese(stock, shoal), withoutThese(shoal, stock))];
    }
    return stock.flatMap((item, index) => compareJson(`${where}[]`, item, shoal[index]));
  }
  if (isObject(stock) && isObject(shoal)) {
    const keys = new Set([...Object.keys(stock), ...Object.keys(shoal)]);
    return [...keys].flatMap((key) => compareJson(`${where}.${key}`, stock[key], shoal[key]));
  }
  return Object.is(stock, shoal) ? [] : [difference(where, stock, shoal)];
}

/** The items of a list that the other one does not have. */
function withoutThese(items: unknown[], others: unknown[]): unknown[] {
  const left = others.map((other) => JSON.stringify(other));
  return items.filter((item) => {
    const found = left.indexOf(JSON.stringify(item));
    if (found !== -1) left.splice(found, 1);
    return found === -1;
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function difference(where: string, stock: unknown, shoal: unknown): Difference {
  const show = (value: unknown) => (value === undefined ? "(absent)" : JSON.stringify(value));
  return { where, stock: show(stock), shoal: show(shoal) };
}
