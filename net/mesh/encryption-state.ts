/**
 * Wanted × found of encrypted networks → lines for `ip -batch` and `bridge -batch`; what the tools print →
 * the same maps. Pure. As diff.ts, but associations are not alike: one by which this node receives can be
 * made again at any time, one by which it sends only once (esp.ts), so those are chosen in `chooseOutbound`.
 */
import type { Counts } from "./diff.ts";
import type { EncryptionPlan, EncryptionPolicy } from "./encryption-plan.ts";
import type { Association } from "./esp.ts";
import { ENCRYPTED_DEVICE, XFRM_BLOCK_PRIORITY, XFRM_PRIORITY, XFRM_REQID } from "./names.ts";
import type { Interface } from "./observe.ts";
import { fdbLine, linkLine, neighbourLine } from "./render.ts";

/** Order of packets that several cores and queues may change before they arrive. */
const REPLAY_WINDOW = 1_024;

export type EncryptionState = {
  /** Identity of the device; undefined when it is missing or to be made again. */
  link: string | undefined;
  mtu: number;
  addresses: Map<string, string>;
  neighbours: Map<string, string>;
  forwarding: Map<string, string>;
  /** Line by direction and addresses. */
  policies: Map<string, string>;
  /** By addresses and SPI. */
  associations: Map<string, Association>;
};

// --- lines

export function policyKey({ direction, between }: EncryptionPolicy): string {
  return between ? `${direction} ${between.source} ${between.target}` : `${direction} all`;
}

/** What `ip xfrm policy update` takes. */
export function policyLine({ direction, port, between }: EncryptionPolicy): string {
  const from = between ? `${between.source}/32` : "0.0.0.0/0";
  const to = between ? `${between.target}/32` : "0.0.0.0/0";
  const selector = `src ${from} dst ${to} proto udp dport ${port} dir ${direction}`;
  if (!between) return `${selector} action block priority ${XFRM_BLOCK_PRIORITY}`;
  const template = `src ${between.source} dst ${between.target} proto esp reqid ${XFRM_REQID} mode transport`;
  return `${selector} priority ${XFRM_PRIORITY} tmpl ${template}`;
}

function policyRemoval(line: string): string {
  return `xfrm policy delete ${line.split(/ (?:action|priority) /)[0] ?? ""}`;
}

export function associationKey(one: Pick<Association, "source" | "target" | "spi">): string {
  return `${one.source} ${one.target} 0x${one.spi.toString(16)}`;
}

function associationName({ source, target, spi }: Association): string {
  return `src ${source} dst ${target} proto esp spi 0x${spi.toString(16)}`;
}

function associationLine(one: Association): string {
  return (
    `xfrm state add ${associationName(one)} reqid ${XFRM_REQID} mode transport ` +
    `replay-window ${REPLAY_WINDOW} flag esn aead rfc4106(gcm(aes)) ${one.key} 128`
  );
}

function linkIdentity(link: { mac: string; vni: number; local: string; port: number }): string {
  return `${link.mac} ${link.vni} ${link.local} ${link.port}`;
}

// --- what the tools print

/** The encrypted device among the host's interfaces. */
export function foundEncryptedLink(
  interfaces: readonly Interface[],
): Pick<EncryptionState, "link" | "mtu" | "addresses"> {
  const device = interfaces.find(({ name }) => name === ENCRYPTED_DEVICE);
  const { vxlan } = device ?? {};
  if (!device || !vxlan || !device.isUp || vxlan.isLearning) {
    return { link: undefined, mtu: 0, addresses: new Map() };
  }
  const addresses = device.addresses
    .filter(({ address }) => !address.includes(":"))
    .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
  return {
    link: linkIdentity({ mac: device.mac, vni: vxlan.id, local: vxlan.local, port: vxlan.port }),
    mtu: device.mtu,
    addresses: new Map(addresses.map((address) => [address, address])),
  };
}

/** Blocks of a listing of ip xfrm: a line that is not indented begins each. */
function blocksOf(text: string): string[] {
  return text
    .split(/\n(?=\S)/)
    .map((block) => block.replace(/\s+/g, " ").trim())
    .filter((block) => block !== "");
}

