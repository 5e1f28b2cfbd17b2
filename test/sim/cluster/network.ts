/**
 * The network between hosts as net/rpc sees it: connections in which messages arrive in order or not at
 * all, and raft messages that may be lost, doubled and reordered besides (more than TLS would allow; raft
 * must not mind).
 *
 * A cut link holds messages back as TCP does; one that is cut for longer breaks its connections: both
 * ends find out by silence, as by the pings of net/rpc/connection.ts.
 */
import { ClusterError, fromErrorBody, toErrorBody } from "../../../core/errors.ts";
import type { NodeRole } from "../../../core/objects/node.ts";
import type { Random } from "../../../core/random.ts";
import type { RpcHandlers, RpcNoteHandlers } from "../../../net/rpc/connection.ts";
import type { RpcMethod, RpcNote } from "../../../net/rpc/methods.ts";
import type { PeerIdentity, RpcConnection } from "../../../net/rpc/peer.ts";
import { METHOD_ROLES, NOTE_ROLES } from "../../../net/rpc/schemas.ts";
import type { ClusterFaults } from "./faults.ts";
import type { Process, VirtualTime } from "./virtual-time.ts";

const REQUEST_TIMEOUT_MS = 10_000;
const TICK_MS = 1_000;
/** Silence after which an end gives up, as in net/rpc/connection.ts. */
const SILENT_MS_MAX = 5_500;

export type Certificate = { nodeId: string; role: NodeRole };

export type Listener = {
  process: Process;
  certificate(): Certificate;
  handlers: RpcHandlers;
  notes: RpcNoteHandlers;
};

export type SimNetwork = {
  listen(addr: string, listener: Listener): () => void;
  /** As connectRpc. @throws {ClusterError} unavailable, deadline, unauthenticated. */
  connect(options: {
    process: Process;
    certificate: Certificate;
    addr: string;
    timeoutMs: number;
    expectNodeId?: string;
    expectRole?: NodeRole;
  }): Promise<RpcConnection>;
  /** Cuts one direction between two hosts for a while. */
  cut(link: { from: string; to: string }, durationMs: number): void;
  /** Breaks one connection that exists. */
  breakOne(): void;
  /** The host's connections end; `isSilent`: its peers are not told. */
  processEnded(process: Process, isSilent: boolean): void;
  heal(): void;
};

type Side = {
  process: Process;
  /** Who is at the other end. */
  peer: PeerIdentity;
  handlers: RpcHandlers;
  noteHandlers: Map<RpcNote, (body: never) => void>;
  closeHandlers: ((reason: string) => void)[];
  pending: Map<number, { resolve(value: never): void; reject(error: Error): void }>;
  nextId: number;
  isOpen: boolean;
  /** Of what this side has sent. */
  lastArrivalMs: number;
  heardMs: number;
  connection: RpcConnection;
  close(reason: string): void;
};

