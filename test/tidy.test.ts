/**
 * House rules that no linter has. Each lists its offenders as `file:line: what`, so a failure says
 * where to go. Looks at tracked files and at new ones that are not ignored.
 */
import { Glob } from "bun";
import { describe, expect, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

const ROOT = join(import.meta.dir, "..");

const listed =
  Bun.which("git") === null
    ? undefined
    : Bun.spawnSync(["git", "ls-files", "-co", "--exclude-standard", "-z"], { cwd: ROOT });
// Outside of git (an unpacked archive) everything counts that is not installed or built.
const paths = listed?.success
  ? listed.stdout.toString().split("\0")
  : [...new Glob("**/*").scanSync({ cwd: ROOT, dot: true })].filter(
      (path) => !/^(?:node_modules|dist|\.tools|package-lock\.json)(?:\/|$)|\.log$/.test(path),
    );
const files = paths.filter((path) => path !== "" && isFile(join(ROOT, path))).toSorted();
const sources = files.filter((path) => path.endsWith(".ts"));

function isFile(path: string): boolean {
  // A file that was removed but not yet committed is still listed.
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

const texts = new Map<string, string>();
function text(path: string): string {
  let found = texts.get(path);
  if (found === undefined) {
    found = readFileSync(join(ROOT, path), "utf8");
    texts.set(path, found);
  }
  return found;
}

/** `file:line: what` for each match in the files. */
function matches(paths: readonly string[], pattern: RegExp, read = text): string[] {
  return paths.flatMap((path) =>
    read(path)
      .split("\n")
      .flatMap((line, index) => {
        const match = pattern.exec(line);
        return match ? [`${path}:${index + 1}: ${match[0].trim()}`] : [];
      }),
  );
}

/** The text with comments blanked out; lines keep their numbers. */
function code(path: string): string {
  return text(path)
    .replaceAll(/\/\*[\s\S]*?\*\//g, (comment) => comment.replaceAll(/[^\n]/g, " "))
    .replaceAll(/(^|[^:"'`\w])\/\/.*$/gm, "$1");
}

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\s[^;"'`]*?from\s+"([^"]+)"|\bimport\(\s*"([^"]+)"\s*\)|(?:^|\n)\s*import\s+"([^"]+)"/g;

function imports(path: string): string[] {
  return [...code(path).matchAll(IMPORT)].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

describe("tidy", () => {
  test("git lists the sources", () => {
    expect(sources.length).toBeGreaterThan(20);
  });

  test("the top level is fixed", () => {
    const allowed = ["README.md", "LICENSE", "package.json", "tsconfig.json", "bunfig.toml"];
    const folders = ["agent", "core", "net", "scripts", "test"];
    const strangers = files.filter((path) => {
      const [top = ""] = path.split("/");
      if (top.startsWith(".")) return false;
      return path.includes("/") ? !folders.includes(top) : !allowed.includes(top);
    });
    expect(strangers).toEqual([]);
  });

  test("imports go one way: core to core; net to core; agent to both; none to scripts and test", () => {
    const mayImport: Record<string, readonly string[]> = {
      core: ["core"],
      net: ["core", "net"],
      agent: ["agent", "core", "net"],
      scripts: ["agent", "core", "net", "scripts", "test"],
      test: ["agent", "core", "net", "scripts", "test"],
    };
    const wrong = sources.flatMap((path) => {
      const from = path.split("/")[0] ?? "";
      return imports(path)
        .filter((target) => target.startsWith("."))
        .map((target) => normalize(join(dirname(path), target)))
        .filter((target) => !(mayImport[from] ?? []).includes(target.split("/")[0] ?? ""))
        .map((target) => `${path}: imports ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  test("relative imports name a file that exists, with its ending", () => {
    const wrong = sources.flatMap((path) =>
      imports(path)
        .filter((target) => target.startsWith("."))
        .filter((target) => !isFile(join(ROOT, dirname(path), target)))
        .map((target) => `${path}: imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  // The simulator runs core with a clock and a world of its own, and every replica must compute the
  // same: what differs between two runs has no place there.
  const isShell = (path: string) => /\/(?:worker|worker-[^/]*|sqlite-[^/]*)\.ts$/.test(path);
  const pure = sources.filter(
    (path) => path.startsWith("core/") && !isShell(path) && path !== "core/worker-server.ts",
  );

  test("core imports no runtime outside of its worker shells", () => {
    const wrong = pure.flatMap((path) =>
      imports(path)
        .filter((target) => /^(?:bun|bun:.*|node:.*)$/.test(target))
        .map((target) => `${path}: imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  test("core has no clock, timer or chance of its own outside of its worker shells", () => {
    const impure =
      /\bDate\b|\bset(?:Timeout|Interval|Immediate)\s*\(|\bMath\.random\b|\bperformance\b|\brandomUUID\b|\bgetRandomValues\b|\bfetch\s*\(|\bprocess\.|\bBun\.|\blocaleCompare\b/;
    expect(matches(pure, impure, code)).toEqual([]);
  });

  test("nothing is exported by default", () => {
    expect(matches(sources, /^export default\b/, code)).toEqual([]);
  });

  test("what is left to do has an issue", () => {
    const comment = /(?:\/\/|\/\*|^\s*\*).*\b(?:TODO(?!\(#\d+\))|FIXME|XXX)\b.*/;
    expect(matches(sources, comment)).toEqual([]);
  });

  test("no test is run alone by .only", () => {
    const paths = sources.filter((path) => path !== "test/tidy.test.ts");
    expect(matches(paths, /\b(?:test|describe|it)\.only\b/, code)).toEqual([]);
  });

  // Biome breaks code at 100; it leaves texts whole, and so should we: they are searched for.
  test("comments and shell scripts have at most 120 columns", () => {
    expect(matches(sources, /^\s*(?:\/\/|\/\*|\*).{119,}/)).toEqual([]);
    const scripts = files.filter((path) => path.endsWith(".sh"));
    expect(matches(scripts, /^.{121,}/)).toEqual([]);
  });

  // The name of a function of a few lines says what its words could.
  test("exported functions of core and net longer than five lines are documented", () => {
    const paths = sources.filter((path) => /^(?:core|net)\//.test(path));
    const bare = paths.flatMap((path) => {
      const lines = text(path).split("\n");
      return lines.flatMap((line, index) => {
        const name = /^export (?:async )?function\*? (\w+)/.exec(line)?.[1];
        if (name === undefined) return [];
        const before = (lines[index - 1] ?? "").trimEnd();
        // Further signatures of an overloaded function share the first one's words.
        const isOverload = before.startsWith(line.slice(0, line.indexOf(name) + name.length));
        const lineCount = lines.slice(index).findIndex((each) => each === "}") + 1;
        const isBare = !before.endsWith("*/") && !isOverload && lineCount > 5;
        return isBare ? [`${path}:${index + 1}: ${name}() has ${lineCount} lines`] : [];
      });
    });
    expect(bare).toEqual([]);
  });

  test("no file names a path of a developer's machine or the address of a package registry", () => {
    // Written so that this file does not contain them.
    const forbidden = /\/wor[k]\/|\/home\/[a-z]|npmj[s]\.(?:org|com)|deb\.debia[n]\.org/;
    const paths = files.filter((path) => !/\.(?:png|ico|tar|gz|db)$/.test(path));
    expect(matches(paths, forbidden)).toEqual([]);
  });

  test("the lock file is there and names no address", () => {
    expect(files).toContain(".package-lock.json");
    expect(matches([".package-lock.json"], /https?:.*/)).toEqual([]);
  });

  test("scripts for the shell can be run and stop at the first error", () => {
    const scripts = [...files.filter((path) => path.endsWith(".sh")), ".ci/run"];
    const wrong = scripts.filter((path) => {
      const mode = statSync(join(ROOT, path)).mode & 0o111;
      return mode === 0 || !/^set -e/m.test(text(path));
    });
    expect(wrong).toEqual([]);
  });
});
