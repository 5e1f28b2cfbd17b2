/** Variables and labels of containers, from the file and from files that it names. */
import { isUtf8 } from "node:buffer";
import type { Context } from "./context.ts";
import { checkKeys } from "./keys.ts";
import type { Node } from "./node.ts";
import { compareTexts } from "./order.ts";
import { child, readFlag, readList, readMap, readNullableMap, readText } from "./read.ts";
import { NUL, NUL_PROBLEM, refuse, type Report, warn } from "./report.ts";

type Variables = Map<string, string | null>;

/** Of env_file and label_file in all services; a file that several name counts each time, as it is stored. */
export const NAMED_FILES_BYTES_MAX = 2 * 1024 * 1024;

/**
 * `NAME=value`, ordered by name; `NAME` alone where there is no value, as docker has it. A variable without a
 * value, or with a blank one, takes that of the caller's environment.
 * Source: docker/cli compose/loader, resolveEnvironment.
 */
export function readEnvironment(context: Context, service: Node): string[] {
  const { report, env } = context;
  const found: Variables = new Map();
  const add = (variables: Variables) => {
    for (const [name, value] of variables) {
      const isFilled = !value && Object.hasOwn(env, name);
      found.set(name, isFilled ? (env[name] ?? "") : value);
    }
  };
  for (const item of readList(report, child(service, "env_file"))?.items ?? []) {
    const file = readMap(report, item);
    if (!file) continue;
    checkKeys(report, "service.env_file[]", file);
    const isRequired = readFlag(report, child(file, "required")) ?? true;
    const text = contentsOf(context, child(file, "path") ?? file, isRequired);
    if (text !== undefined) add(parseLines(context, child(file, "path") ?? file, text));
  }
  add(readNullableMap(report, child(service, "environment")) ?? new Map());
  return [...found]
    .map(([name, value]) => (value === null ? name : `${name}=${value}`))
    .sort(compareTexts);
}

/** Labels of the files that `label_file` names. */
export function readLabelFiles(context: Context, node: Node | undefined): Record<string, string> {
  const labels = new Map<string, string>();
  for (const item of readList(context.report, node)?.items ?? []) {
    const text = contentsOf(context, item, true);
    for (const [name, value] of parseLines(context, item, text ?? ""))
      labels.set(name, value ?? "");
  }
  return Object.fromEntries(labels);
}

function contentsOf(context: Context, node: Node, isRequired: boolean): string | undefined {
  const { report, contents, namedFiles } = context;
  const path = readText(report, node);
  if (path === undefined || !Object.hasOwn(contents, path)) {
    if (isRequired) refuse(report, node, "there is no such file, or its contents were not sent");
    return undefined;
  }
  const base64 = contents[path] ?? "";
  namedFiles.bytes += Buffer.byteLength(base64, "base64");
  if (namedFiles.bytes > NAMED_FILES_BYTES_MAX) {
    const why = `with it env_file and label_file of all services have more than ${NAMED_FILES_BYTES_MAX} bytes`;
    refuse(report, node, `${why}: make them smaller, or make it several stacks`);
    return undefined;
  }
  const bytes = Buffer.from(base64, "base64");
  if (isUtf8(bytes)) return bytes.toString("utf8");
  refuse(report, node, "the file is not text in UTF-8: save it as such");
  return undefined;
}

/**
 * Lines `NAME=value`, and `NAME` for that of the caller's environment; `#` begins a comment line. Values are
 * taken as they are. Source: docker/cli pkg/kvfile.
 */
function parseLines({ report, env }: Context, node: Node, text: string): Variables {
  const found: Variables = new Map();
  for (const [index, raw] of text
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .entries()) {
    const line = raw.trimStart();
    if (line === "" || line.startsWith("#")) continue;
    const at = line.indexOf("=");
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? undefined : line.slice(at + 1);
    if (name === "" || /\s/.test(name)) {
      refuse(report, node, `line ${index + 1} of it is not NAME=value`);
      continue;
    }
    if (line.includes(NUL)) refuse(report, node, `line ${index + 1} of it: ${NUL_PROBLEM}`);
    if (value !== undefined && /^(["']).*\1$/.test(value)) {
      warn(
        report,
        node,
        `the quotes around the value of ${name} are part of it: remove them there`,
      );
    }
    if (value !== undefined) found.set(name, value);
    else if (Object.hasOwn(env, name)) found.set(name, env[name] ?? "");
  }
  return found;
}

/** The paths that a service names, for neededContents(). */
export function environmentFiles(report: Report, service: Node): string[] {
  const files = readList(report, child(service, "env_file"))?.items ?? [];
  const labels = readList(report, child(service, "label_file"))?.items ?? [];
  return [...files.map((file) => child(file, "path")), ...labels].flatMap((node) => {
    const path = readText(report, node);
    return path === undefined ? [] : [path];
  });
}