export function createSimNetwork(options: {
  time: VirtualTime;
  random: Random;
  faults: ClusterFaults;
  /** A handler threw what is no ClusterError. */
  onBug(process: Process, error: unknown): void;
}): SimNetwork {
  const { time, random, faults } = options;
  const { world } = time;
  const listeners = new Map<string, Listener>();
  const cutUntilMs = new Map<string, number>();
  let pairs: [Side, Side][] = [];

  const cutEnd = (from: Process, to: Process) => cutUntilMs.get(`${from.name}>${to.name}`) ?? 0;
  const isCut = (from: Process, to: Process) => cutEnd(from, to) > world.nowMs;
  const latencyMs = () =>
    faults.latencyMsMin + random.next() * (faults.latencyMsMax - faults.latencyMsMin);

  /** In order; what a cut link holds comes after it. */
  const carry = (from: Side, to: Side, act: () => void) => {
    const startMs = Math.max(world.nowMs, cutEnd(from.process, to.process));
    from.lastArrivalMs = Math.max(from.lastArrivalMs, startMs + latencyMs());
    time.post(to.process, from.lastArrivalMs - world.nowMs, () => {
      if (!to.isOpen) return;
      to.heardMs = world.nowMs;
      act();
    });
  };

  const createSide = (process: Process, peer: PeerIdentity, handlers: RpcHandlers): Side => {
    const side: Side = {
      process,
      peer,
      handlers,
      noteHandlers: new Map(),
      closeHandlers: [],
      pending: new Map(),
      nextId: 1,
      isOpen: true,
      lastArrivalMs: world.nowMs,
      heardMs: world.nowMs,
      close: (reason) => {
        if (!side.isOpen) return;
        side.isOpen = false;
        for (const waiter of side.pending.values()) {
          waiter.reject(
            new ClusterError("unavailable", `The connection ended: ${reason}`, { retry: "later" }),
          );
        }
        side.pending.clear();
        for (const handler of side.closeHandlers) handler(reason);
      },
      connection: {
        peer,
        request: (method, params, { timeoutMs = REQUEST_TIMEOUT_MS } = {}) =>
          // What the handler of that method gives.
          send(side, method, params, timeoutMs) as never,
        note: (note, body) => sendNote(side, note, body),
        onNote: (note, handler) => {
          side.noteHandlers.set(note, handler);
        },
        onClose: (handler) => {
          if (side.isOpen) side.closeHandlers.push(handler);
          else handler("closed before");
        },
        close: () => {
          if (!side.isOpen) return;
          const other = otherOf(side);
          if (other) carry(side, other, () => other.close("the peer closed"));
          side.close("closed here");
        },
      },
    };
    return side;
  };

  const otherOf = (side: Side): Side | undefined => {
    const pair = pairs.find(([a, b]) => a === side || b === side);
    return pair?.[0] === side ? pair[1] : pair?.[0];
  };

  const send = (side: Side, method: RpcMethod, params: unknown, timeoutMs: number) =>
    new Promise<unknown>((resolve, reject) => {
      const other = otherOf(side);
      if (!side.isOpen || !other) {
        reject(new ClusterError("unavailable", "The connection is closed", { retry: "later" }));
        return;
      }
      const id = side.nextId++;
      const timer = setTimeout(() => {
        side.pending.delete(id);
        reject(
          new ClusterError("deadline", `No answer to ${method} in ${timeoutMs} ms`, {
            retry: "later",
          }),
        );
      }, timeoutMs);
      side.pending.set(id, {
        resolve: (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      carry(side, other, () => {
        serve(other, method, params).then(
          (result) => answer(other, side, () => settle(side, id)?.resolve(result as never)),
          (error: unknown) => {
            if (!(error instanceof ClusterError)) options.onBug(other.process, error);
            const body = toErrorBody(error);
            answer(other, side, () => settle(side, id)?.reject(fromErrorBody(body)));
          },
        );
      });
    });
  const answer = (from: Side, to: Side, act: () => void) => {
    if (from.isOpen) carry(from, to, act);
  };
  const settle = (side: Side, id: number) => {
    const waiter = side.pending.get(id);
    side.pending.delete(id);
    return waiter;
  };
  const serve = async (side: Side, method: RpcMethod, params: unknown): Promise<unknown> => {
    if (METHOD_ROLES[method] === "manager" && side.peer.role !== "manager") {
      throw new ClusterError("forbidden", `Method ${method} is for managers`);
    }
    const handler = side.handlers[method];
    if (!handler) throw new ClusterError("not-implemented", `Method ${method} is not served`);
    // The parameters of that method, as the client's types had them.
    return handler(params as never, side.connection);
  };

  const sendNote = (side: Side, note: RpcNote, body: unknown): boolean => {
    const other = otherOf(side);
    if (!side.isOpen || !other) return false;
    const deliver = () => {
      if (NOTE_ROLES[note] === "manager" && other.peer.role !== "manager") return;
      other.noteHandlers.get(note)?.(body as never); // of that note
    };
    if (note === "assignments" && random.next() < faults.noteDropRate) return false;
    if (note === "assignments" && random.next() < faults.noteLossRate) return true;
    if (note !== "raft") {
      carry(side, other, deliver);
      return true;
    }
    if (random.next() < faults.raftDropRate) return true;
    const copies = random.next() < faults.raftDuplicateRate ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      if (faults.raftReorderMs > 0 && !isCut(side.process, other.process)) {
        time.post(other.process, latencyMs() + random.next() * faults.raftReorderMs, () => {
          if (other.isOpen) deliver();
        });
      } else {
        carry(side, other, deliver);
      }
    }
    return true;
  };

  /** Each end's proof of life, without the messages of it. */
  const watch = (one: Side, other: Side) => {
    const check = () => {
      if (!one.isOpen) return;
      const isHeard = other.isOpen && other.process.isAlive && !isCut(other.process, one.process);
      if (isHeard && other.process.pausedUntilMs <= world.nowMs) one.heardMs = world.nowMs;
      if (world.nowMs - one.heardMs > SILENT_MS_MAX) {
        one.close(`no sign of life for ${SILENT_MS_MAX} ms`);
        return;
      }
      time.post(one.process, TICK_MS, check);
    };
    time.post(one.process, TICK_MS, check);
  };

  const forget = () => {
    pairs = pairs.filter(
      ([a, b]) => (a.isOpen && a.process.isAlive) || (b.isOpen && b.process.isAlive),
    );
  };

  return {
    listen: (addr, listener) => {
      listeners.set(addr, listener);
      return () => {
        if (listeners.get(addr) === listener) listeners.delete(addr);
        for (const pair of pairs) {
          for (const side of pair) {
            if (side.process === listener.process && side.handlers === listener.handlers) {
              side.connection.close();
            }
          }
        }
      };
    },
    connect: (wish) =>
      new Promise((resolve, reject) => {
        const { process, addr, timeoutMs } = wish;
        const refuse = (delayMs: number, error: ClusterError) =>
          time.post(process, delayMs, () => reject(error));
        const late = () =>
          new ClusterError("unavailable", `Cannot connect to ${addr} in ${timeoutMs} ms`);
        const listener = listeners.get(addr);
        const reach = listener?.process;
        if (!listener || !reach?.isAlive) {
          refuse(latencyMs() * 2, new ClusterError("unavailable", `Connection to ${addr} refused`));
          return;
        }
        const pauseMs = Math.max(0, reach.pausedUntilMs - world.nowMs);
        if (isCut(process, reach) || isCut(reach, process) || pauseMs > timeoutMs) {
          refuse(timeoutMs, late());
          return;
        }
        const certificate = listener.certificate();
        const { expectRole = "manager", expectNodeId } = wish;
        const isOther = expectNodeId !== undefined && expectNodeId !== certificate.nodeId;
        if (certificate.role !== expectRole || isOther) {
          const text = `Cannot use the node at ${addr}: it is ${certificate.role} ${certificate.nodeId}`;
          refuse(latencyMs() * 3, new ClusterError("unauthenticated", text));
          return;
        }
        const client = createSide(
          process,
          { ...certificate, address: addr.split(":")[0] ?? "" },
          {},
        );
        const server = createSide(
          reach,
          { ...wish.certificate, address: process.name },
          listener.handlers,
        );
        for (const [note, handler] of Object.entries(listener.notes)) {
          const take = handler as (body: unknown, connection: RpcConnection) => void; // of that note
          server.noteHandlers.set(note as RpcNote, (body) => take(body, server.connection));
        }
        forget();
        pairs.push([client, server]);
        watch(client, server);
        watch(server, client);
        time.post(process, pauseMs + latencyMs() * 3, () => {
          if (client.isOpen) resolve(client.connection);
          else reject(new ClusterError("unavailable", `Connection to ${addr} ended at once`));
        });
      }),
    cut: ({ from, to }, durationMs) => {
      const key = `${from}>${to}`;
      cutUntilMs.set(key, Math.max(cutUntilMs.get(key) ?? 0, world.nowMs + durationMs));
    },
    breakOne: () => {
      forget();
      const pair = pairs[Math.floor(random.next() * pairs.length)];
      if (!pair) return;
      for (const side of pair) {
        time.post(side.process, random.next() * 50, () => side.close("reset by peer"));
      }
    },
    processEnded: (process, isSilent) => {
      for (const [a, b] of pairs) {
        const [own, other] = a.process === process ? [a, b] : [b, a];
        if (own.process !== process || !own.isOpen) continue;
        own.isOpen = false;
        if (isSilent) continue;
        carry(own, other, () => other.close("the peer's process ended"));
      }
      for (const [addr, listener] of listeners) {
        if (listener.process === process) listeners.delete(addr);
      }
      forget();
    },
    heal: () => cutUntilMs.clear(),
  };
}