/** Output of `ip xfrm policy list`: ours, by key; what is not as we make it has a line that no plan has. */
export function parsePolicies(text: string): Map<string, string> {
  const policies = new Map<string, string>();
  for (const block of blocksOf(text)) {
    const priority = Number(/ priority (\d+)/.exec(block)?.[1]);
    if (priority !== XFRM_PRIORITY && priority !== XFRM_BLOCK_PRIORITY) continue;
    const selector =
      /^src (\S+) dst (\S+) proto udp (?:sport \S+ )?dport (\d+) .*?dir (in|out)\b/.exec(block);
    if (!selector) continue;
    const [, from = "", to = "", port = "", direction = ""] = selector;
    const template =
      / tmpl src (\S+) dst (\S+) proto esp .*?reqid (\d+)\S* mode transport(?! level use)/.exec(
        block,
      );
    const isOurs = priority === XFRM_BLOCK_PRIORITY || Number(template?.[3]) === XFRM_REQID;
    if (!isOurs || (direction !== "in" && direction !== "out")) continue;
    const policy: EncryptionPolicy = { direction, port: Number(port) };
    if (template) policy.between = { source: template[1] ?? "", target: template[2] ?? "" };
    const line = policyLine(policy);
    const isAsMade =
      line.startsWith(`src ${from} dst ${to} `) && block.includes("action block") === !template;
    const key = policyKey(policy);
    // A second one of a key (of another port) is to go.
    const name = policies.has(key) ? `${key} ${port}` : key;
    const removable = `src ${from} dst ${to} proto udp dport ${port} dir ${direction} priority ${priority}`;
    policies.set(name, isAsMade ? line : removable);
  }
  return policies;
}

/** Output of `ip xfrm state list reqid N`. What waits for somebody to make a key (SPI 0) is not ours. */
export function parseAssociations(text: string): Map<string, Association> {
  const associations = new Map<string, Association>();
  for (const block of blocksOf(text)) {
    const found = /^src (\S+) dst (\S+) proto esp spi 0x([0-9a-f]+)\S* reqid (\d+)/.exec(block);
    if (!found || Number(found[4]) !== XFRM_REQID) continue;
    const key = / aead rfc4106\(gcm\(aes\)\) (0x[0-9a-f]+)/.exec(block)?.[1] ?? "";
    const spi = Number.parseInt(found[3] ?? "", 16);
    if (spi === 0) continue;
    const one: Association = { source: found[1] ?? "", target: found[2] ?? "", spi, key };
    associations.set(associationKey(one), one);
  }
  return associations;
}

function isThere(found: ReadonlyMap<string, Association>, one: Association): boolean {
  return found.get(associationKey(one))?.key === one.key;
}

// --- sending

/** What this process knows of its own sending. */
export type SenderMemory = {
  /** The generation that it has drawn last; only by that one it may make associations. */
  drawn?: string;
  /** Peer and key of those that it has made by `drawn`. */
  made: Set<string>;
};

export type OutboundChoice = {
  /** To be made now; `name` goes into `made` before. */
  add: { name: string; association: Association }[];
  /** One that this process has made is gone, or one of an earlier process cannot be made again. */
  isGenerationWanted: boolean;
  /** Made and gone. */
  lostCount: number;
  /** Some wait until all peers have surely heard of the newest generation. */
  isHeld: boolean;
};

/**
 * By what this node should send now. `isHolding`: its newest generation has come back from the managers a
 * moment ago; the peers that it can reach by an older one wait.
 */
export function chooseOutbound(
  keyed: NonNullable<EncryptionPlan["keyed"]>,
  found: ReadonlyMap<string, Association>,
  memory: SenderMemory,
  isHolding: boolean,
): OutboundChoice {
  const choice: OutboundChoice = {
    add: [],
    isGenerationWanted: false,
    lostCount: 0,
    isHeld: false,
  };
  for (const { peerId, keyId, target, byGeneration } of keyed.outbound) {
    const newest = byGeneration.at(-1);
    if (newest && isThere(found, newest.association)) continue;
    const name = `${peerId} ${keyId}`;
    const isDrawn = newest !== undefined && newest.generation === memory.drawn;
    if (isDrawn && !memory.made.has(name)) {
      const hasOlder = keyed.allowed.some((one) => one.target === target && isThere(found, one));
      if (isHolding && hasOlder) choice.isHeld = true;
      else choice.add.push({ name, association: newest.association });
      continue;
    }
    if (isDrawn) choice.lostCount += 1;
    // One that is drawn and has not come back from the managers yet will do.
    const isUnderWay =
      memory.drawn !== undefined && !byGeneration.some((one) => one.generation === memory.drawn);
    if (!isUnderWay) choice.isGenerationWanted = true;
  }
  return choice;
}

// --- difference

export type EncryptionSteps = {
  /** For `ip -batch`, before routes and filter: policies, then the device, then associations. */
  ip: string[];
  bridge: string[];
  /** After them. */
  ipLast: string[];
  bridgeLast: string[];
  isLinkNew: boolean;
  counts: Counts;
};

