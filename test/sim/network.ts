/** A network that loses, delays, doubles, reorders and damages, between nodes known by name. */
import type { Random } from "../../core/random.ts";
import type { Faults } from "./faults.ts";
import type { World } from "./world.ts";

export type Network = {
  /** `extraDelayMs`: the sender was busy before it came to send. */
  send(link: { from: string; to: string }, frame: Uint8Array, extraDelayMs: number): void;
  /** Cuts one direction for a while. */
  cut(link: { from: string; to: string }, durationMs: number): void;
  /** From now on nothing goes wrong any more. */
  heal(): void;
};

export function createNetwork(options: {
  world: World;
  random: Random;
  faults: Faults;
  deliver: (link: { from: string; to: string }, frame: Uint8Array) => void;
  /** A frame is lost, and its sender may come to know: the connection broke. */
  lost: (link: { from: string; to: string }) => void;
}): Network {
  const { world, random, faults, deliver, lost } = options;
  const cutUntilMs = new Map<string, number>();
  const lastArrivalMs = new Map<string, number>();
  let isHealed = false;

  const isCut = (key: string) => (cutUntilMs.get(key) ?? 0) > world.nowMs;
  const latencyMs = () => {
    if (isHealed) return 1 + random.next() * 4;
    const { latencyMsMin, latencyMsMax, spikeRate, spikeMs } = faults;
    const spike = random.next() < spikeRate ? random.next() * spikeMs : 0;
    return latencyMsMin + random.next() * (latencyMsMax - latencyMsMin) + spike;
  };
  const sendOnce = (link: { from: string; to: string }, frame: Uint8Array, extraMs: number) => {
    const key = `${link.from}>${link.to}`;
    let arrivalMs = world.nowMs + extraMs + latencyMs();
    if (faults.isFifo) {
      arrivalMs = Math.max(arrivalMs, lastArrivalMs.get(key) ?? 0);
      lastArrivalMs.set(key, arrivalMs);
    }
    world.schedule(arrivalMs - world.nowMs, () => {
      if (!isCut(key)) deliver(link, frame);
    });
  };

  return {
    send: (link, frame, extraMs) => {
      if (isHealed) {
        sendOnce(link, frame, extraMs);
        return;
      }
      if (isCut(`${link.from}>${link.to}`) || random.next() < faults.dropRate) {
        lost(link);
        return;
      }
      sendOnce(link, random.next() < faults.damageRate ? damage(frame, random) : frame, extraMs);
      if (random.next() < faults.duplicateRate) sendOnce(link, frame, extraMs);
    },
    cut: (link, durationMs) => {
      cutUntilMs.set(`${link.from}>${link.to}`, world.nowMs + durationMs);
    },
    heal: () => {
      isHealed = true;
      cutUntilMs.clear();
    },
  };
}

function damage(frame: Uint8Array, random: Random): Uint8Array {
  const copy = frame.slice();
  const at = Math.floor(random.next() * copy.length);
  copy[at] = (copy[at] ?? 0) ^ (1 << Math.floor(random.next() * 8));
  return copy;
}
