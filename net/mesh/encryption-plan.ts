/**
 * Endpoint table → the device, the IPsec policies and the associations of encrypted networks. Pure.
 *
 * - All traffic of encrypted networks leaves by a VXLAN device of its own, whose UDP port is what the policies
 *   look at. Towards each peer they ask for ESP, for all else on that port (either way) they say drop: where
 *   an association is missing, nothing goes out and nothing comes in.
 * - This node receives by every key of the cluster and every generation of each peer. It sends to each peer by
 *   the newest key by which that one says it can receive (core/encryption/mesh-keys.ts).
 */
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import type { MeshKeys, Peer } from "../../core/dispatcher/assignment.ts";
import { type Association, deriveEsp, encryptedMtu, type EspParties } from "./esp.ts";
import { ENCRYPTED_VNI, encryptedMac, encryptedPort, encryptedProbeAddress } from "./names.ts";
import type { MeshLink } from "./plan.ts";

/** A node tells its newest and the one before. */
export const GENERATIONS_MAX = 2;

export type EncryptionPolicy = {
  direction: "in" | "out";
  port: number;
  /** Undefined: the one for all others, which drops. */
  between?: { source: string; target: string };
};

export type Outbound = {
  peerId: string;
  keyId: string;
  target: string;
  /** Of each generation of this node, the newest last. */
  byGeneration: { generation: string; association: Association }[];
};

export type EncryptionPlan = {
  link: MeshLink;
  /** Of the device: the mesh address, and the one for probing. */
  addresses: string[];
  peers: { address: string; mac: string }[];
  policies: EncryptionPolicy[];
  /** As the managers know them. */
  generations: string[];
  /** Absent while the keys are not known (a start without managers): then what there is stays. */
  keyed?: {
    keyIds: string[];
    inbound: Association[];
    outbound: Outbound[];
    /** May stay until their key or generation is gone: the kernel sends by the one made last. */
    allowed: Association[];
  };
};

export type EncryptionInput = {
  networks: readonly Pick<Network, "spec">[];
  self: Peer;
  peers: readonly Peer[];
  keys: MeshKeys | undefined;
  dataPathPort: number;
  underlayMtu: number;
};

/** Undefined while the cluster has no encrypted network. */
export function planEncryption(input: EncryptionInput): EncryptionPlan | undefined {
  const { self, peers, keys } = input;
  if (!input.networks.some(isEncrypted)) return undefined;
  const port = encryptedPort(input.dataPathPort);
  const own = self.dataPathAddr;
  const generations = (self.encryption?.generations ?? []).slice(-GENERATIONS_MAX);
  const plan: EncryptionPlan = {
    link: {
      mac: encryptedMac(own),
      mtu: encryptedMtu(input.underlayMtu),
      vni: ENCRYPTED_VNI,
      local: own,
      port,
    },
    addresses: [self.meshAddress, encryptedProbeAddress(self.index)],
    peers: peers.map(({ dataPathAddr }) => ({
      address: dataPathAddr,
      mac: encryptedMac(dataPathAddr),
    })),
    policies: [
      { direction: "out", port },
      { direction: "in", port },
      ...peers.flatMap(({ dataPathAddr: peer }): EncryptionPolicy[] => [
        { direction: "out", port, between: { source: own, target: peer } },
        { direction: "in", port, between: { source: peer, target: own } },
      ]),
    ],
    generations,
  };
  if (keys) plan.keyed = planAssociations(self, peers, keys.keys, generations);
  return plan;
}

function planAssociations(
  self: Peer,
  peers: readonly Peer[],
  keys: MeshKeys["keys"],
  generations: string[],
): NonNullable<EncryptionPlan["keyed"]> {
  const inbound: Association[] = [];
  const outbound: Outbound[] = [];
  const allowed: Association[] = [];
  const one = (secret: string, sender: Peer, receiver: Peer, generation: string): Association => ({
    source: sender.dataPathAddr,
    target: receiver.dataPathAddr,
    ...recallEsp(secret, { sender, receiver, generation }),
  });
  for (const peer of peers) {
    const { encryption } = peer;
    if (!encryption || encryption.lack !== undefined) continue;
    for (const { secret } of keys) {
      for (const generation of encryption.generations.slice(-GENERATIONS_MAX)) {
        inbound.push(one(secret, peer, self, generation));
      }
      for (const generation of generations) allowed.push(one(secret, self, peer, generation));
    }
    const key = keys.findLast(({ id }) => encryption.keyIds.includes(id));
    if (!key) continue;
    outbound.push({
      peerId: peer.nodeId,
      keyId: key.id,
      target: peer.dataPathAddr,
      byGeneration: generations.map((generation) => ({
        generation,
        association: one(key.secret, self, peer, generation),
      })),
    });
  }
  return { keyIds: keys.map(({ id }) => id), inbound, outbound, allowed };
}

/** A plan is made at every change of the table; its keys are the same for hours. */
const recalled = new Map<string, Pick<Association, "spi" | "key">>();
const RECALLED_MAX = 20_000;

function recallEsp(secret: string, parties: EspParties): Pick<Association, "spi" | "key"> {
  const { sender, receiver, generation } = parties;
  const name = `${secret} ${sender.nodeId} ${sender.index} ${receiver.nodeId} ${generation}`;
  const known = recalled.get(name);
  if (known) return known;
  if (recalled.size >= RECALLED_MAX) recalled.clear();
  const derived = deriveEsp(secret, parties);
  recalled.set(name, derived);
  return derived;
}
