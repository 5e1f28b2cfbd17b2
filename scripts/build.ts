/**
 * Compiles the agent into one file: `bun scripts/build.ts [--arm64] [--outfile PATH]`, by default
 * `dist/shoal` (`dist/shoal-arm64`).
 *
 * Native add-ons and the parts of dockerode that shoal never calls are replaced by stubs: the
 * binary would otherwise open the builder's node_modules by absolute path, and unpack libraries
 * into the temp directory and load them: a way in for others on the host. A .env or bunfig.toml in
 * the working directory is not read, for the same reason.
 */
import { $ } from "bun";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";

const ROOT = join(import.meta.dir, "..");

/** main.ts and each thread's entry: a worker file that is not listed cannot be started in the binary. */
export const ENTRY_POINTS = [
  "agent/main.ts",
  "agent/consensus-worker.ts",
  "agent/state-worker.ts",
  "agent/reconciler-worker.ts",
  "agent/mesh-worker.ts",
  "agent/dns-worker.ts",
];

const STUBBED =
  /^(ssh2|cpu-features|@grpc\/grpc-js|@grpc\/proto-loader|protobufjs|msgpackr-extract)$/;

const stubPlugin: Bun.BunPlugin = {
  name: "stubs",
  setup(build) {
    build.onResolve({ filter: STUBBED }, (args) => ({ path: args.path, namespace: "stub" }));
    build.onLoad({ filter: /.*/, namespace: "stub" }, (args) => ({
      // msgpackr falls back to JavaScript only when its add-on throws.
      contents:
        args.path === "msgpackr-extract"
          ? `throw new Error("The native add-on of msgpackr is not used");`
          : "module.exports = {};",
      loader: "js",
    }));
  },
};

export type BuildOptions = {
  outfile: string;
  /** Absent: the machine's own. */
  target?: "bun-linux-x64" | "bun-linux-arm64";
  /** Absent: {@link ENTRY_POINTS}. The first is main. */
  entryPoints?: string[];
};

/** The commit the work tree stands on, with `-dirty` when it differs; "unknown" outside of git. */
async function gitCommit(): Promise<string> {
  const commit = await $`git -C ${ROOT} rev-parse --short=12 HEAD`.quiet().nothrow();
  if (commit.exitCode !== 0) return "unknown";
  const changes = await $`git -C ${ROOT} status --porcelain`.quiet().nothrow();
  return commit.text().trim() + (changes.text().trim() === "" ? "" : "-dirty");
}

/** Compiles; throws with the compiler's messages. The old file stays whole until the new one is. */
export async function build(options: BuildOptions): Promise<{ sizeBytes: number }> {
  // package.json is ours; the version is what it is there for.
  const version = (
    JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string }
  ).version;
  const outfile = resolve(options.outfile);
  // A directory of its own, since maps are written beside the binary (which holds a copy of them).
  const workDir = join(dirname(outfile), `.build-${process.pid}`);
  const temporary = join(workDir, basename(outfile));
  mkdirSync(workDir, { recursive: true });
  const result = await Bun.build({
    entrypoints: (options.entryPoints ?? ENTRY_POINTS).map((path) => resolve(ROOT, path)),
    compile: {
      outfile: temporary,
      autoloadDotenv: false,
      autoloadBunfig: false,
      ...(options.target ? { target: options.target } : {}),
    },
    plugins: [stubPlugin],
    minify: true,
    bytecode: true,
    format: "esm",
    sourcemap: "inline",
    define: {
      SHOAL_VERSION: JSON.stringify(version),
      SHOAL_COMMIT: JSON.stringify(await gitCommit()),
    },
    throw: false,
  });
  if (!result.success) {
    rmSync(workDir, { recursive: true, force: true });
    throw new Error(`Cannot compile the agent:\n${result.logs.map(String).join("\n")}`);
  }
  // A running binary cannot be written to (ETXTBSY), but it can be replaced.
  renameSync(temporary, outfile);
  rmSync(workDir, { recursive: true, force: true });
  return { sizeBytes: statSync(outfile).size };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { arm64: { type: "boolean", default: false }, outfile: { type: "string" } },
  });
  const missing = ENTRY_POINTS.filter((path) => !existsSync(join(ROOT, path)));
  if (missing.length > 0) {
    console.error(`Cannot compile the agent: ${missing.join(", ")} not found`);
    process.exit(1);
  }
  const outfile = values.outfile ?? join(ROOT, "dist", values.arm64 ? "shoal-arm64" : "shoal");
  const startedMs = performance.now();
  const { sizeBytes } = await build({
    outfile,
    ...(values.arm64 ? { target: "bun-linux-arm64" as const } : {}),
  });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  console.log(`${outfile}: ${(sizeBytes / 1e6).toFixed(1)} MB, built in ${seconds} s`);
}
