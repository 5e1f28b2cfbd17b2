import type { RaftIndex, UnixMs } from "../ids.ts";

/** What every replicated object has. The version is the raft index of the object's last change. */
export type ObjectMeta = {
  id: string;
  version: RaftIndex;
  createdAtMs: UnixMs;
  updatedAtMs: UnixMs;
};

export type Labels = Record<string, string>;
/** Nanoseconds, as the Docker API counts durations. */
export type Nanoseconds = number;
export const NS_PER_MS = 1_000_000;
