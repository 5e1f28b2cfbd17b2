/**
 * Writes `.package-lock.json` from the `package-lock.json` that `npm install` left here. Run after a
 * change of dependencies: `rm package-lock.json; npm install; bun scripts/lock.ts`.
 *
 * The lock is kept under a dot name because the top level of the repository is fixed. Four things
 * are changed in it, so that `npm ci` of npm 9, 10 and 11 accepts it against any registry:
 * 1. No address of a registry is kept; the integrity hashes stay, so the bytes are pinned.
 * 2. An optional dependency that the lock has no entry for is dropped from its dependent's list: some
 *    registries do not hold the packages of foreign platforms, and `npm ci` then calls the lock stale.
 * 3. Stubs (package.json's `overrides`) are linked by their path from the root, and whoever depends
 *    on one takes any version: so scripts/setup.sh can install without the overrides, on which the
 *    npm of Debian 12 fails (npm 9.2 with a later semver: "Invalid comparator: file:…").
 * 4. What versions of Node.js a package wants is dropped: Bun runs them here, and npm would silently
 *    leave out an optional package (oxlint's binary) under an older Node.js.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

type LockEntry = {
  resolved?: string;
  funding?: unknown;
  engines?: unknown;
  link?: boolean;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
};
type Lock = { packages: Record<string, LockEntry> };

const root = join(import.meta.dir, "..");
// npm wrote the file; an unexpected shape fails on the first use below.
const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as Lock;

/** Node's lookup: the package `name` as seen from the package at `from`. */
function isResolvable(from: string, name: string): boolean {
  for (let base = from; ; ) {
    const path = base === "" ? `node_modules/${name}` : `${base}/node_modules/${name}`;
    if (path in lock.packages) return true;
    if (base === "") return false;
    const up = base.lastIndexOf("/node_modules/");
    base = up === -1 ? "" : base.slice(0, up);
  }
}

const stubPath = /(?:^|\/)(scripts\/stubs\/[a-z]+)$/;
const stubs = new Set(
  Object.entries(lock.packages)
    .filter(([, entry]) => entry.link === true)
    .map(([path]) => path.replace(/^node_modules\//, "")),
);
const packages: Record<string, LockEntry> = {};
for (const [path, entry] of Object.entries(lock.packages)) {
  const stub = stubPath.exec(path)?.[1];
  if (stub !== undefined) {
    packages[stub] = entry;
    continue;
  }
  if (entry.link === true && entry.resolved !== undefined) {
    entry.resolved = stubPath.exec(entry.resolved)?.[1] ?? entry.resolved;
  } else {
    delete entry.resolved;
  }
  delete entry.funding;
  delete entry.engines;
  for (const name of Object.keys(entry.optionalDependencies ?? {})) {
    if (!isResolvable(path, name)) delete entry.optionalDependencies?.[name];
  }
  for (const list of [entry.dependencies, entry.optionalDependencies]) {
    for (const name of Object.keys(list ?? {})) {
      if (list && path !== "" && stubs.has(name)) list[name] = "*";
    }
  }
  packages[path] = entry;
}
lock.packages = Object.fromEntries(
  Object.entries(packages).toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)),
);
const text = `${JSON.stringify(lock, null, 2)}\n`;
if (/https?:/.test(text)) {
  throw new Error("Cannot write .package-lock.json: an address is left in it");
}
writeFileSync(join(root, ".package-lock.json"), text);
