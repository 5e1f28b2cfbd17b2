import type { RpcMethod, RpcMethods, RpcNote, RpcNotes } from "./methods.ts";
import type { NodeRole } from "../../core/objects/node.ts";

/** Who is at the other end, from its verified certificate; all absent without one. */
export type PeerIdentity = {
  nodeId?: string;
  clusterId?: string;
  role?: NodeRole;
  /** Instead of the three: whose certificate has expired, not too long ago. It may ask for the next one only. */
  expiredNodeId?: string;
  /** Remote IP address. */
  address: string;
};

/** One mutual-TLS connection; requests and notes go both ways over it. */
export type RpcConnection = {
  readonly peer: PeerIdentity;
  /** @throws {ClusterError} what the peer answered; unavailable when the connection ends; deadline. */
  request<M extends RpcMethod>(
    method: M,
    params: RpcMethods[M]["params"],
    options?: { timeoutMs?: number },
  ): Promise<RpcMethods[M]["result"]>;
  /** Queued; false when the connection's queue is full and the note was dropped. */
  note<N extends RpcNote>(note: N, body: RpcNotes[N]["body"]): boolean;
  onNote<N extends RpcNote>(note: N, handler: (body: RpcNotes[N]["body"]) => void): void;
  onClose(handler: (reason: string) => void): void;
  close(): void;
};

/** Paths and texts of this node's key, certificate and CA. */
export type TlsIdentity = { certificatePem: string; keyPem: string; caCertificatePem: string };
