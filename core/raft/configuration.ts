import { assert } from "../assert.ts";
import type { NodeId } from "../ids.ts";
import type { Configuration, ConfigurationMember } from "./messages.ts";

/** A configuration in its one order, so that equal ones have equal bytes. */
export function configurationOf(members: readonly ConfigurationMember[]): Configuration {
  const sorted = members.toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  for (let i = 1; i < sorted.length; i++) {
    assert(
      sorted[i]?.nodeId !== sorted[i - 1]?.nodeId,
      `Member ${sorted[i]?.nodeId} is there twice`,
    );
  }
  return { members: sorted };
}

/** Undefined when the node takes no part. */
export function findMember(
  configuration: Configuration,
  nodeId: NodeId,
): ConfigurationMember | undefined {
  return configuration.members.find((member) => member.nodeId === nodeId);
}

export function votersOf(configuration: Configuration): NodeId[] {
  return configuration.members.filter((m) => !m.isLearner).map((m) => m.nodeId);
}

export function isVoter(configuration: Configuration, nodeId: NodeId): boolean {
  const member = findMember(configuration, nodeId);
  return member !== undefined && !member.isLearner;
}

export function encodeConfiguration(configuration: Configuration): Uint8Array {
  const rows = configuration.members.map((m) => [m.nodeId, m.addr, m.isLearner, m.addedAtIndex]);
  return new TextEncoder().encode(JSON.stringify(rows));
}

/** @throws {Error} when the bytes are not a configuration; codec.ts checks what peers send. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  const rows: unknown = JSON.parse(new TextDecoder().decode(bytes));
  if (!Array.isArray(rows)) throw new SyntaxError("A configuration is a list of members");
  const members = rows.map((row: unknown): ConfigurationMember => {
    if (!Array.isArray(row)) throw new SyntaxError("A member is a list");
    const [nodeId, addr, isLearner, addedAtIndex] = row as unknown[];
    if (typeof nodeId !== "string" || typeof addr !== "string" || typeof isLearner !== "boolean") {
      throw new SyntaxError("A member is [nodeId, addr, isLearner]");
    }
    if (typeof addedAtIndex !== "number") throw new SyntaxError("addedAtIndex is a number");
    return { nodeId, addr, isLearner, addedAtIndex };
  });
  return configurationOf(members);
}
