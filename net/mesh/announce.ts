/**
 * Gratuitous ARP: tells the containers on a bridge that an address is now reached by the bridge itself,
 * because its task lives on another node. Whoever spoke with it while it was a container on the same
 * bridge has that container's MAC address in its neighbour table, and would go on sending there for up
 * to 44 s (measured). The other way round nothing is needed: what is sent to the bridge is routed on.
 *
 * By a packet socket, since a process for each address would cost more than all the rest of a change.
 * IPv4 only. It is a hint: failures are of no consequence but the wait above.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";
import { parseIpv4 } from "./ipv4.ts";
import { inNamespace } from "./netlink.ts";

/** Where the address is to be found: the bridge by its index and MAC address. */
export type Announcement = { address: string; deviceIndex: number; mac: string };
export type Announcer = { announce(items: readonly Announcement[]): void; stop(): void };

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 0x80003;
const ETHERTYPE_ARP = 0x0806;
const BROADCAST = Buffer.alloc(6, 0xff);
/** Of one change; on a bridge with more the rest waits for the kernel's own time-outs. */
const ANNOUNCEMENTS_MAX = 1_024;
/** The kernel believes the first of two words about an address within a second: so it is said again. */
const AGAIN_MS = 1_200;

/** An ARP announcement as it goes over the wire (RFC 5227); undefined for what is no IPv4 or MAC address. */
export function announcementFrame(address: string, mac: string): Buffer | undefined {
  const value = parseIpv4(address);
  const sender = Buffer.from(mac.replaceAll(":", ""), "hex");
  if (value === undefined || sender.length !== 6) return undefined;
  const ip = Buffer.alloc(4);
  ip.writeUInt32BE(value);
  const head = Buffer.alloc(2);
  head.writeUInt16BE(ETHERTYPE_ARP);
  // Ethernet, IPv4, lengths, "request": the target's MAC address is not asked for.
  const kind = Buffer.from([0, 1, 8, 0, 6, 4, 0, 1]);
  return Buffer.concat([BROADCAST, sender, head, kind, sender, ip, Buffer.alloc(6), ip]);
}

/** `struct sockaddr_ll` of the device's broadcast address. */
function packetAddress(deviceIndex: number): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt16LE(AF_PACKET, 0);
  bytes.writeUInt16BE(ETHERTYPE_ARP, 2);
  bytes.writeInt32LE(deviceIndex, 4);
  bytes.writeUInt8(6, 11);
  BROADCAST.copy(bytes, 12);
  return bytes;
}

/** Of this network namespace, or of the one at `namespacePath`; says nothing where no socket can be had. */
export function startAnnouncer(namespacePath?: string): Announcer {
  const { i32, u64, ptr: pointer } = FFIType;
  const c = dlopen("libc.so.6", {
    socket: { args: [i32, i32, i32], returns: i32 },
    sendto: { args: [i32, pointer, u64, i32, pointer, FFIType.u32], returns: FFIType.i64 },
    setns: { args: [i32, i32], returns: i32 },
    close: { args: [i32], returns: i32 },
  }).symbols;
  // Protocol 0: it receives nothing.
  const open = () => c.socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0);
  let socket = -1;
  try {
    socket = namespacePath === undefined ? open() : inNamespace(c.setns, namespacePath, open);
  } catch {
    // as if the socket was refused
  }
  const send = (items: readonly Announcement[]) => {
    for (const { address, deviceIndex, mac } of items) {
      const frame = announcementFrame(address, mac);
      const to = packetAddress(deviceIndex);
      if (frame && socket >= 0) c.sendto(socket, ptr(frame), frame.length, 0, ptr(to), to.length);
    }
  };
  const timers = new Set<Timer>();
  return {
    announce: (items) => {
      if (items.length === 0) return;
      const some = items.slice(0, ANNOUNCEMENTS_MAX);
      send(some);
      const timer = setTimeout(() => {
        timers.delete(timer);
        send(some);
      }, AGAIN_MS);
      timers.add(timer);
    },
    stop: () => {
      for (const timer of timers) clearTimeout(timer);
      if (socket >= 0) c.close(socket);
      socket = -1;
    },
  };
}
