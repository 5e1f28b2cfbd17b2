/** Two ends of an RPC connection without a network: notes arrive in order, in a later turn. */
import type { RpcNote } from "../../../net/rpc/methods.ts";
import type { RpcConnection } from "../../../net/rpc/peer.ts";

export type FakeConnection = RpcConnection & {
  /** Set: notes are not taken, as with a full queue. */
  isFull: boolean;
  sent: RpcNote[];
};

export function fakePair(): [FakeConnection, FakeConnection] {
  const [one, other] = [fakeEnd("n1"), fakeEnd("m1")];
  one.join(other);
  other.join(one);
  return [one.connection, other.connection];
}

type End = {
  connection: FakeConnection;
  join(peer: End): void;
  take(note: RpcNote, body: unknown): void;
  end(reason: string): void;
};

function fakeEnd(peerId: string): End {
  const handlers = new Map<RpcNote, ((body: unknown) => void)[]>();
  const closers: ((reason: string) => void)[] = [];
  let peer: End | undefined;
  let isClosed = false;
  const end: End = {
    join: (joined) => {
      peer = joined;
    },
    take: (note, body) => {
      for (const handler of handlers.get(note) ?? []) handler(body);
    },
    end: (reason) => {
      if (isClosed) return;
      isClosed = true;
      for (const closer of closers) closer(reason);
    },
    connection: {
      isFull: false,
      sent: [],
      peer: { nodeId: peerId, role: "manager", address: "10.0.0.1" },
      request: () => Promise.reject(new Error("no requests here")),
      note: (note, body) => {
        if (isClosed || end.connection.isFull) return false;
        end.connection.sent.push(note);
        const to = peer;
        setImmediate(() => {
          if (!isClosed) to?.take(note, body);
        });
        return true;
      },
      onNote: (note, handler) => {
        // The body is of the note by note()'s own type.
        handlers.set(note, [...(handlers.get(note) ?? []), handler as (body: unknown) => void]);
      },
      onClose: (handler) => void closers.push(handler),
      close: () => {
        end.end("closed here");
        peer?.end("the peer closed it");
      },
    },
  };
  return end;
}
