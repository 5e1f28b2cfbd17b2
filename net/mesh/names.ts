/** Names and numbers of the kernel objects that shoal makes; nothing else on the host may use them. */
import { createHash } from "node:crypto";
import { assert } from "../../core/assert.ts";
import type { NetworkId } from "../../core/ids.ts";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";

/** The one VXLAN device of a node. */
export const MESH_DEVICE = "shmesh";
export const MESH_VNI = 4096;
export const NFT_TABLE = "shoal";
/** Protocol number of every route we make: `ip route show proto 117` lists them. */
export const ROUTE_PROTOCOL = 117;
/** `ip rule` that lets unmarked packets skip the per-peer rules. */
export const RULE_GATE_PRIORITY = 19_999;
/** The rule of peer i has this priority + i. */
export const RULE_PEER_PRIORITY = 20_000;
/** The return table of peer i has this number + i. */
export const RETURN_TABLE = 10_000;
export const NODE_INDEX_MAX = 4_095;

/** Bits 16-27: index of the ingress node, in the conntrack mark and the packet mark. */
export const MARK_NODE_MASK = 0x0fff_0000;
export const MARK_NODE_SHIFT = 16;
/** Bit 28 of the packet mark: our forward chain permits this packet. */
export const MARK_PERMIT = 0x1000_0000;
/** Bit 29 of the conntrack mark: the flow came in by a port published on this node. */
export const MARK_PUBLISHED = 0x2000_0000;

/**
 * Bit 30 of the packet mark: the packet is for IPVS, and the whole mark names the service
 * (`ipvsAddressMark`, `ipvsPortMark`) until it leaves. Bit 29 in such a mark: a published port.
 */
export const IPVS_MARK = 0x4000_0000;
export const IPVS_MARK_PORT = 0x2000_0000;

export const BRIDGE_PREFIX = "sh";
const BRIDGE_NAME = /^sh[0-9a-f]{8}$/;

/**
 * The bridge device of an overlay network, the same on every node: `sh` and 8 hex digits, within
 * the kernel's 15 characters. Made by a hash because ids are base 36 and longer.
 */
export function bridgeName(networkId: NetworkId): string {
  const digest = createHash("sha256").update(networkId).digest("hex");
  return BRIDGE_PREFIX + digest.slice(0, 8);
}

/** True for names that `bridgeName` can give (so not for the mesh device). */
export function isBridgeName(device: string): boolean {
  return BRIDGE_NAME.test(device);
}

/** MAC address of a node's mesh device, made of its underlay address: no exchange is needed. */
export function meshMac(dataPathAddr: string): string {
  const value = parseIpv4(dataPathAddr);
  assert(value !== undefined, `The data path address "${dataPathAddr}" is IPv4`);
  const bytes = formatIpv4(value).split(".");
  return `02:53:${bytes.map((byte) => Number(byte).toString(16).padStart(2, "0")).join(":")}`;
}

export function nodeMark(index: number): number {
  return (index << MARK_NODE_SHIFT) >>> 0;
}

/** Text that nft accepts as part of a chain name. */
export function chainNamePart(id: string): string {
  return id.replace(/[^A-Za-z0-9_]/g, "_").slice(0, 40);
}

/**
 * Mark of the IPVS service of a service address: made of the address, so that no number has to be
 * given out. Addresses of the private ranges differ in the 28 bits that are used.
 */
export function ipvsAddressMark(address: string): number {
  return (IPVS_MARK | ((parseIpv4(address) ?? 0) & 0x0fff_ffff)) >>> 0;
}

const PROTOCOL_NUMBERS = { tcp: 6, udp: 17, sctp: 132 } as const;

/** Mark of the IPVS service of a published port. */
export function ipvsPortMark(port: {
  protocol: keyof typeof PROTOCOL_NUMBERS;
  publishedPort: number;
}): number {
  const number = PROTOCOL_NUMBERS[port.protocol];
  return (IPVS_MARK | IPVS_MARK_PORT | (number << 16) | port.publishedPort) >>> 0;
}
