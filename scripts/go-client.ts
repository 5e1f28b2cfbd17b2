/**
 * `bun scripts/go-client.ts [--binary path]`: Docker's Go client, unchanged, against shoal on a lab of its
 * own (test/lab/clients/go); beside test/lab/clients.test.ts, for a compiler is too large for every run.
 * Needs root and dist/shoal. Debian's Go and the client's sources (94 MB to fetch, 720 MB on disk) are unpacked below
 * SHOAL_GO_DIR (/var/tmp/shoal-go), not installed, and stay for the next time; with them it takes 40 s.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { run } from "./lab/command.ts";
import { createLab } from "./lab/lab.ts";

const PACKAGES = [
  "golang-1.19-go",
  "golang-1.19-src",
  "golang-github-containerd-containerd-dev",
  "golang-github-docker-distribution-dev",
  "golang-github-docker-docker-dev",
  "golang-github-docker-go-connections-dev",
  "golang-github-docker-go-units-dev",
  "golang-github-gogo-protobuf-dev",
  "golang-github-moby-term-dev",
  "golang-github-morikuni-aec-dev",
  "golang-github-opencontainers-go-digest-dev",
  "golang-github-opencontainers-image-spec-dev",
  "golang-github-pkg-errors-dev",
  "golang-github-sirupsen-logrus-dev",
  "golang-golang-x-net-dev",
  "golang-golang-x-sys-dev",
  "golang-golang-x-text-dev",
  "golang-google-genproto-dev",
  "golang-google-grpc-dev",
  "golang-google-protobuf-dev",
  "golang-goprotobuf-dev",
];

const { values: flags } = parseArgs({ options: { binary: { type: "string" } } });
const root = join(import.meta.dir, "..");
const dir = process.env["SHOAL_GO_DIR"] ?? "/var/tmp/shoal-go";
const tree = join(dir, "tree");

function mustRun(command: string[], cwd: string, env: Record<string, string> = {}): void {
  const { exitCode } = Bun.spawnSync(command, {
    cwd,
    env: { ...process.env, ...env },
    stdout: "inherit",
    stderr: "inherit",
  });
  if (exitCode !== 0) {
    console.error(`go-client: "${command.join(" ")}" ended with code ${exitCode}`);
    process.exit(1);
  }
}

if (!existsSync(tree)) {
  const fetched = join(dir, "fetched");
  const unpacked = join(dir, "unpacked");
  for (const path of [fetched, unpacked]) {
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path, { recursive: true });
  }
  mustRun(["apt-get", "download", "-q", ...PACKAGES], fetched);
  for (const name of readdirSync(fetched)) mustRun(["dpkg", "-x", name, unpacked], fetched);
  rmSync(fetched, { recursive: true });
  // Last of all: what is there is whole.
  renameSync(unpacked, tree);
}

const program = join(dir, "client");
const goRoot = join(tree, "usr/lib/go-1.19");
mustRun([join(goRoot, "bin/go"), "build", "-o", program, "."], join(root, "test/lab/clients/go"), {
  GOROOT: goRoot,
  GOPATH: join(tree, "usr/share/gocode"),
  GOCACHE: join(dir, "cache"),
  GO111MODULE: "off",
  CGO_ENABLED: "0",
  GOFLAGS: "",
});

const lab = await createLab({
  hosts: 1,
  agents: true,
  ...(flags.binary === undefined ? {} : { binary: flags.binary }),
});
try {
  await lab.host(1).docker("swarm", "init", "--advertise-addr", lab.host(1).address);
  const printed = await run([program], {
    env: { DOCKER_HOST: `unix://${lab.host(1).agentSocket()}`, HOME: "/nonexistent" },
    timeoutMs: 90_000,
  });
  // The program's own answer: what it looked at, and whether it was as in stock.
  const seen = JSON.parse(printed) as Record<string, boolean | string>;
  const failed = Object.entries(seen).filter(([, value]) => value !== true && value !== "active");
  for (const [name, value] of Object.entries(seen)) console.log(`${name}: ${String(value)}`);
  console.log(
    `${Object.keys(seen).length - failed.length} passed, ${failed.length} failed, 0 skipped`,
  );
  if (failed.length > 0) process.exitCode = 1;
} finally {
  await lab.down();
}
