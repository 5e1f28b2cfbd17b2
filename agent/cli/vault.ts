/** `shoal vault rotate`: begins the rotation (agent/data-keys.ts) and waits for its end. */
import { ClusterError } from "../../core/errors.ts";
import type { VaultStatus } from "../data-keys.ts";
import { callAgent } from "./socket.ts";

const POLL_MS = 250;
/** A manager that does not get the key holds it up; it goes on by itself. */
const WAIT_MS = 120_000;

/** @throws {ClusterError} what the agent refused; deadline when it has not ended in time. */
export async function rotateVault(flags: { detach?: boolean; socket: string }): Promise<void> {
  await callAgent(flags.socket, "/shoal/v1/vault/rotate", { method: "POST" });
  if (flags.detach === true) return;
  const endsAtMs = Date.now() + WAIT_MS;
  for (;;) {
    const answer = await callAgent(flags.socket, "/shoal/v1/vault");
    // Of the same binary.
    const status = (await answer.json()) as VaultStatus;
    if (status.nextKeyId === undefined && status.staleCount === 0) {
      process.stdout.write(`Everything is sealed by data key ${status.sealingKeyId ?? ""}.\n`);
      return;
    }
    if (Date.now() > endsAtMs) throw new ClusterError("deadline", unfinished(status));
    await Bun.sleep(POLL_MS);
  }
}

function unfinished({ nextKeyId, lateManagers, staleCount }: VaultStatus): string {
  const what =
    nextKeyId === undefined
      ? `${staleCount} objects are still to be sealed anew`
      : `managers without the new key: ${lateManagers.join(", ")}`;
  return `The rotation has not ended within ${WAIT_MS / 1_000} s, and goes on: ${what}; shoal vault rotate begins it again with another key`;
}
