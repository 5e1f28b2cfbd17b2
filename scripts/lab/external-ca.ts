/**
 * An external CA for a lab: Debian's cfssl in the router's network namespace, with a root of its own. It signs for
 * clients that show a certificate of one of the given roots. It is in the lab's control group and directory, and
 * goes with the lab.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type CertificateAuthority,
  createKeyAndCsr,
  createRootCa,
  issueCertificate,
} from "../../net/pki/issue.ts";
import { waitFor } from "./command.ts";
import { namespacePath, ROUTER_ADDRESS } from "./fabric.ts";
import type { Lab } from "./lab.ts";
import { end, isAlive, launch, makeControlGroup, readProcessId } from "./processes.ts";

export type ExternalCa = {
  /** Where it signs. */
  url: string;
  /** Its root, a month old, with the key; and the certificate as a file. */
  root: CertificateAuthority;
  rootPath: string;
  start(trustedPem: string): Promise<void>;
  stop(): Promise<void>;
};

const PORT = 8888;
const ROOT_AGE_MS = 30 * 86_400_000;
const LIFETIME = "24h";

/** Not started yet; a lab has at most one. */
export async function makeExternalCa(lab: Pick<Lab, "name" | "dir">): Promise<ExternalCa> {
  const dir = join(lab.dir, "external-ca");
  mkdirSync(dir, { recursive: true });
  const place = (name: string, text: string) => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  const root = await createRootCa({ nowMs: Date.now() - ROOT_AGE_MS });
  const server = await createKeyAndCsr();
  const certificatePem = await issueCertificate({
    ca: root,
    csrPem: server.csrPem,
    nodeId: "external-ca",
    role: "worker",
    clusterId: "none",
    lifetimeMs: 86_400_000,
    nowMs: Date.now(),
    sans: [ROUTER_ADDRESS],
  });
  const rootPath = place("root.pem", root.certificatePem);
  const files = {
    ca: rootPath,
    "ca-key": place("root.key", root.keyPem),
    "tls-cert": place("tls.pem", certificatePem),
    "tls-key": place("tls.key", server.keyPem),
  };
  const pidPath = join(dir, "cfssl.pid");
  const made: ExternalCa = {
    url: `https://${ROUTER_ADDRESS}:${PORT}/api/v1/cfssl/sign`,
    root,
    rootPath,
    start: async (trustedPem) => {
      const usages = ["signing", "key encipherment", "server auth", "client auth"];
      const policy = { signing: { default: { expiry: LIFETIME, usages } } };
      const flags = {
        ...files,
        address: ROUTER_ADDRESS,
        port: String(PORT),
        config: place("policy.json", JSON.stringify(policy)),
        "mutual-tls-ca": place("clients.pem", trustedPem),
      };
      const inRouter = ["nsenter", `--net=${namespacePath(lab.name, "rtr")}`];
      const id = await launch({
        command: [
          ...inRouter,
          "cfssl",
          "serve",
          ...Object.entries(flags).flatMap(([name, value]) => [`-${name}`, value]),
        ],
        pidPath,
        logPath: join(dir, "cfssl.log"),
        controlGroup: await makeControlGroup(`${lab.name}-lab/external-ca`),
      });
      const probe = ["bash", "-c", `exec 3<>/dev/tcp/${ROUTER_ADDRESS}/${PORT}`];
      await waitFor(
        "the external CA",
        () => {
          if (!isAlive(id)) throw new Error(`It has ended: see ${join(dir, "cfssl.log")}`);
          return Bun.spawnSync([...inRouter, ...probe]).exitCode === 0;
        },
        { timeoutMs: 15_000, intervalMs: 50 },
      );
    },
    stop: () => end(readProcessId(pidPath), 5_000),
  };
  return made;
}
