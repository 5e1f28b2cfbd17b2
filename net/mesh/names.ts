/** Names and numbers of the kernel objects that shoal makes; nothing else on the host may use them. */
import { createHash } from "node:crypto";
import { assert } from "../../core/assert.ts";
import type { NetworkId } from "../../core/ids.ts";
import { formatAddress6, parseAddress6 } from "../../core/store/cidr6.ts";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";

/** The one VXLAN device of a node. */
export const MESH_DEVICE = "shmesh";
export const MESH_VNI = 4096;
/** The VXLAN device of encrypted networks; what leaves by it is encrypted, or dropped. */
export const ENCRYPTED_DEVICE = "shmeshe";
export const ENCRYPTED_VNI = 4097;
export function isMeshDevice(device: string): boolean {
  return device === MESH_DEVICE || device === ENCRYPTED_DEVICE;
}
/** Both, as nft (`"shmesh*"`) and iptables (`shmesh+`) take the beginning of a name. */
export const MESH_DEVICE_PREFIX = MESH_DEVICE;
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
/** First of our rules. What comes from an encrypted network's bridge for another node's mesh address. */
export const RULE_FIRST_PRIORITY = 19_990;
/** Marked packets that come from an encrypted network's bridge go on at `RULE_ENCRYPTED_PRIORITY`. */
export const RULE_BRANCH_PRIORITY = 20_000;
/** The rule of peer i for those has this priority + i. */
export const RULE_ENCRYPTED_PRIORITY = 25_000;
/** Mesh addresses of the peers, over the encrypted device; + i: return table of peer i. */
export const ENCRYPTED_TABLE = 15_000;

/** On all our IPsec associations and policies, so that nobody else's are touched. */
export const XFRM_REQID = 7_563_373;
/** Priority of the policies that ask for encryption, and of those that drop everything else. */
export const XFRM_PRIORITY = 1_170;
export const XFRM_BLOCK_PRIORITY = 1_171;

/** Bits 16-27: index of the ingress node, in the conntrack mark and the packet mark. */
export const MARK_NODE_MASK = 0x0fff_0000;
export const MARK_NODE_SHIFT = 16;
/** Bit 28 of the packet mark: our forward chain permits this packet. */
export const MARK_PERMIT = 0x1000_0000;
/** Bit 29 of the conntrack mark: the flow came in by a port published on this node. */
export const MARK_PUBLISHED = 0x2000_0000;
/** Bit 30 of the conntrack mark: and its task is to see this node's address. */
export const MARK_SNAT = 0x4000_0000;

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

/** UDP port of the encrypted device; nothing of it is ever seen on the wire. */
export function encryptedPort(dataPathPort: number): number {
  return dataPathPort + 1;
}

/**
 * Address of a node's encrypted device, link-local and made of its index. Nothing but the check whether
 * encrypted packets get through (`shoal net doctor`) uses it.
 */
export function encryptedProbeAddress(index: number): string {
  return `169.254.${16 + (index >> 8)}.${index & 255}`;
}

/** MAC address of a node's mesh device, made of its underlay address: no exchange is needed. */
export function meshMac(dataPathAddr: string): string {
  return macOf("02:53", dataPathAddr);
}

/** The same of its encrypted device. */
export function encryptedMac(dataPathAddr: string): string {
  return macOf("02:55", dataPathAddr);
}

function macOf(prefix: string, dataPathAddr: string): string {
  const value = parseIpv4(dataPathAddr);
  assert(value !== undefined, `The data path address "${dataPathAddr}" is IPv4`);
  const bytes = formatIpv4(value).split(".");
  return `${prefix}:${bytes.map((byte) => Number(byte).toString(16).padStart(2, "0")).join(":")}`;
}

/** Of all nodes' IPv6 addresses in the mesh; lies in MESH_POOL6 (core/allocator/address6.ts), where no network is. */
const MESH_PREFIX6 = 0xfd73_686f_616cn << 80n;

/** The node's IPv6 address in the mesh, made of its IPv4 address there. */
export function meshAddress6(meshAddress: string): string {
  const value = parseIpv4(meshAddress);
  assert(value !== undefined, `The mesh address "${meshAddress}" is IPv4`);
  return formatAddress6(MESH_PREFIX6 | BigInt(value));
}

/** Link-local, and otherwise of no meaning: "so", and the 32 bits of an IPv4 mesh address. */
const ENCRYPTED_PREFIX6 = 0xfe80_0000_0000_0000_0000_736fn << 32n;

/**
 * The node as the next hop on the encrypted device in IPv6. Not its mesh address: the kernel takes no address
 * as a next hop by one device that it knows to be on another, unless it is link-local.
 */
export function encryptedGateway6(meshAddress: string): string {
  const value = parseIpv4(meshAddress);
  assert(value !== undefined, `The mesh address "${meshAddress}" is IPv4`);
  return formatAddress6(ENCRYPTED_PREFIX6 | BigInt(value));
}

/**
 * A link-local address that every bridge with IPv6 is given: the kernel's own is not used before it has
 * looked for others with it, and for these two seconds the bridge would find no container.
 */
export const BRIDGE_LINK_LOCAL = "fe80::7368:6f61:6c";

/** True for addresses that `meshAddress6` can give. */
export function isMeshAddress6(address: string): boolean {
  const value = parseAddress6(address);
  return value !== undefined && value >> 32n === MESH_PREFIX6 >> 32n;
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

export const PROTOCOL_NUMBERS = { tcp: 6, udp: 17, sctp: 132 } as const;

/** Mark of the IPVS service of a published port. */
export function ipvsPortMark(port: {
  protocol: keyof typeof PROTOCOL_NUMBERS;
  publishedPort: number;
}): number {
  const number = PROTOCOL_NUMBERS[port.protocol];
  return (IPVS_MARK | IPVS_MARK_PORT | (number << 16) | port.publishedPort) >>> 0;
}
