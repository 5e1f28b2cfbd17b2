/**
 * `$NAME`, `${NAME}` and their forms with defaults, errors and alternatives, in the values of a tree; keys are
 * left as they are. Pure.
 *
 * Source: compose specification, Interpolation; what is in the braces may have variables itself.
 */
import type { Mapping, Node } from "./node.ts";
import { type Report, refuse } from "./report.ts";

const NAME = /^[_a-zA-Z][_a-zA-Z0-9]*/;
const DEPTH_MAX = 20;
/** Of all texts with their variables. */
const LENGTH_MAX = 8 * 1024 * 1024;

/** What one text means; `problem` says why it means nothing. */
export type Interpolated = { text: string; unset: string[] } | { problem: string };

type Interpolation = {
  report: Report;
  env: Readonly<Record<string, string>>;
  /** What may still be made of variables. */
  lengthLeft: number;
};

/** The tree with its texts interpolated; sections that are extensions (`x-…`) are not looked at. */
export function interpolateTree(
  report: Report,
  env: Readonly<Record<string, string>>,
  top: Mapping,
): Mapping {
  const state: Interpolation = { report, env, lengthLeft: LENGTH_MAX };
  const entries = [...top.entries].map(([key, node]): [string, Node] => [
    key,
    key.startsWith("x-") ? node : interpolateNode(state, node),
  ]);
  return { ...top, entries: new Map(entries) };
}

function interpolateNode(state: Interpolation, node: Node): Node {
  if (node.kind === "list") {
    return { ...node, items: node.items.map((item) => interpolateNode(state, item)) };
  }
  if (node.kind === "map") {
    const entries = [...node.entries].map(([key, value]): [string, Node] => [
      key,
      interpolateNode(state, value),
    ]);
    return { ...node, entries: new Map(entries) };
  }
  if (typeof node.value !== "string" || !node.value.includes("$")) return node;
  const result = interpolate(node.value, state.env, state.lengthLeft);
  if ("problem" in result) {
    refuse(state.report, node, result.problem);
    return node;
  }
  state.lengthLeft -= result.text.length;
  for (const name of result.unset) {
    state.report.warnings.add(`The variable ${name} is not set: a blank text takes its place`);
  }
  return { ...node, value: result.text, text: result.text };
}

/** One text. */
export function interpolate(
  text: string,
  env: Readonly<Record<string, string>>,
  lengthMax = LENGTH_MAX,
): Interpolated {
  const unset = new Set<string>();
  try {
    return { text: expand(text, { env, unset, lengthMax }, 0), unset: [...unset] };
  } catch (error) {
    if (error instanceof Unreadable) return { problem: error.message };
    throw error;
  }
}

/** Leaves the recursion; never leaves this file. */
class Unreadable extends Error {}

type Expansion = {
  env: Readonly<Record<string, string>>;
  unset: Set<string>;
  lengthMax: number;
};

function expand(text: string, expansion: Expansion, depth: number): string {
  if (depth > DEPTH_MAX) throw new Unreadable(`variables in variables: at most ${DEPTH_MAX} deep`);
  let out = "";
  let rest = text;
  for (;;) {
    if (out.length > expansion.lengthMax) {
      throw new Unreadable(
        `the files have more than ${LENGTH_MAX} characters with their variables`,
      );
    }
    const at = rest.indexOf("$");
    if (at < 0) return out + rest;
    out += rest.slice(0, at);
    rest = rest.slice(at + 1);
    if (rest.startsWith("$")) {
      out += "$";
      rest = rest.slice(1);
      continue;
    }
    if (rest.startsWith("{")) {
      const end = closingBrace(rest);
      if (end < 0) throw new Unreadable("a ${ is not closed: add }, or write $$ for a dollar");
      out += braced(rest.slice(1, end), expansion, depth);
      rest = rest.slice(end + 1);
      continue;
    }
    const name = NAME.exec(rest)?.[0];
    if (name === undefined) {
      throw new Unreadable("a $ is not followed by a variable: write $$ for a dollar");
    }
    out += valueOf(name, expansion);
    rest = rest.slice(name.length);
  }
}

/** Index of the brace that closes the one at 0, or -1. */
function closingBrace(text: string): number {
  let open = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "$" && text[i + 1] === "$") i++;
    else if (text[i] === "{" && (i === 0 || text[i - 1] === "$")) open++;
    else if (text[i] === "}" && --open === 0) return i;
  }
  return -1;
}

function braced(inner: string, expansion: Expansion, depth: number): string {
  const { env } = expansion;
  const name = NAME.exec(inner)?.[0];
  const match = /^(:?[-?+])?([\s\S]*)$/.exec(inner.slice(name?.length ?? 0));
  const [, operator, word = ""] = match ?? [];
  if (name === undefined || (operator === undefined && word !== "")) {
    throw new Unreadable(
      "a ${…} is not a variable: write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+other}",
    );
  }
  if (operator === undefined) return valueOf(name, expansion);
  const value = Object.hasOwn(env, name) ? env[name] : undefined;
  const isGiven = operator.startsWith(":") ? Boolean(value) : value !== undefined;
  const then = () => expand(word, expansion, depth + 1);
  if (operator.endsWith("-")) return isGiven ? (value ?? "") : then();
  if (operator.endsWith("+")) return isGiven ? then() : "";
  if (isGiven) return value ?? "";
  throw new Unreadable(`the variable ${name} is required${word === "" ? "" : `: ${then()}`}`);
}

function valueOf(name: string, { env, unset }: Expansion): string {
  const value = Object.hasOwn(env, name) ? env[name] : undefined;
  if (value === undefined) unset.add(name);
  return value ?? "";
}
