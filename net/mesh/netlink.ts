/**
 * Netlink: messages and attributes (pure), and a socket by FFI, for the few questions and changes that
 * come too often for a process each. Everything else goes by the tools.
 *
 * Numbers are of the kernel's stable interface (linux/netlink.h, linux/genetlink.h). They are in the
 * machine's byte order, which is little on all machines that shoal is built for.
 */
import { closeSync, openSync } from "node:fs";
import { dlopen, FFIType, ptr } from "bun:ffi";
import { ClusterError } from "../../core/errors.ts";

/** Of sockets, and of whatever a message is about. */
export const ADDRESS_FAMILY = { ipv4: 2, ipv6: 10 } as const;
export const NETLINK_NETFILTER = 12;
export const NETLINK_GENERIC = 16;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLM_F_DUMP = 0x300;

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x80003;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const CLONE_NEWNET = 0x40000000;
const ATTR_NESTED = 0x8000;
const ATTR_TYPE_MASK = 0x3fff;
const HEADER_BYTES = 16;
const RECEIVE_BYTES = 64 * 1024;
/** The kernel answers within the call that asked; this only keeps a surprise from hanging the mesh. */
const RECEIVE_TIMEOUT_S = 5;

/** One attribute, padded as netlink wants it. */
export function attribute(type: number, value: Buffer): Buffer {
  const length = 4 + value.length;
  const bytes = Buffer.alloc((length + 3) & ~3);
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  value.copy(bytes, 4);
  return bytes;
}

export function u16Attribute(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return attribute(type, bytes);
}

export function u32Attribute(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return attribute(type, bytes);
}

export function nestedAttribute(type: number, parts: Buffer[]): Buffer {
  return attribute(type | ATTR_NESTED, Buffer.concat(parts));
}

/** One message; `body` begins with the family's own header of four bytes. */
export function netlinkMessage(message: {
  type: number;
  flags: number;
  sequence: number;
  body: Buffer;
}): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(HEADER_BYTES + message.body.length, 0);
  header.writeUInt16LE(message.type, 4);
  header.writeUInt16LE(message.flags, 6);
  header.writeUInt32LE(message.sequence, 8);
  return Buffer.concat([header, message.body]);
}

/** Attributes in their order; what is cut off is left out. */
export function attributeList(bytes: Buffer): { type: number; value: Buffer }[] {
  const found: { type: number; value: Buffer }[] = [];
  let offset = 0;
  while (offset + 4 <= bytes.length) {
    const length = bytes.readUInt16LE(offset);
    if (length < 4 || offset + length > bytes.length) break;
    const type = bytes.readUInt16LE(offset + 2) & ATTR_TYPE_MASK;
    found.push({ type, value: bytes.subarray(offset + 4, offset + length) });
    offset += (length + 3) & ~3;
  }
  return found;
}

/** Attributes by type, the last of each; what is cut off is left out. */
export function parseAttributes(bytes: Buffer): Map<number, Buffer> {
  return new Map(attributeList(bytes).map(({ type, value }) => [type, value]));
}

export type NetlinkAnswer = { type: number; sequence: number; payload: Buffer };

/** The messages of one datagram; what is cut off is left out. */
export function parseMessages(bytes: Buffer): NetlinkAnswer[] {
  const answers: NetlinkAnswer[] = [];
  let offset = 0;
  while (offset + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(offset);
    if (length < HEADER_BYTES || offset + length > bytes.length) break;
    answers.push({
      type: bytes.readUInt16LE(offset + 4),
      sequence: bytes.readUInt32LE(offset + 8),
      payload: Buffer.from(bytes.subarray(offset + HEADER_BYTES, offset + length)),
    });
    offset += (length + 3) & ~3;
  }
  return answers;
}

/** The kernel's error number in an answer of type NLMSG_ERROR; 0 is success. */
export function errorNumber(answer: NetlinkAnswer): number {
  return -answer.payload.readInt32LE(0);
}

export type NetlinkSocket = {
  /** @throws {ClusterError} unavailable when the kernel does not take it. */
  send(bytes: Buffer): void;
  /** Waits for the next datagram. @throws {ClusterError} unavailable after 5 s without one. */
  receive(): NetlinkAnswer[];
  close(): void;
};

/**
 * A socket of this network namespace, or of the one at `namespacePath` (in tests of several hosts).
 * @throws {ClusterError} unavailable when it cannot be opened.
 */
export function openNetlink(protocol: number, namespacePath?: string): NetlinkSocket {
  const { i32, u64, ptr: pointer } = FFIType;
  const c = dlopen("libc.so.6", {
    socket: { args: [i32, i32, i32], returns: i32 },
    send: { args: [i32, pointer, u64, i32], returns: FFIType.i64 },
    recv: { args: [i32, pointer, u64, i32], returns: FFIType.i64 },
    setsockopt: { args: [i32, i32, i32, pointer, FFIType.u32], returns: i32 },
    setns: { args: [i32, i32], returns: i32 },
    close: { args: [i32], returns: i32 },
  }).symbols;
  const open = () => c.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocol);
  const socket = namespacePath === undefined ? open() : inNamespace(c.setns, namespacePath, open);
  if (socket < 0) {
    throw new ClusterError("unavailable", "Cannot open a netlink socket: run as root");
  }
  const timeout = Buffer.alloc(16);
  timeout.writeBigInt64LE(BigInt(RECEIVE_TIMEOUT_S));
  c.setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, ptr(timeout), timeout.length);
  // A refusal does not carry the refused message back: many of them would not fit the socket's queue.
  const yes = Buffer.from([1, 0, 0, 0]);
  c.setsockopt(socket, SOL_NETLINK, NETLINK_CAP_ACK, ptr(yes), yes.length);
  const received = Buffer.alloc(RECEIVE_BYTES);
  return {
    send: (bytes) => {
      if (Number(c.send(socket, ptr(bytes), bytes.length, 0)) !== bytes.length) {
        throw new ClusterError("unavailable", "Cannot send a netlink message to the kernel");
      }
    },
    receive: () => {
      const count = Number(c.recv(socket, ptr(received), received.length, 0));
      if (count <= 0) {
        throw new ClusterError(
          "unavailable",
          `Cannot read the kernel's netlink answer: none within ${RECEIVE_TIMEOUT_S} s`,
        );
      }
      return parseMessages(received.subarray(0, count));
    },
    close: () => {
      c.close(socket);
    },
  };
}

/** A socket stays in the namespace in which it was made; this thread comes back at once. */
export function inNamespace(
  setns: (file: number, kind: number) => number,
  path: string,
  make: () => number,
): number {
  const home = openSync("/proc/thread-self/ns/net", "r");
  const there = openSync(path, "r");
  try {
    if (setns(there, CLONE_NEWNET) !== 0) {
      throw new ClusterError("unavailable", `Cannot enter network namespace ${path}: run as root`);
    }
    try {
      return make();
    } finally {
      setns(home, CLONE_NEWNET);
    }
  } finally {
    closeSync(there);
    closeSync(home);
  }
}
