import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeApiCertificates } from "../../../agent/cli/api-certs.ts";

let dir = "";
let said: ReturnType<typeof spyOn>;
beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), "shoal-certs-")), "api");
  said = spyOn(console, "log").mockImplementation(() => undefined);
});
afterEach(() => {
  said.mockRestore();
  rmSync(join(dir, ".."), { recursive: true, force: true });
});

test("a CA is made once, keys are for their owner only, and nothing is made twice", async () => {
  await makeApiCertificates(dir, { host: ["h1", "192.0.2.1"], client: "alice", days: "30" });
  const ca = readFileSync(join(dir, "ca.pem"), "utf8");
  await makeApiCertificates(dir, { client: "bob", days: "30" });
  expect(readFileSync(join(dir, "ca.pem"), "utf8")).toBe(ca);
  for (const path of ["ca-key.pem", "server-h1/key.pem", "client-bob/key.pem"]) {
    expect(statSync(join(dir, path)).mode & 0o777).toBe(0o600);
  }
  const again = makeApiCertificates(dir, { client: "alice", days: "30" });
  expect(await again.catch(String)).toContain("it is there already");
});

test("bad input is refused and leaves nothing", async () => {
  const make = (flags: { host?: string[]; client?: string; days?: string }) =>
    makeApiCertificates(dir, { days: "30", ...flags }).catch(String);
  expect(await make({})).toContain("say --host");
  expect(await make({ client: "../x" })).toContain('--client "../x"');
  expect(await make({ host: ["a b"] })).toContain('--host "a b"');
  expect(await make({ client: "a", days: "0" })).toContain('--days "0"');
  expect(existsSync(dir)).toBe(false);
});

test("a CA without its key, or broken, is named", async () => {
  await makeApiCertificates(dir, { client: "alice", days: "30" });
  writeFileSync(join(dir, "ca-key.pem"), "torn");
  const made = makeApiCertificates(dir, { client: "bob", days: "30" });
  expect(await made.catch(String)).toMatch(/Cannot use the CA in ".*": .*key is not readable/);
});
