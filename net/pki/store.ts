/**
 * A node's key and certificates on disk: `pki/ca.pem`, `pki/node.pem`, `pki/node.key` (0600) under
 * the data directory.
 *
 * Invariants: (1) a file is either its old or its new text, whole, after a crash at any point
 * (temporary file, fsync, rename, fsync of the directory); (2) a loaded key belongs to the loaded
 * certificate: the new key waits in `node.key.next` until the certificate's rename, which is the
 * one moment at which the pair changes; loadPki() finishes a move that a crash cut off. Synchronous:
 * a few small files, at start and once in weeks. The key's file may be sealed (a manager's is: agent/lock.ts).
 */
import { X509Certificate, createPrivateKey } from "node:crypto";
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ClusterError } from "../../core/errors.ts";
import type { TlsIdentity } from "../rpc/peer.ts";
import { readText, syncDirectory, writeAtomically } from "./atomic-file.ts";

const PRIVATE_MODE = 0o600;
const PUBLIC_MODE = 0o644;
const KEY_CONTEXT = "the node's key";

/** How the text of a private file is stored. */
export type FileSealer = {
  seal(context: string, text: string): string;
  /** Text in clear stays as it is. @throws {ClusterError} when it is sealed and cannot be opened. */
  open(context: string, stored: string): string;
};

/** As they are. */
export const CLEAR_FILES: FileSealer = { seal: (_, text) => text, open: (_, stored) => stored };

/** Where the files of a data directory are. */
export function pkiPaths(dataDir: string) {
  const dir = join(dataDir, "pki");
  return {
    dir,
    ca: join(dir, "ca.pem"),
    certificate: join(dir, "node.pem"),
    key: join(dir, "node.key"),
    keyNext: join(dir, "node.key.next"),
  };
}

/**
 * The saved identity; undefined when this node has none.
 * @throws {ClusterError} failed-precondition when files are missing or do not belong together.
 */
export function loadPki(dataDir: string, files = CLEAR_FILES): TlsIdentity | undefined {
  const paths = pkiPaths(dataDir);
  const certificatePem = readText(paths.certificate);
  if (certificatePem === undefined) return undefined;
  const caCertificatePem = readText(paths.ca);
  const candidates = [paths.key, paths.keyNext].map((path) => ({
    path,
    pem: readKey(path, files),
  }));
  const found = candidates.find(({ pem }) => pem !== undefined && isPair(certificatePem, pem));
  const keyPem = found?.pem;
  if (keyPem === undefined || caCertificatePem === undefined) {
    const lacking = caCertificatePem === undefined ? paths.ca : paths.key;
    throw new ClusterError(
      "failed-precondition",
      `Cannot load the node's certificate: ${lacking} is missing or does not belong to ${paths.certificate}; restore it or let the node leave and join again`,
    );
  }
  if (found?.path === paths.keyNext) {
    renameSync(paths.keyNext, paths.key);
    syncDirectory(paths.dir);
  }
  return { certificatePem, keyPem, caCertificatePem };
}

/** Replaces the saved identity; on return it is on disk. One call at a time. */
export function savePki(dataDir: string, identity: TlsIdentity, files = CLEAR_FILES): void {
  const paths = pkiPaths(dataDir);
  mkdirSync(paths.dir, { recursive: true, mode: 0o700 });
  writeAtomically(paths.ca, identity.caCertificatePem, PUBLIC_MODE);
  writeAtomically(paths.keyNext, files.seal(KEY_CONTEXT, identity.keyPem), PRIVATE_MODE);
  syncDirectory(paths.dir);
  writeAtomically(paths.certificate, identity.certificatePem, PUBLIC_MODE);
  syncDirectory(paths.dir);
  renameSync(paths.keyNext, paths.key);
  syncDirectory(paths.dir);
}

/** Forgets the identity (leave). The certificate goes first: without it nothing is loaded. */
export function removePki(dataDir: string): void {
  const paths = pkiPaths(dataDir);
  rmSync(paths.certificate, { force: true });
  rmSync(paths.dir, { recursive: true, force: true });
}

function isPair(certificatePem: string, keyPem: string): boolean {
  try {
    return new X509Certificate(certificatePem).checkPrivateKey(createPrivateKey(keyPem));
  } catch (error) {
    // Not a key or not a certificate (node:crypto's own error codes): no pair either way.
    if (error instanceof Error && "code" in error) return false;
    throw error;
  }
}

/** Undefined as well when it cannot be opened: the other file may be the right one. */
function readKey(path: string, files: FileSealer): string | undefined {
  const stored = readText(path);
  if (stored === undefined) return undefined;
  try {
    return files.open(KEY_CONTEXT, stored);
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return undefined;
  }
}
