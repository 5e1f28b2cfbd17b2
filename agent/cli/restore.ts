/**
 * `shoal restore`: reads and proves the file here, decrypts it here, and gives it to the local agent,
 * which makes a cluster of it or refuses with nothing made.
 */
import { readFileSync } from "node:fs";
import { ClusterError } from "../../core/errors.ts";
import { decodeBackup, encodeBackup } from "../backup.ts";
import { readPassphrase } from "./backup.ts";
import { callAgent } from "./socket.ts";

export type RestoreFlags = {
  passphraseFile?: string;
  advertiseAddr?: string;
  listenAddr?: string;
  dataPathAddr?: string;
  availability: string;
  socket: string;
};

/** @throws {ClusterError} what is wrong with the file, or what the agent refused. */
export async function runRestore(file: string, flags: RestoreFlags): Promise<void> {
  const bytes = await read(file);
  const backup = decodeBackup(bytes, readPassphrase(flags.passphraseFile));
  const plain = backup.header.encryption ? encodeBackup(backup) : bytes;
  const query = new URLSearchParams({ availability: flags.availability });
  if (flags.advertiseAddr) query.set("advertise-addr", flags.advertiseAddr);
  if (flags.listenAddr) query.set("listen-addr", flags.listenAddr);
  if (flags.dataPathAddr) query.set("data-path-addr", flags.dataPathAddr);
  const response = await callAgent(flags.socket, `/shoal/v1/restore?${query.toString()}`, {
    method: "POST",
    body: plain,
  });
  // The agent is this binary; see RestoreResult.
  const result = (await response.json()) as Record<string, string | number>;
  const { header } = backup;
  process.stdout.write(
    `Restored cluster ${result["clusterId"]} as of ${header.createdAt} (index ${header.index}): ${result["services"]} services. This node, ${result["nodeId"]}, is its only manager.
Workers of it (${result["workers"]}) come back by themselves if this host has an address of a manager they knew; others leave and join again.
Its other managers (${result["formerManagers"]}) are listed as workers that are down: keep them off the network, then "docker swarm leave --force" on each and join it again; "docker node rm" takes the old entry off the list.
`,
  );
}

async function read(file: string): Promise<Uint8Array<ArrayBuffer>> {
  if (file === "-") return new Uint8Array(await Bun.stdin.arrayBuffer());
  try {
    return new Uint8Array(readFileSync(file));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ClusterError("invalid-argument", `Cannot read ${file}: ${reason}`, { cause });
  }
}
