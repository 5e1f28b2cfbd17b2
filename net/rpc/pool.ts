/**
 * One kept connection to each manager, for raft messages and forwarded requests.
 *
 * 1. At most one connection or attempt per peer; it is made when something is to be sent, and again
 *    when it was lost, not earlier than the back-off allows (100 ms doubling to 2 s, jittered).
 * 2. Notes wait for a connection that is being made, a bounded number; otherwise they are dropped
 *    and the caller learns it (false, and `onUnreachable`). Raft repeats what it needs.
 * 3. Somebody waits for a request, so it does not wait the back-off out: what is known of a failed peer is
 *    at most 100 ms old, then the next request tries anew (once for all that wait). A peer that is back,
 *    or has renewed its certificate, is not refused for what it was.
 * 4. The peer is the node it should be (CN of its certificate), whatever answers at its address.
 */
import { ClusterError } from "../../core/errors.ts";
import { type ConnectOptions, connectRpc } from "./client.ts";
import type { RpcMethod, RpcMethods, RpcNote, RpcNotes } from "./methods.ts";
import type { RpcConnection, TlsIdentity } from "./peer.ts";

export const BACKOFF_MS_MIN = 100;
export const BACKOFF_MS_MAX = 2_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** Notes waiting for a connection under way; the oldest are of least use to raft, but order counts. */
export const WAITING_NOTES_MAX = 64;
export const WAITING_BYTES_MAX = 8 * 1024 * 1024;
/** Peers remembered; managers are few, the bound is against a leak of removed ones. */
const PEERS_MAX = 64;

export type RpcPool = {
  /** False when the note was dropped. `addr` is where the peer is now; a changed one reconnects. */
  note<N extends RpcNote>(
    nodeId: string,
    addr: string,
    note: N,
    body: RpcNotes[N]["body"],
  ): boolean;
  /**
   * `timeoutMs` covers connecting and answering.
   * @throws {ClusterError} what the peer answered; unavailable, deadline, unauthenticated, busy.
   */
  request<M extends RpcMethod>(
    nodeId: string,
    addr: string,
    method: M,
    params: RpcMethods[M]["params"],
    options?: { timeoutMs?: number },
  ): Promise<RpcMethods[M]["result"]>;
  /** Forgets the peers that are not named (members removed). */
  retain(nodeIds: string[]): void;
  /** Ends all connections; they are made again with the identity of then (role change). */
  reset(): void;
  close(): void;
};

export type PoolOptions = {
  /** Asked at each attempt, so that a renewed certificate is used from then on. */
  tls: () => TlsIdentity;
  /** An attempt failed, a connection ended or notes were dropped. Advisory. */
  onUnreachable?: (nodeId: string, reason: string) => void;
  log?: (message: string) => void;
  connect?: (options: ConnectOptions) => Promise<RpcConnection>;
  /** In [0, 1). */
  jitter?: () => number;
};

type Peer = {
  nodeId: string;
  addr: string;
  connection?: RpcConnection;
  attempt?: Promise<RpcConnection>;
  /** What to send once connected, with its size. */
  waiting: ((connection: RpcConnection) => void)[];
  waitingBytes: number;
  failures: number;
  /** Not before this time is a new attempt made for a note. */
  retryAtMs: number;
  /** The same for a request. */
  requestRetryAtMs: number;
};

/**
 * A pool without connections: each is made at its first use. A peer that cannot be reached is tried
 * again after 50 ms to 2 s, and only when there is something for it.
 */
