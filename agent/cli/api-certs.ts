/**
 * `shoal api-certs DIR`: certificates for the API over TLS, laid out as docker wants them. The CA is one
 * of its own, not the cluster's: who may command the cluster and who belongs to it are two things.
 *
 *   DIR/ca.pem, DIR/ca-key.pem               the CA, made when it is not there
 *   DIR/server-<first name>/{ca,cert,key}.pem   for --tlscacert, --tlscert, --tlskey
 *   DIR/client-<name>/{ca,cert,key}.pem         for DOCKER_CERT_PATH, or docker context create
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import { ClusterError } from "../../core/errors.ts";
import { writeAtomically } from "../../net/pki/atomic-file.ts";
import {
  type CertificateAuthority,
  createRootCa,
  issueApiCertificate,
  readRootCa,
} from "../../net/pki/issue.ts";

const DAY_MS = 86_400_000;
const DAYS_MAX = 3_650;
const HOSTS_MAX = 16;
/** As a folder's name and a certificate's. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** @throws {ClusterError} invalid-argument, in-use when a certificate of that name is there already. */
export async function makeApiCertificates(
  dir: string,
  flags: { host?: string[]; client?: string; days: string },
): Promise<void> {
  const hosts = flags.host ?? [];
  const days = Number(flags.days);
  if (!Number.isInteger(days) || days < 1 || days > DAYS_MAX) {
    throw invalid(`--days "${flags.days}"`, `give a whole number from 1 to ${DAYS_MAX}`);
  }
  if (hosts.length > HOSTS_MAX) throw invalid(`${hosts.length} hosts`, `give at most ${HOSTS_MAX}`);
  const badHost = hosts.find((host) => !NAME.test(host) && isIP(host) === 0);
  if (badHost !== undefined)
    throw invalid(`--host "${badHost}"`, "give host names and IP addresses");
  if (flags.client !== undefined && !NAME.test(flags.client)) {
    throw invalid(`--client "${flags.client}"`, "use letters, digits, dots, dashes, underscores");
  }
  const [firstHost, ...otherHosts] = hosts;
  const wanted: { kind: "server" | "client"; names: [string, ...string[]] }[] = [];
  if (firstHost !== undefined) wanted.push({ kind: "server", names: [firstHost, ...otherHosts] });
  if (flags.client !== undefined) wanted.push({ kind: "client", names: [flags.client] });
  if (wanted.length === 0) {
    throw invalid("a certificate for nobody", "say --host for a server's, --client for a user's");
  }
  const folderOf = (kind: string, name: string) =>
    join(dir, `${kind}-${name.replaceAll(":", "_")}`);
  for (const { kind, names } of wanted) {
    const folder = folderOf(kind, names[0]);
    if (!existsSync(folder)) continue;
    throw new ClusterError(
      "in-use",
      `Cannot make "${folder}": it is there already; remove it to have it made anew`,
    );
  }
  const nowMs = Date.now();
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const ca = await authorityOf(dir, nowMs);
  for (const { kind, names } of wanted) {
    const lifetimeMs = days * DAY_MS;
    const issued = await issueApiCertificate({ ca, kind, names, lifetimeMs, nowMs });
    const folder = folderOf(kind, names[0]);
    mkdirSync(folder, { mode: 0o700 });
    writeAtomically(join(folder, "ca.pem"), ca.certificatePem, 0o644);
    writeAtomically(join(folder, "cert.pem"), issued.certificatePem, 0o644);
    writeAtomically(join(folder, "key.pem"), issued.keyPem, 0o600);
    console.log(folder);
  }
}

async function authorityOf(dir: string, nowMs: number): Promise<CertificateAuthority> {
  const [certificatePath, keyPath] = [join(dir, "ca.pem"), join(dir, "ca-key.pem")];
  if (existsSync(certificatePath) || existsSync(keyPath)) {
    try {
      return readRootCa({
        certificatePem: readFileSync(certificatePath, "utf8"),
        keyPem: readFileSync(keyPath, "utf8"),
        nowMs,
      });
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new ClusterError("invalid-argument", `Cannot use the CA in "${dir}": ${why}`, {
        cause,
      });
    }
  }
  const ca = await createRootCa({ nowMs, name: "shoal-api-ca" });
  // The key first: without it the certificate would be of no use.
  writeAtomically(keyPath, ca.keyPem, 0o600);
  writeAtomically(certificatePath, ca.certificatePem, 0o644);
  return ca;
}

function invalid(what: string, cure: string): ClusterError {
  return new ClusterError("invalid-argument", `Cannot make ${what}: ${cure}`);
}
