import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build, ENTRY_POINTS } from "../../scripts/build.ts";
import { run } from "../../scripts/lab/command.ts";

const workDir = mkdtempSync(join(tmpdir(), "shoal-build-"));
afterAll(() => rmSync(workDir, { recursive: true, force: true }));

test("build() gives one file whose threads start from any directory, without the sources", async () => {
  const sourceDir = join(workDir, "source");
  mkdirSync(sourceDir);
  const write = (name: string, text: string) => writeFileSync(join(sourceDir, name), text);
  write(
    "main.ts",
    `import { Worker } from "node:worker_threads";
     const worker = new Worker(new URL("./echo-worker.ts", import.meta.url));
     worker.on("message", (text) => console.log(text, process.env.FROM_DOTENV ?? "no .env"));`,
  );
  write(
    "echo-worker.ts",
    `import { parentPort } from "node:worker_threads";
     import ssh2 from "ssh2";
     parentPort.postMessage("thread " + Object.keys(ssh2).length);`,
  );
  const outfile = join(workDir, "out", "program");
  const entryPoints = ["main.ts", "echo-worker.ts"].map((name) => join(sourceDir, name));
  const { sizeBytes } = await build({ outfile, entryPoints });
  expect(sizeBytes).toBeGreaterThan(50_000_000);
  expect(readdirSync(join(workDir, "out"))).toEqual(["program"]);

  rmSync(sourceDir, { recursive: true });
  const elsewhere = join(workDir, "elsewhere");
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, ".env"), "FROM_DOTENV=read\n");
  expect(await run(["sh", "-c", 'cd "$1" && "$2"', "sh", elsewhere, outfile])).toBe(
    "thread 0 no .env",
  );
}, 60_000);

test("the entry points stand in the folder of main.ts, where the binary looks for them", () => {
  expect(ENTRY_POINTS[0]).toBe("agent/main.ts");
  for (const path of ENTRY_POINTS) expect(path).toMatch(/^agent\/[a-z-]+\.ts$/);
});