export function createPool(options: PoolOptions): RpcPool {
  const { connect = connectRpc, jitter = Math.random } = options;
  const peers = new Map<string, Peer>();
  let isClosed = false;

  const forget = (peer: Peer) => {
    peers.delete(peer.nodeId);
    peer.waiting = [];
    peer.connection?.close();
  };

  const peerAt = (nodeId: string, addr: string): Peer => {
    const known = peers.get(nodeId);
    if (known?.addr === addr) return known;
    // It moved: what is kept of the old address is of no use.
    if (known) forget(known);
    if (peers.size >= PEERS_MAX) {
      const [oldest] = peers.values();
      if (oldest) forget(oldest);
    }
    const peer = {
      nodeId,
      addr,
      waiting: [],
      waitingBytes: 0,
      failures: 0,
      retryAtMs: 0,
      requestRetryAtMs: 0,
    };
    peers.set(nodeId, peer);
    return peer;
  };

  const isCurrent = (peer: Peer) => !isClosed && peers.get(peer.nodeId) === peer;

  const backOff = (peer: Peer, reason: string) => {
    const fullMs = Math.min(BACKOFF_MS_MIN * 2 ** Math.min(peer.failures, 10), BACKOFF_MS_MAX);
    peer.failures++;
    peer.retryAtMs = Date.now() + fullMs * (0.5 + jitter() / 2);
    peer.requestRetryAtMs = Math.min(peer.retryAtMs, Date.now() + BACKOFF_MS_MIN);
    if (!isCurrent(peer)) return;
    options.log?.(`Connection to manager ${peer.nodeId} at ${peer.addr}: ${reason}`);
    options.onUnreachable?.(peer.nodeId, reason);
  };

  const open = async (peer: Peer): Promise<RpcConnection> => {
    try {
      const connection = await connect({
        addr: peer.addr,
        tls: options.tls(),
        timeoutMs: CONNECT_TIMEOUT_MS,
        expectNodeId: peer.nodeId,
        expectRole: "manager",
      });
      if (!isCurrent(peer)) {
        connection.close();
        throw movedOn(peer);
      }
      peer.connection = connection;
      const openedAtMs = Date.now();
      connection.onClose((reason) => {
        delete peer.connection;
        backOff(peer, reason);
        // One that lasted may be made again at once; one that is cut again and again may not.
        if (Date.now() - openedAtMs < BACKOFF_MS_MAX) return;
        peer.failures = 0;
        peer.retryAtMs = 0;
        peer.requestRetryAtMs = 0;
      });
      const { waiting } = peer;
      peer.waiting = [];
      peer.waitingBytes = 0;
      for (const send of waiting) send(connection);
      return connection;
    } catch (error) {
      peer.waiting = [];
      peer.waitingBytes = 0;
      if (error instanceof ClusterError) backOff(peer, error.message);
      throw error;
    } finally {
      delete peer.attempt;
    }
  };

  /** The attempt under way, or a new one. */
  const reach = (peer: Peer): Promise<RpcConnection> => {
    if (peer.attempt) return peer.attempt;
    const attempt = open(peer);
    peer.attempt = attempt;
    // Whoever waits for it sees the error; without anybody it is told by onUnreachable. Bugs stay loud.
    attempt.catch((error: unknown) => {
      if (!(error instanceof ClusterError)) throw error;
    });
    return attempt;
  };

  const connectionTo = async (peer: Peer): Promise<RpcConnection> => {
    const waitMs = peer.requestRetryAtMs - Date.now();
    if (!peer.attempt && waitMs > 0) {
      await Bun.sleep(waitMs);
      if (!isCurrent(peer)) throw movedOn(peer);
    }
    return peer.connection ?? reach(peer);
  };

  return {
    note: (nodeId, addr, note, body) => {
      if (isClosed) return false;
      const peer = peerAt(nodeId, addr);
      if (peer.connection) {
        const isQueued = peer.connection.note(note, body);
        if (!isQueued) options.onUnreachable?.(nodeId, "its queue is full");
        return isQueued;
      }
      if (!peer.attempt && Date.now() < peer.retryAtMs) return false;
      void reach(peer);
      const sizeBytes = "data" in body ? body.data.length : 0;
      if (
        peer.waiting.length >= WAITING_NOTES_MAX ||
        peer.waitingBytes + sizeBytes > WAITING_BYTES_MAX
      ) {
        return false;
      }
      peer.waitingBytes += sizeBytes;
      peer.waiting.push((connection) => void connection.note(note, body));
      return true;
    },
    request: async (nodeId, addr, method, params, { timeoutMs = 10_000 } = {}) => {
      if (isClosed) throw new ClusterError("unavailable", "This node stops");
      const endsAtMs = Date.now() + timeoutMs;
      const peer = peerAt(nodeId, addr);
      const connection = peer.connection ?? (await within(connectionTo(peer), peer, timeoutMs));
      return connection.request(method, params, { timeoutMs: Math.max(1, endsAtMs - Date.now()) });
    },
    retain: (nodeIds) => {
      for (const peer of peers.values()) if (!nodeIds.includes(peer.nodeId)) forget(peer);
    },
    reset: () => {
      for (const peer of peers.values()) forget(peer);
    },
    close: () => {
      isClosed = true;
      for (const peer of peers.values()) forget(peer);
    },
  };
}

/** The pool has been closed, or was told another address, or to forget the peer. */
function movedOn(peer: Peer): ClusterError {
  const text = `Manager ${peer.nodeId} is not at ${peer.addr} now`;
  return new ClusterError("unavailable", text, { retry: "later" });
}

async function within(
  attempt: Promise<RpcConnection>,
  peer: Peer,
  timeoutMs: number,
): Promise<RpcConnection> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new ClusterError(
            "deadline",
            `Manager ${peer.nodeId} at ${peer.addr} did not answer in ${timeoutMs} ms`,
            { retry: "later" },
          ),
        ),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([attempt, late]);
  } finally {
    clearTimeout(timer);
  }
}
