/**
 * The table of container options in README.md, made from the one table in code:
 * `bun scripts/options-table.ts` writes it between its markers, `--check` says whether it is up to date.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  CONTAINER_OPTIONS,
  type ContainerOption,
  inspectPath,
  OPTION_LABEL_PREFIX,
  REFUSED_OPTIONS,
} from "../agent/reconciler/container-options.ts";

const README = join(import.meta.dir, "../README.md");
const BEGIN = "<!-- options: made by scripts/options-table.ts -->";
const END = "<!-- /options -->";

/** The Markdown between the markers. */
export function optionsTable(): string {
  const rows = Object.entries(CONTAINER_OPTIONS).map(([name, option]) => row(name, option));
  // A flag that services have is not news; what a cluster cannot do is.
  const refused = Object.entries(REFUSED_OPTIONS)
    .filter(([, why]) => !why.startsWith("services have it"))
    .map(([flag]) => `\`${flag}\``)
    .join(", ");
  return [
    "| field | label, with an example | what it is | seen in `docker inspect` at |",
    "|---|---|---|---|",
    ...rows,
    "",
    `Refused with the reason: ${refused}.`,
  ].join("\n");
}

function row(name: string, option: ContainerOption): string {
  const path = inspectPath(option);
  const seen = option.unseen ?? (path === undefined ? "" : `\`${path}\``);
  const label = code(`${OPTION_LABEL_PREFIX}${option.label}=${option.example}`);
  return `| \`${name}\` | ${label} | ${option.doc} | ${seen} |`;
}

function code(text: string): string {
  return `\`${text.replaceAll("|", "\\|")}\``;
}

/** README's text with the table as it is now. Throws when the markers are not there. */
export function withTable(readme: string): string {
  const begin = readme.indexOf(BEGIN);
  const end = readme.indexOf(END);
  if (begin < 0 || end < begin) {
    throw new Error(`Cannot write the table of options: README.md has no "${BEGIN}" and "${END}"`);
  }
  return `${readme.slice(0, begin + BEGIN.length)}\n${optionsTable()}\n${readme.slice(end)}`;
}

if (import.meta.main) {
  const before = readFileSync(README, "utf8");
  const after = withTable(before);
  if (process.argv.includes("--check")) {
    if (before !== after) {
      console.error("README.md has an old table of options: run bun scripts/options-table.ts");
      process.exitCode = 1;
    }
  } else writeFileSync(README, after);
}