/** All but the associations by which this node sends, which are only removed here. */
export function diffEncryption(plan: EncryptionPlan, found: EncryptionState): EncryptionSteps {
  const steps: EncryptionSteps = {
    ip: [],
    bridge: [],
    ipLast: [],
    bridgeLast: [],
    isLinkNew: false,
    counts: {},
  };
  const count = (kind: keyof Counts, number: number) => {
    if (number > 0) steps.counts[kind] = (steps.counts[kind] ?? 0) + number;
  };
  const compare = (
    want: ReadonlyMap<string, string>,
    have: ReadonlyMap<string, string>,
    put: (line: string) => void,
    remove: (key: string, line: string) => void,
  ) => {
    let changes = 0;
    for (const [key, line] of want) {
      if (have.get(key) === line) continue;
      changes += 1;
      put(line);
    }
    for (const [key, line] of have) {
      if (want.has(key)) continue;
      changes += 1;
      remove(key, line);
    }
    return changes;
  };

  // Before there is a device, and after it is gone: there is no moment in which it sends in clear.
  const policies = new Map(plan.policies.map((policy) => [policyKey(policy), policyLine(policy)]));
  const policyChanges = compare(
    policies,
    found.policies,
    (line) => steps.ip.push(`xfrm policy update ${line}`),
    (_key, line) => steps.ipLast.push(policyRemoval(line)),
  );
  const device = ENCRYPTED_DEVICE;
  const { link } = plan;
  steps.isLinkNew = found.link !== linkIdentity(link);
  if (steps.isLinkNew) {
    count("link", 1);
    steps.ip.push(
      `link del ${device}`,
      `link add ${linkLine(link, device)}`,
      `link set ${device} up`,
    );
  } else if (found.mtu !== link.mtu) {
    count("link", 1);
    steps.ip.push(`link set ${device} mtu ${link.mtu}`);
  }
  const had = (map: Map<string, string>) => (steps.isLinkNew ? new Map<string, string>() : map);
  const addresses = plan.addresses.map((address) => `${address}/32`);
  const addressChanges = compare(
    new Map(addresses.map((address) => [address, address])),
    had(found.addresses),
    (line) => steps.ip.push(`addr replace ${line} dev ${device}`),
    (key) => steps.ipLast.push(`addr del ${key} dev ${device}`),
  );
  const neighbourChanges = compare(
    new Map(plan.peers.map((peer) => [peer.address, neighbourLine(peer, device)])),
    had(found.neighbours),
    (line) => steps.ip.push(`neigh replace ${line}`),
    (key) => steps.ipLast.push(`neigh del ${key} dev ${device}`),
  );
  const forwardingChanges = compare(
    new Map(plan.peers.map((peer) => [peer.mac, fdbLine(peer, device)])),
    had(found.forwarding),
    (line) => steps.bridge.push(`fdb replace ${line}`),
    (key) => steps.bridgeLast.push(`fdb del ${key} dev ${device} self`),
  );
  // A new device has nothing: that is one drift.
  if (!steps.isLinkNew) {
    count("address", addressChanges);
    count("neighbour", neighbourChanges);
    count("forwarding", forwardingChanges);
  }
  count("ipsec", policyChanges + diffAssociations(plan, found, steps));
  return steps;
}

function diffAssociations(
  { keyed }: EncryptionPlan,
  found: EncryptionState,
  steps: EncryptionSteps,
): number {
  if (!keyed) return 0;
  let changes = 0;
  const known = new Set<string>();
  for (const one of [...keyed.inbound, ...keyed.allowed]) known.add(associationKey(one));
  for (const one of keyed.inbound) {
    if (isThere(found.associations, one)) continue;
    changes += 1;
    // Of another key, by somebody's hand: nothing that is sent to us can be read with it.
    if (found.associations.has(associationKey(one))) {
      steps.ip.push(`xfrm state delete ${associationName(one)}`);
    }
    steps.ip.push(associationLine(one));
  }
  for (const [key, one] of found.associations) {
    if (known.has(key)) continue;
    changes += 1;
    steps.ipLast.push(`xfrm state delete ${associationName(one)}`);
  }
  return changes;
}

/** Lines that make associations by which this node sends; nothing else may make them. */
export function outboundLines(choice: OutboundChoice): string[] {
  return choice.add.map(({ association }) => associationLine(association));
}

/** Lines that take away the device, and after it what it was not allowed to do without. */
export function removalLines(found: Pick<EncryptionState, "policies" | "associations">): string[] {
  return [
    `link del ${ENCRYPTED_DEVICE}`,
    ...[...found.associations.values()].map((one) => `xfrm state delete ${associationName(one)}`),
    ...[...found.policies.values()].map((line) => policyRemoval(line)),
  ];
}
