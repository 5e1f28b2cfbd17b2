/** What is wrong with compose files, and what is to be known about them: collected, so that it is told at once. */
import { ClusterError } from "../../../core/errors.ts";
import type { Node, Place } from "./node.ts";

/** Ends texts of the engine's and the kernel's: what is behind it would be lost, or the container not made. */
export const NUL = "\0";
export const NUL_PROBLEM = "it has a NUL, which no program can be given: remove it";
const PROBLEMS_SHOWN_MAX = 20;
/** Of a value in a message. */
const VALUE_LENGTH_MAX = 80;

export type Report = {
  /** Their names, in order. */
  files: string[];
  problems: { at: Place | undefined; text: string }[];
  /** A set: the same service in two files is warned of once. */
  warnings: Set<string>;
};

export function newReport(files: readonly { name: string }[] = []): Report {
  return { files: files.map(({ name }) => name), problems: [], warnings: new Set() };
}

/** A value that cannot stand: `why` says what is wrong with it and what to do. */
export function refuse(report: Report, node: Node, why: string): void {
  const shown = node.kind === "scalar" && node.value !== null ? ` is ${quote(node.text)}` : "";
  report.problems.push({ at: node.at, text: `${node.path}${shown}: ${why}` });
}

/** A key that cannot stand. */
export function refuseKey(report: Report, node: Node, why: string): void {
  report.problems.push({ at: node.keyAt ?? node.at, text: `${node.path}: ${why}` });
}

export function refuseText(report: Report, at: Place | undefined, text: string): void {
  report.problems.push({ at, text });
}

export function warn(report: Report, node: Node, why: string): void {
  report.warnings.add(`${placeText(node.keyAt ?? node.at)}${node.path}: ${why}`);
}

/**
 * @throws {ClusterError} invalid-argument, with all problems in the order of the files, one a line. Of a value
 * that several parts read it is the first.
 */
export function throwProblems({ files, problems }: Report): void {
  if (problems.length === 0) return;
  const sorted = problems.toSorted((a, b) => comparePlaces(files, a.at, b.at));
  const texts = new Map<string, string>();
  for (const { at, text } of sorted) {
    const subject = placeText(at) + text.slice(0, text.indexOf(": "));
    if (!texts.has(subject)) texts.set(subject, placeText(at) + text);
  }
  const lines = [...texts.values()].slice(0, PROBLEMS_SHOWN_MAX);
  const more = texts.size - lines.length;
  if (more > 0)
    lines[PROBLEMS_SHOWN_MAX - 1] = `… and ${more + 1} more problems: solve these first`;
  throw new ClusterError("invalid-argument", lines.join("\n"));
}

function comparePlaces(files: string[], a: Place | undefined, b: Place | undefined): number {
  if (!a || !b) return Number(Boolean(a)) - Number(Boolean(b));
  const byFile = files.indexOf(a.file) - files.indexOf(b.file);
  return byFile || a.line - b.line || a.column - b.column;
}

function quote(text: string): string {
  const shown = text.length > VALUE_LENGTH_MAX ? `${text.slice(0, VALUE_LENGTH_MAX)}…` : text;
  return JSON.stringify(shown);
}

function placeText(at: Place | undefined): string {
  return at ? `${at.file}:${at.line}:${at.column}: ` : "";
}
