/** One order for what has none in the file, so that the same stack is the same JSON, and docker's. Pure. */
import { STACK_LABEL } from "../../../core/objects/stack.ts";

/** By code units, as Go sorts. */
export function compareTexts(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

export function sortKeys<T>(map: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => compareTexts(a, b)));
}

/** The labels, and that of the stack. */
export function stackLabels(
  stack: string,
  labels: Readonly<Record<string, string>> | undefined,
): Record<string, string> {
  return sortKeys({ ...labels, [STACK_LABEL]: stack });
}
