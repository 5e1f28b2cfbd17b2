/**
 * A manager's part in log streams. The leader alone holds the sessions with the nodes, so it passes
 * streams on: from its own API or from another manager's connection to the session of the node. It
 * buffers nothing (the reader's window bounds what is under way) and reads nothing.
 */
import { ClusterError } from "../../core/errors.ts";
import type { RpcConnection } from "../../net/rpc/peer.ts";
import { endedStream, type LogOpener, openOver, serveOver } from "./stream.ts";

export type LogRelay = {
  open: LogOpener;
  /** Another manager may open streams over this connection of its. */
  serve(connection: RpcConnection): void;
};

/** A way to all nodes' logs, for one request. */
export type LogLink = {
  open: LogOpener;
  /** What was opened has ended; another link is needed. */
  isLost(): boolean;
  /** Ends what was opened over it. */
  close(): void;
};

export function createLogRelay(options: {
  /** The connection of the node's session; undefined when it has none here. */
  sessionOf(nodeId: string): RpcConnection | undefined;
  isLeader(): boolean;
  /** Throws the refusal of a manager that is none any more. */
  admit(connection: RpcConnection): void;
}): LogRelay {
  const openers = new WeakMap<RpcConnection, LogOpener>();
  const open: LogOpener = (request, sink) => {
    const { nodeId } = request;
    if (!options.isLeader()) return endedStream(sink, "this manager does not lead any more");
    const session = options.sessionOf(nodeId);
    if (!session) return endedStream(sink, `node ${nodeId} is not available`);
    let opener = openers.get(session);
    if (!opener) {
      opener = openOver(session, (lost) => `node ${lost.nodeId} disconnected unexpectedly`);
      openers.set(session, opener);
    }
    return opener(request, sink);
  };
  return {
    open,
    serve: (connection) => {
      if (connection.peer.role !== "manager") return;
      serveOver(connection, (request, sink) => {
        try {
          options.admit(connection);
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
          return endedStream(sink, error.message);
        }
        return open(request, sink);
      });
    },
  };
}

/**
 * The way to the leader as of now: its own relay when it is this node, else a connection for this
 * request alone, so that logs neither hold up consensus on the kept one nor outlive their reader.
 * @throws {ClusterError} unavailable, deadline when there is no leader or it cannot be reached.
 */
export async function openLogLink(options: {
  relay: LogRelay;
  /** Undefined: none is known. `isSelf`: this node. */
  leader(): { nodeId: string; addr: string; isSelf: boolean } | undefined;
  connect(addr: string, nodeId: string): Promise<RpcConnection>;
}): Promise<LogLink> {
  const leader = options.leader();
  if (!leader) {
    throw new ClusterError("unavailable", "There is no leader at the moment", { retry: "later" });
  }
  // Its streams end by themselves when leadership does: the nodes' sessions go.
  if (leader.isSelf) {
    return { open: options.relay.open, isLost: () => false, close: () => undefined };
  }
  const connection = await options.connect(leader.addr, leader.nodeId);
  let isLost = false;
  connection.onClose(() => {
    isLost = true;
  });
  return {
    open: openOver(connection, () => `the leader ${leader.nodeId} is not available`),
    isLost: () => isLost,
    close: () => connection.close(),
  };
}
