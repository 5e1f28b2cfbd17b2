import { randomBytes, randomInt } from "node:crypto";
import type { Random } from "../core/random.ts";

/** The system's randomness, for ids, tokens and jitter outside the simulator. */
export const systemRandom: Random = {
  next: () => randomInt(0, 2 ** 32) / 2 ** 32,
  bytes: (count) => randomBytes(count),
};
