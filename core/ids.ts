import type { Random } from "./random.ts";

export type NodeId = string;
export type ServiceId = string;
export type TaskId = string;
export type NetworkId = string;
export type SecretId = string;
export type ConfigId = string;

/** Raft log index, counted from 1; 0 means "before the first entry". Also every object's version. */
export type RaftIndex = number;
/** Milliseconds since 1970-01-01 UTC. */
export type UnixMs = number;

const ID_LENGTH = 25;

/** 25 characters of base 36 from 17 random bytes. Source: SwarmKit identity/randomid.go. */
export function newId(random: Random): string {
  let value = 0n;
  for (const byte of random.bytes(17)) value = (value << 8n) | BigInt(byte);
  return value.toString(36).padStart(ID_LENGTH, "0").slice(-ID_LENGTH);
}
