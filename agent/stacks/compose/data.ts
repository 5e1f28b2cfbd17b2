/**
 * Secrets and configs. Their data cannot be changed, so an object's name has a digest of it: other data is
 * another object, and the services that refer to it are rolled.
 */
import { createHash } from "node:crypto";
import { type Context, readDeclared } from "./context.ts";
import { checkKeys } from "./keys.ts";
import type { DataModel } from "./model.ts";
import { isNull, type Mapping, type Node } from "./node.ts";
import { compareTexts, stackLabels } from "./order.ts";
import { child, readList, readMap, readText, readTextMap, readWhole } from "./read.ts";
import { type Report, refuse } from "./report.ts";

const DIGEST_LENGTH = 10;
const NAME_LENGTH_MAX = 64;
const MODE_DEFAULT = 0o444;
const MODE_MAX = 0o7777;
const SOURCES = ["file", "content", "environment"] as const;

export type DataSection = {
  /** Full names of all, by their keys. */
  names: Map<string, { name: string; isExternal: boolean }>;
  models: DataModel[];
};

type Given = Pick<Context, "report" | "stack" | "env" | "contents">;

/** @param section the file's top-level secrets or configs */
export function readData(
  given: Given,
  kind: "secret" | "config",
  section: Mapping | undefined,
): DataSection {
  const { report, stack } = given;
  const names: DataSection["names"] = new Map();
  const models: DataModel[] = [];
  for (const [key, node] of section?.entries ?? []) {
    const { name, isExternal, map } = readDeclared(report, stack, key, node);
    if (map) checkKeys(report, kind, map);
    names.set(key, { name, isExternal });
    if (isExternal) continue;
    const data = readContents(given, kind, node);
    if (!data) continue;
    const templating = readText(report, child(map, "template_driver"));
    // A name of the user's is one, whatever the data.
    const hasName = !isNull(child(map, "name"));
    const full = hasName ? name : `${name}-${digestOf(data, templating)}`;
    if (full.length > NAME_LENGTH_MAX) {
      refuse(
        report,
        node,
        `its full name ${full} is longer than ${NAME_LENGTH_MAX}: give it a name`,
      );
    }
    names.set(key, { name: full, isExternal });
    models.push({
      Name: full,
      Labels: stackLabels(stack, readTextMap(report, child(map, "labels"))),
      ...(templating ? { Templating: { Name: templating } } : {}),
      Data: data.toString("base64"),
    });
  }
  return { names, models };
}

function digestOf(data: Uint8Array, templating: string | undefined): string {
  const hash = createHash("sha256").update(data);
  if (templating) hash.update(`\0${templating}`);
  return hash.digest("hex").slice(0, DIGEST_LENGTH);
}

function readContents(
  { report, env, contents }: Given,
  kind: string,
  node: Node,
): Buffer | undefined {
  const sources = SOURCES.filter((source) => !isNull(child(node, source)));
  const [source, other] = sources;
  const value = source && child(node, source);
  if (!value || other !== undefined) {
    const why = other === undefined ? "has no data" : `has both ${source} and ${other}`;
    refuse(
      report,
      node,
      `the ${kind} ${why}: give it one of ${SOURCES.join(", ")}, or external: true`,
    );
    return undefined;
  }
  const text = readText(report, value);
  if (text === undefined) return undefined;
  if (source === "content" && kind === "secret") {
    // The files are kept with the stack, and shown.
    refuse(
      report,
      value,
      "a secret's data must not stand in the file: give it a file, or a variable (environment)",
    );
    return undefined;
  }
  if (source === "content") return Buffer.from(text);
  if (source === "environment") {
    if (Object.hasOwn(env, text)) return Buffer.from(env[text] ?? "");
    refuse(report, value, "there is no such variable: set it");
    return undefined;
  }
  if (Object.hasOwn(contents, text)) return Buffer.from(contents[text] ?? "", "base64");
  refuse(report, value, "there is no such file, or its contents were not sent");
  return undefined;
}

/** In the shape of ContainerSpec.Secrets or Configs; the ids are for the cluster to find. */
export function readReferences(
  context: Context,
  section: "secrets" | "configs",
  node: Node | undefined,
): Record<string, unknown>[] {
  const { report } = context;
  const found: { name: string; File: Record<string, unknown> }[] = [];
  for (const item of readList(report, node)?.items ?? []) {
    const reference = readMap(report, item);
    if (!reference) continue;
    checkKeys(report, `service.${section}[]`, reference);
    const source = readText(report, child(reference, "source"));
    const name = source === undefined ? undefined : context.dataName(section, source);
    if (source === undefined || name === undefined) {
      const which =
        source === undefined ? "its source is missing: add it" : missing(section, source);
      refuse(report, child(reference, "source") ?? reference, which);
      continue;
    }
    const text = (key: string) => readText(report, child(reference, key));
    found.push({
      name,
      File: {
        Name: text("target") || source,
        UID: text("uid") || "0",
        GID: text("gid") || "0",
        Mode: readMode(report, reference),
      },
    });
  }
  // By name, so that another order in the file changes nothing.
  found.sort((a, b) => compareTexts(a.name, b.name));
  const [idField, nameField] =
    section === "secrets" ? ["SecretID", "SecretName"] : ["ConfigID", "ConfigName"];
  return found.map(({ name, File }) => ({ File, [idField]: "", [nameField]: name }));
}

function missing(section: string, source: string): string {
  return `there is none of this name: add \`${source}:\` to the top-level ${section}`;
}

function readMode(report: Report, reference: Mapping): number {
  return (
    readWhole(report, child(reference, "mode"), { min: 0, max: MODE_MAX, isMode: true }) ??
    MODE_DEFAULT
  );
}

/** The paths that the sections name, for neededContents(). */
export function dataFiles(report: Report, section: Mapping | undefined): string[] {
  return [...(section?.entries.values() ?? [])].flatMap((node) => {
    const path = isNull(child(node, "file")) ? undefined : readText(report, child(node, "file"));
    return path === undefined ? [] : [path];
  });
}
