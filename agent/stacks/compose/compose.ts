/**
 * Compose files as what the cluster stores: text → tree with places → variables → long notations → one
 * file → specs. Pure: what it needs from elsewhere it is given. What it does not do: ask whether the cluster
 * can carry it out (agent/stacks/plan.ts), read files (the CLI).
 */
import type { ServiceSpec } from "../../../core/objects/service.ts";
import { canonicalFile } from "./canonical.ts";
import { type Context, type Declared, readDeclared } from "./context.ts";
import { dataFiles, readData } from "./data.ts";
import { checkStartOrder } from "./depends.ts";
import { environmentFiles } from "./environment.ts";
import { interpolateTree } from "./interpolate.ts";
import { checkKeys } from "./keys.ts";
import { mergeFiles } from "./merge.ts";
import type { ComposeInput, ComposeResult, NetworkModel } from "./model.ts";
import { DEFAULT_NETWORK, readNetwork } from "./networks.ts";
import type { Mapping, Node } from "./node.ts";
import { compareTexts } from "./order.ts";
import { parseFile } from "./parse.ts";
import { child, readMap, readText } from "./read.ts";
import {
  NUL,
  NUL_PROBLEM,
  newReport,
  refuse,
  refuseText,
  type Report,
  throwProblems,
  warn,
} from "./report.ts";
import { readService } from "./service.ts";

const TEXT_LENGTH_MAX = 1024 * 1024;
const SERVICES_MAX = 500;
const SERVICE_KEY = /^[a-zA-Z0-9._-]+$/;

/**
 * What the files mean, and what is to be known about them.
 * @throws {ClusterError} invalid-argument: place, key, value and what to do, of all problems, one a line.
 */
export function composeToModel(input: ComposeInput): ComposeResult {
  const report = newReport(input.files);
  const file = readFiles(report, input);
  checkKeys(report, "file", file);
  const name = child(file, "name");
  if (name && readText(report, name) !== input.stack) {
    warn(report, name, `ignored: the stack is ${input.stack}, as it was deployed`);
  }
  const model = readModel(report, file, input);
  throwProblems(report);
  return { model, warnings: [...report.warnings] };
}

/**
 * The paths of files that the compose files name and whose contents are needed, as they write them.
 * @throws {ClusterError} invalid-argument when the files cannot be read.
 */
export function neededContents(input: Omit<ComposeInput, "contents" | "stack">): string[] {
  // What is wrong with single values is told by the conversion, with all the rest.
  const ignored = newReport(input.files);
  const file = readFiles(ignored, input);
  const services = sectionOf(ignored, file, "services");
  const paths = [...(services?.entries.values() ?? [])].flatMap((service) =>
    environmentFiles(ignored, service),
  );
  for (const section of ["secrets", "configs"]) {
    paths.push(...dataFiles(ignored, sectionOf(ignored, file, section)));
  }
  return [...new Set(paths)];
}

/**
 * All files as one, with variables replaced and in long notations. What is wrong with single values is reported.
 * @throws {ClusterError} invalid-argument when a file cannot be read at all.
 */
function readFiles(report: Report, { files, env }: Pick<ComposeInput, "files" | "env">): Mapping {
  const length = files.reduce((sum, { text }) => sum + text.length, 0);
  if (length > TEXT_LENGTH_MAX) {
    const why = `The compose files have ${length} characters, and ${TEXT_LENGTH_MAX} is the most: split the stack`;
    refuseText(report, undefined, why);
    throwProblems(report);
  }
  for (const [name, value] of Object.entries(env)) {
    if (value.includes(NUL)) refuseText(report, undefined, `The variable ${name}: ${NUL_PROBLEM}`);
  }
  if (files.length === 0) refuseText(report, undefined, "There is no compose file: give one");
  const parsed = files.flatMap((file) => parseFile(report, file) ?? []);
  for (const file of parsed) refuseTooMany(report, child(file, "services"));
  throwProblems(report);
  return mergeFiles(
    parsed.map((file) => canonicalFile(report, interpolateTree(report, env, file))),
  );
}

