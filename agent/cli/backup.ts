/**
 * `shoal backup`: fetches the backup from the local manager, proves it, encrypts it if asked to (the
 * passphrase never leaves this process) or if the cluster is locked (by the unlock key in it), and writes it
 * whole or not at all, readable by its owner only.
 */
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { ClusterError } from "../../core/errors.ts";
import { decodeSnapshot } from "../../core/store/sqlite-snapshot.ts";
import { type Backup, decodeBackup, encodeBackup, unlockKeyIn } from "../backup.ts";
import { callAgent } from "./socket.ts";

export type BackupFlags = { output?: string; passphraseFile?: string; socket: string };

/** @throws {ClusterError} what the agent refused, or the file system. */
export async function runBackup(flags: BackupFlags): Promise<void> {
  const passphrase = readPassphrase(flags.passphraseFile);
  const isToStdout = flags.output === "-";
  if (isToStdout && process.stdout.isTTY) {
    throw new ClusterError("invalid-argument", "Cannot write a backup to a terminal: name a file");
  }
  const response = await callAgent(flags.socket, "/shoal/v1/backup");
  const plain = new Uint8Array(await response.arrayBuffer());
  const backup = decodeBackup(plain);
  const unlockKey = unlockKeyIn(backup);
  const secret = passphrase ?? unlockKey;
  const bytes = secret === undefined ? plain : encodeBackup(backup, secret);
  const path = flags.output ?? defaultName(backup);
  if (isToStdout) await Bun.write(Bun.stdout, bytes);
  else writeWhole(path, bytes);
  say(`${isToStdout ? "Backup" : path}: ${summary(backup)}, ${bytes.length} bytes.`);
  say(
    "It holds the key of the cluster's CA, the join tokens and all secrets: who can read it can be any node.",
  );
  if (secret === undefined) {
    say("It is not encrypted (--passphrase-file); only its owner may read the file.");
  }
  if (passphrase === undefined && secret !== undefined) {
    say(
      'The cluster is locked: the passphrase of this file is the unlock key ("docker swarm unlock-key -q"). Keep it elsewhere.',
    );
  }
  if (backup.header.isStale) {
    say("WARNING: there was no leader: the newest changes may be missing.");
  }
}

/** The first line of the file. @throws {ClusterError} invalid-argument when it is empty or unreadable. */
export function readPassphrase(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw unusable("read the passphrase from", path, cause);
  }
  const [line = ""] = text.split(/\r?\n/, 1);
  if (line === "") {
    throw new ClusterError("invalid-argument", `Cannot use ${path}: its first line is empty`);
  }
  return line;
}

function summary(backup: Backup): string {
  const { rows } = decodeSnapshot(backup.snapshot);
  const count = (table: string) => rows.filter((row) => row.table === table).length;
  return `cluster ${backup.header.clusterId} at index ${backup.header.index} with ${count("service")} services, ${count("network")} networks, ${count("secret")} secrets, ${count("node")} nodes`;
}

function defaultName({ header }: Backup): string {
  const time = header.createdAt.replaceAll(/[-:]|\.\d+/g, "");
  return `shoal-${header.clusterId}-${time}.backup`;
}

function writeWhole(path: string, bytes: Uint8Array): void {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  try {
    const file = openSync(temporary, "wx", 0o600);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw unusable("write", path, cause);
  }
}

function unusable(what: string, path: string, cause: unknown): ClusterError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ClusterError("invalid-argument", `Cannot ${what} ${path}: ${reason}`, { cause });
}

/** Standard output may be the backup itself. */
function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
