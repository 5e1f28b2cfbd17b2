/** `shoal slots`: where the slots of a stateful service live, moving and forgetting them. */
import type { SlotLine } from "../api/slots.ts";
import { callAgent } from "./socket.ts";
import { table } from "./table.ts";

const pathOf = (service: string) => `/shoal/v1/services/${encodeURIComponent(service)}/slots`;
const slotPath = (service: string, slot: string) =>
  `${pathOf(service)}/${encodeURIComponent(slot)}`;

/** @throws {ClusterError} what the agent refused. */
export async function listSlots(service: string, socket: string): Promise<void> {
  const answer = await callAgent(socket, pathOf(service));
  // The agent is this binary.
  const slots = (await answer.json()) as SlotLine[];
  const rows = slots.map((one) => [
    one.Name,
    one.Node?.Hostname ?? "",
    one.Node?.State ?? "",
    one.TaskState ?? (one.IsUsed ? "" : "(scaled down)"),
    Object.entries(one.Addresses)
      .map(([network, address]) => `${network} ${address}`)
      .join(", "),
  ]);
  process.stdout.write(`${table(["SLOT", "HOME", "NODE", "TASK", "ADDRESSES"], rows)}\n`);
}

/** Without a node the scheduler chooses. @throws {ClusterError} as listSlots. */
export async function moveSlot(
  service: string,
  slot: string,
  flags: { node?: string; force?: boolean; socket: string },
): Promise<void> {
  await callAgent(flags.socket, slotPath(service, slot), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ Node: flags.node ?? "", Force: flags.force === true }),
  });
  const where = flags.node === undefined ? "the next node that can have it" : flags.node;
  process.stdout.write(
    `Slot ${slot} of ${service} lives on ${where} now; its volumes stay where they were.\n`,
  );
}

/** @throws {ClusterError} as listSlots. */
export async function forgetSlot(service: string, slot: string, socket: string): Promise<void> {
  await callAgent(socket, slotPath(service, slot), { method: "DELETE" });
  process.stdout.write(
    `Slot ${slot} of ${service} has no home and no addresses any more; its volumes stay where they are.\n`,
  );
}
