/**
 * An image registry for a lab: Debian's docker-registry with one user, in the router's network
 * namespace, so that a host whose cable is pulled cannot reach it. The engines take it without TLS
 * (host.ts). It is in the lab's control group and directory, and goes with the lab.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "./command.ts";
import { namespacePath, ROUTER_ADDRESS } from "./fabric.ts";
import type { Lab } from "./lab.ts";
import { end, isAlive, launch, makeControlGroup, readProcessId } from "./processes.ts";

export type Registry = {
  /** `address:port`, the first part of image names. */
  address: string;
  user: string;
  password: string;
  /** Its images stay; `start` brings them back. */
  start(): Promise<void>;
  stop(): Promise<void>;
};

const PORT = 5000;

/** Starts one; a lab has at most one. */
export async function startRegistry(lab: Pick<Lab, "name" | "dir">): Promise<Registry> {
  const [user, password] = ["lab", "registry-password-77"];
  const dir = join(lab.dir, "registry");
  mkdirSync(join(dir, "data"), { recursive: true });
  const hash = await Bun.password.hash(password, { algorithm: "bcrypt", cost: 4 });
  writeFileSync(join(dir, "htpasswd"), `${user}:${hash}\n`);
  const config = {
    version: "0.1",
    log: { level: "warn" },
    storage: { filesystem: { rootdirectory: join(dir, "data") }, delete: { enabled: true } },
    http: { addr: `${ROUTER_ADDRESS}:${PORT}`, secret: "of no use with one instance" },
    auth: { htpasswd: { realm: "lab", path: join(dir, "htpasswd") } },
  };
  // JSON is YAML.
  writeFileSync(join(dir, "config.yml"), JSON.stringify(config));
  const pidPath = join(dir, "registry.pid");
  const registry: Registry = {
    address: `${ROUTER_ADDRESS}:${PORT}`,
    user,
    password,
    start: async () => {
      const inRouter = ["nsenter", `--net=${namespacePath(lab.name, "rtr")}`];
      const id = await launch({
        command: [...inRouter, "docker-registry", "serve", join(dir, "config.yml")],
        pidPath,
        logPath: join(dir, "registry.log"),
        controlGroup: await makeControlGroup(`${lab.name}-lab/registry`),
      });
      const probe = ["bash", "-c", `exec 3<>/dev/tcp/${ROUTER_ADDRESS}/${PORT}`];
      await waitFor(
        "the registry",
        () => {
          if (!isAlive(id)) throw new Error(`It has ended: see ${join(dir, "registry.log")}`);
          return Bun.spawnSync([...inRouter, ...probe]).exitCode === 0;
        },
        { timeoutMs: 15_000, intervalMs: 50 },
      );
    },
    stop: () => end(readProcessId(pidPath), 5_000),
  };
  await registry.start();
  return registry;
}
