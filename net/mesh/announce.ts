/**
 * Tells the containers on a bridge that an address is now reached by the bridge itself, because its task
 * lives on another node: gratuitous ARP, in IPv6 an unsolicited neighbour advertisement. Whoever spoke with
 * it while it was a container on the same bridge has that container's MAC address in its neighbour table, and
 * would go on sending there for up to 44 s (measured). The other way round nothing is needed: what is sent to
 * the bridge is routed on.
 *
 * By a packet socket, since a process for each address would cost more than all the rest of a change.
 * It is a hint: failures are of no consequence but the wait above.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";
import { assert } from "../../core/assert.ts";
import { parseAddress6, parseCidr6 } from "../../core/store/cidr6.ts";
import { parseIpv4, parseIpv4Block } from "./ipv4.ts";
import { BRIDGE_LINK_LOCAL } from "./names.ts";
import { inNamespace } from "./netlink.ts";
import type { Interface } from "./observe.ts";
import type { FilterPlan, MeshPlan } from "./plan.ts";

/** Where the address is to be found: the bridge by its index and MAC address. */
export type Announcement = { address: string; deviceIndex: number; mac: string };
export type Announcer = { announce(items: readonly Announcement[]): void; stop(): void };

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 0x80003;
const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_IPV6 = 0x86dd;
const BROADCAST = Buffer.alloc(6, 0xff);
/** Of ff02::1, in Ethernet's terms. */
const ALL_NODES_MAC = Buffer.from("333300000001", "hex");
const ALL_NODES = addressBytes6("ff02::1");
const BRIDGE_ADDRESS = addressBytes6(BRIDGE_LINK_LOCAL);
const ICMPV6 = 58;
const NEIGHBOUR_ADVERTISEMENT = 136;
/** "Override" alone: nobody has asked, and it is to replace what is known. */
const OVERRIDE_FLAG = 0x20;
const TARGET_MAC_OPTION = 2;
/** Routers lower it, so that this says: from the link itself. */
const HOP_LIMIT = 255;
/** Of one change; on a bridge with more the rest waits for the kernel's own time-outs. */
const ANNOUNCEMENTS_MAX = 1_024;
/** The kernel believes the first of two words of ARP about an address within a second: so it is said again. */
const AGAIN_MS = 1_200;

type Bridge<T> = { first: T; last: T; deviceIndex: number; mac: string };

/** Addresses of tasks that are on another node now, on bridges of this one. `come`: legs new in the plan. */
export function announcementsOf(
  plan: Pick<MeshPlan, "filter" | "filter6">,
  come: MeshPlan["legs"],
  nodeId: string | undefined,
  interfaces: readonly Interface[],
): Announcement[] {
  if (come.length === 0) return [];
  const bridges = bridgesOf(plan.filter, parseIpv4Block, interfaces);
  const bridges6 = bridgesOf(plan.filter6, parseCidr6, interfaces);
  return come.flatMap((leg) => {
    const [address = "", node] = leg.split("@");
    if (node === nodeId) return [];
    const bridge = address.includes(":")
      ? bridgeOf(bridges6, parseAddress6(address))
      : bridgeOf(bridges, parseIpv4(address));
    return bridge ? [{ address, deviceIndex: bridge.deviceIndex, mac: bridge.mac }] : [];
  });
}

function bridgesOf<T>(
  filter: Pick<FilterPlan, "networks"> | undefined,
  parseBlock: (subnet: string) => { first: T; last: T } | undefined,
  interfaces: readonly Interface[],
): Bridge<T>[] {
  return (filter?.networks ?? []).flatMap(({ bridge, subnet }) => {
    const device = interfaces.find(({ name }) => name === bridge);
    const block = parseBlock(subnet);
    return device && block ? [{ ...block, deviceIndex: device.index, mac: device.mac }] : [];
  });
}

function bridgeOf<T extends number | bigint>(
  bridges: readonly Bridge<T>[],
  value: T | undefined,
): Bridge<T> | undefined {
  if (value === undefined) return undefined;
  return bridges.find(({ first, last }) => value >= first && value <= last);
}

/** An announcement as it goes over the wire; undefined for what is no address, or no MAC address. */
export function announcementFrame(address: string, mac: string): Buffer | undefined {
  const sender = Buffer.from(mac.replaceAll(":", ""), "hex");
  if (sender.length !== 6) return undefined;
  const value = parseIpv4(address);
  if (value !== undefined) return arpFrame(value, sender);
  return parseAddress6(address) === undefined
    ? undefined
    : advertisementFrame(addressBytes6(address), sender);
}

/** Source: RFC 5227. */
function arpFrame(address: number, sender: Buffer): Buffer {
  const ip = Buffer.alloc(4);
  ip.writeUInt32BE(address);
  // Ethernet, IPv4, lengths, "request": the target's MAC address is not asked for.
  const kind = Buffer.from([0, 1, 8, 0, 6, 4, 0, 1]);
  const type = bytes16(ETHERTYPE_ARP);
  return Buffer.concat([BROADCAST, sender, type, kind, sender, ip, Buffer.alloc(6), ip]);
}

/** Source: RFC 4861, 4.4. */
function advertisementFrame(address: Buffer, sender: Buffer): Buffer {
  const flags = Buffer.from([OVERRIDE_FLAG, 0, 0, 0]);
  // Its length is counted in units of 8 bytes.
  const option = Buffer.concat([Buffer.from([TARGET_MAC_OPTION, 1]), sender]);
  const body = Buffer.concat([flags, address, option]);
  const message = (checksum: number) =>
    Buffer.concat([Buffer.from([NEIGHBOUR_ADVERTISEMENT, 0]), bytes16(checksum), body]);
  const addresses = Buffer.concat([BRIDGE_ADDRESS, ALL_NODES]);
  const length = bytes16(message(0).length);
  const pseudoHeader = [addresses, bytes16(0), length, bytes16(0), bytes16(ICMPV6)];
  const sum = internetChecksum(Buffer.concat([...pseudoHeader, message(0)]));
  const header = Buffer.from([0x60, 0, 0, 0, ...length, ICMPV6, HOP_LIMIT]);
  const type = bytes16(ETHERTYPE_IPV6);
  return Buffer.concat([ALL_NODES_MAC, sender, type, header, addresses, message(sum)]);
}

/** Of an even number of bytes. Source: RFC 1071. */
function internetChecksum(bytes: Buffer): number {
  let sum = 0;
  for (let place = 0; place < bytes.length; place += 2) sum += bytes.readUInt16BE(place);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function bytes16(value: number): Buffer {
  return Buffer.from([value >>> 8, value & 0xff]);
}

function addressBytes6(address: string): Buffer {
  const value = parseAddress6(address);
  assert(value !== undefined, `"${address}" is IPv6`);
  return Buffer.from(value.toString(16).padStart(32, "0"), "hex");
}

/** `struct sockaddr_ll` of the device, towards where the frame goes. */
function packetAddress(deviceIndex: number, frame: Buffer): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt16LE(AF_PACKET, 0);
  frame.copy(bytes, 2, 12, 14);
  bytes.writeInt32LE(deviceIndex, 4);
  bytes.writeUInt8(6, 11);
  frame.copy(bytes, 12, 0, 6);
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
      if (!frame || socket < 0) continue;
      const to = packetAddress(deviceIndex, frame);
      c.sendto(socket, ptr(frame), frame.length, 0, ptr(to), to.length);
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