function sectionOf(report: Report, file: Mapping | undefined, name: string): Mapping | undefined {
  return readMap(report, child(file, name));
}

function readModel(report: Report, file: Mapping, input: ComposeInput): ComposeResult["model"] {
  const { stack, env, contents } = input;
  const given = { report, stack, env, contents };
  const data = {
    secrets: readData(given, "secret", sectionOf(report, file, "secrets")),
    configs: readData(given, "config", sectionOf(report, file, "configs")),
  };
  const declared = {
    networks: readSection(report, stack, file, "networks"),
    volumes: readSection(report, stack, file, "volumes"),
  };
  if (!declared.networks.has(DEFAULT_NETWORK)) {
    const name = `${stack}_${DEFAULT_NETWORK}`;
    declared.networks.set(DEFAULT_NETWORK, { name, isExternal: false, map: undefined });
  }
  const externals = { secrets: new Set<string>(), configs: new Set<string>() };
  const context: Context = {
    ...given,
    namedFiles: { bytes: 0 },
    declared: (section, key) => declared[section].get(key),
    dataName: (section, key) => {
      const found = data[section].names.get(key);
      if (found?.isExternal) externals[section].add(found.name);
      return found?.name;
    },
  };
  const { services, networkKeys } = readServices(context, file);
  const networks: NetworkModel[] = [];
  const externalNetworks = new Set<string>();
  for (const [key, network] of declared.networks) {
    if (!networkKeys.has(key)) continue;
    if (network.isExternal) externalNetworks.add(network.name);
    else networks.push(readNetwork(context, network));
  }
  return {
    services,
    networks: byName(networks),
    externals: {
      networks: [...externalNetworks].sort(compareTexts),
      secrets: [...externals.secrets].sort(compareTexts),
      configs: [...externals.configs].sort(compareTexts),
    },
    secrets: byName(data.secrets.models),
    configs: byName(data.configs.models),
  };
}

function readSection(
  report: Report,
  stack: string,
  file: Mapping,
  section: "networks" | "volumes",
): Map<string, Declared> {
  const found = new Map<string, Declared>();
  for (const [key, node] of sectionOf(report, file, section)?.entries ?? []) {
    const declared = readDeclared(report, stack, key, node);
    if (declared.map) checkKeys(report, section.slice(0, -1), declared.map);
    found.set(key, declared);
  }
  return found;
}

/** With the keys of all networks that a service is attached to. */
function readServices(
  context: Context,
  file: Mapping,
): { services: ServiceSpec[]; networkKeys: Set<string> } {
  const { report } = context;
  const services: ServiceSpec[] = [];
  const networkKeys = new Set<string>();
  const section = sectionOf(report, file, "services");
  if (!section?.entries.size) {
    refuse(report, section ?? file, "there is no service: add one below `services:`");
    return { services, networkKeys };
  }
  refuseTooMany(report, section);
  for (const [key, node] of section.entries) {
    if (node.kind !== "map") {
      refuse(report, node, "it must be a map with an image");
      continue;
    }
    if (!SERVICE_KEY.test(key))
      refuse(report, node, "a service's name is of letters, digits, . _ -");
    const found = readService(context, key, node, section);
    services.push(found.spec);
    for (const network of found.networkKeys) networkKeys.add(network);
  }
  checkStartOrder(report, context.stack, section, services);
  return { services: byName(services), networkKeys };
}

function refuseTooMany(report: Report, services: Node | undefined): void {
  if (services?.kind !== "map" || services.entries.size <= SERVICES_MAX) return;
  refuse(report, services, `there are more than ${SERVICES_MAX}: split the stack`);
}

function byName<T extends { Name: string }>(list: T[]): T[] {
  return list.sort((a, b) => compareTexts(a.Name, b.Name));
}
