import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tryRun } from "../../scripts/lab/command.ts";

const SCRIPT = join(import.meta.dir, "../../scripts/install.sh");
const workDir = mkdtempSync(join(tmpdir(), "shoal-install-"));
afterAll(() => rmSync(workDir, { recursive: true, force: true }));

// Stands in for the binary: what counts here is where it goes.
const binary = join(workDir, "fake-shoal");
writeFileSync(binary, "#!/bin/sh\necho 1.2.3\n");
chmodSync(binary, 0o644);
const checksum = new Bun.CryptoHasher("sha256").update(readFileSync(binary)).digest("hex");

let rootCount = 0;
function newRoot(): string {
  rootCount += 1;
  return join(workDir, `root${rootCount}`);
}
const install = (...args: string[]) => tryRun(["sh", SCRIPT, ...args], { timeoutMs: 20_000 });

/** All files below, by their path. */
function filesIn(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
    .toSorted();
}

describe("install.sh", () => {
  test("puts the binary, the unit and a private state directory below --root", async () => {
    const root = newRoot();
    const result = await install("--binary", binary, "--root", root);
    expect(result).toMatchObject({ code: 0, stderr: "" });
    expect(filesIn(root)).toEqual(["/etc/systemd/system/shoal.service", "/usr/local/bin/shoal"]);
    expect(statSync(join(root, "usr/local/bin/shoal")).mode & 0o777).toBe(0o755);
    expect(statSync(join(root, "var/lib/shoal")).mode & 0o777).toBe(0o700);
  });

  test("writes a unit that outlives crashes and never kills what runs beside the agent", async () => {
    const root = newRoot();
    await install("--binary", binary, "--root", root);
    const unit = readFileSync(join(root, "etc/systemd/system/shoal.service"), "utf8");
    const lines = unit.split("\n");
    for (const line of [
      "Type=notify",
      "ExecStart=/usr/local/bin/shoal agent",
      "Restart=always",
      "StartLimitIntervalSec=0",
      "KillMode=process",
      "Nice=-10",
      "RuntimeDirectory=shoal",
      "RuntimeDirectoryPreserve=yes",
      "StateDirectoryMode=0700",
    ]) {
      expect(lines).toContain(line);
    }
    expect(unit).toMatch(/^UnsetEnvironment=.*BUN_BE_BUN.*BUN_OPTIONS/m);
    expect(unit).toMatch(/^After=.*docker\.service/m);
  });

  test("replaces an older binary, also one that is running", async () => {
    const root = newRoot();
    await install("--binary", "/bin/sleep", "--root", root);
    const running = Bun.spawn([join(root, "usr/local/bin/shoal"), "30"]);
    try {
      const result = await install("--binary", binary, "--root", root);
      expect(result.code).toBe(0);
      expect(readFileSync(join(root, "usr/local/bin/shoal"), "utf8")).toContain("1.2.3");
      expect(running.exitCode).toBeNull();
    } finally {
      running.kill();
    }
  });

  test("fetches from a URL and checks the checksum", async () => {
    const root = newRoot();
    const from = ["--url", `file://${binary}`, "--root", root];
    expect((await install(...from, "--sha256", checksum)).code).toBe(0);
    expect(filesIn(root)).toContain("/usr/local/bin/shoal");
  });

  test("installs nothing when the checksum differs", async () => {
    const root = newRoot();
    const result = await install("--binary", binary, "--root", root, "--sha256", "0".repeat(64));
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`has the checksum ${checksum}, not 000`);
    expect(() => statSync(root)).toThrow();
  });

  test("says what is wrong with a missing binary or option", async () => {
    const absent = await install("--binary", join(workDir, "absent"), "--root", newRoot());
    expect(absent).toMatchObject({ code: 1, stderr: expect.stringContaining("absent not found") });
    expect((await install("--binary")).stderr).toContain("--binary needs a value");
    expect((await install("--frobnicate")).stderr).toContain("unknown option --frobnicate");
  });

  test("--uninstall leaves no file, and can be repeated", async () => {
    const root = newRoot();
    await install("--binary", binary, "--root", root);
    writeFileSync(join(root, "var/lib/shoal/raft.db"), "x");
    expect((await install("--uninstall", "--root", root)).code).toBe(0);
    expect(filesIn(root)).toEqual([]);
    expect((await install("--uninstall", "--root", root)).code).toBe(0);
  });

  test("--check names the package of a missing command, and changes nothing", async () => {
    // Commands of sbin are not on this path; the script looks there by itself.
    const result = await tryRun(["sh", SCRIPT, "--check"], { timeoutMs: 20_000 });
    expect(result.stdout).toContain("Checking this host:");
    expect(result.code).toBe(result.stdout.includes("MISSING") ? 1 : 0);
    for (const line of result.stdout.split("\n").filter((each) => each.includes("MISSING"))) {
      expect(line).toMatch(/install package|start it|upgrade it|run |kernel without it|this is/);
    }
  });
});
