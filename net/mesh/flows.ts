/**
 * Flows (the kernel's conntrack entries) that were translated to a task which is gone. They are
 * forgotten, so that clients are told at their next packet, and UDP does not follow them to whoever has
 * the address next. An earlier run of this agent may have left some, too: it died between programming
 * the kernel and forgetting.
 *
 * By netlink, not by the conntrack tool: tool (and engine) list flows, and then delete what they found
 * by the client's side of each. A client that in between uses its source port again has another flow
 * there, to a task that lives, and that one is deleted: its next packet is balanced anew, in the middle
 * of a connection. (A client that opens connections fast uses all its ports within some seconds.) Here a
 * flow is named by the task's side, which no other task's flow has. The flow's id would not do: the
 * kernel makes it from the client's side and the entry's place in memory, and both come again.
 *
 * Numbers are of the kernel's stable interface (linux/netfilter/nfnetlink_conntrack.h); attributes'
 * values are in the network's byte order, but for those of the filter.
 */
import { ClusterError } from "../../core/errors.ts";
import { addressDigits, formatDigits } from "./family.ts";
import { isInBlock, parseIpv4, parseIpv4Block } from "./ipv4.ts";
import {
  ADDRESS_FAMILY,
  attribute,
  errorNumber,
  nestedAttribute,
  NETLINK_NETFILTER,
  netlinkMessage,
  type NetlinkSocket,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  openNetlink,
  parseAttributes,
  u32Attribute,
} from "./netlink.ts";
import { PROTOCOL_NUMBERS } from "./names.ts";
import type { Family, MeshPlan } from "./plan.ts";
import { isIpv6 } from "./plan-ipv6.ts";

const GET = (1 << 8) | 1;
const DELETE = (1 << 8) | 2;
const FLOW = { original: 1, reply: 2, protocol: 4, zone: 18, filter: 25 } as const;
const TUPLE_IP = 1;
const TUPLE_PROTOCOL = 2;
const PROTOCOL_NUMBER = 1;
const PROTOCOL_TARGET_PORT = 3;
const PROTOCOL_TCP = 1;
const TCP_STATE = 1;
/** TIME_WAIT and CLOSE. */
const TCP_STATES_OVER: readonly number[] = [7, 8];
const FILTER_REPLY = 2;
const FILTER_SOURCE = 1;
const SOURCE_ATTRIBUTE: Record<Family, number> = { ipv4: 1, ipv6: 3 };
const TARGET_ATTRIBUTE: Record<Family, number> = { ipv4: 2, ipv6: 4 };
const ENOENT = 2;

const FLOWS_MAX = 65_536;
/** Addresses that are asked for one by one. */
const QUESTIONS_MAX = 8;
/** Deletions in one datagram to the kernel; others may go on after each. */
const DELETIONS_AT_ONCE = 64;
/** Datagrams (of up to 32 KiB) after which others may go on. */
const DATAGRAMS_AT_ONCE = 8;

/** The network namespace's flows. Failures are `ClusterError` unavailable. */
export type Flows = {
  /**
   * Those whose answers come from one of the addresses; at most 65,536, others are left to their
   * time-outs. However many addresses there are, the flows are gone through a few times at most.
   */
  find(addresses: ReadonlySet<string>): Promise<Flow[]>;
  /**
   * UDP that came to one of these addresses of this host (hex digits) and ports, and is not translated: it
   * began while no task was behind the port. The kernel translates a flow by its first packet only, and a
   * client that goes on sending from one port keeps the flow alive.
   */
  findUntranslatedUdp(wanted: UntranslatedUdp): Promise<Flow[]>;
  /** Those that have ended meanwhile, or are others by now, are left; how many were not. */
  forget(found: readonly Flow[]): Promise<number>;
  /** The addresses from which translated flows are answered. IPv4; goes through all flows. */
  translatedSources(): Promise<Set<string>>;
  /** Resolves when no question is under way any more. */
  close(): Promise<void>;
};

export type UntranslatedUdp = {
  family: Family;
  /** As `addressDigits` gives them. */
  addresses: ReadonlySet<string>;
  ports: ReadonlySet<number>;
};

/** What the kernel tells of one flow: enough to delete it and no other. */
export type Flow = {
  family: Family;
  /** Where its answers come from, as hex digits. */
  replySource: string;
  /** The address that the client asked, as hex digits, and its port, where the protocol has any. */
  asked: string;
  askedPort: number;
  protocol: number;
  /** The client asked for another address than answers. */
  isTranslated: boolean;
  /** A TCP connection that has ended; the entry stays for two minutes. */
  isOver: boolean;
  /** The attributes that name it. */
  name: Buffer;
};

/** The flow in an answer to `GET`, after the header; undefined for what has no addresses of the family. */
export function parseFlow(family: Family, attributes: Buffer): Flow | undefined {
  const parts = parseAttributes(attributes);
  const within = (bytes: Buffer | undefined, type: number) =>
    bytes && parseAttributes(bytes).get(type);
  const reply = parts.get(FLOW.reply);
  const source = within(within(reply, TUPLE_IP), SOURCE_ATTRIBUTE[family]);
  const original = parts.get(FLOW.original);
  const asked = within(within(original, TUPLE_IP), TARGET_ATTRIBUTE[family]);
  const protocol = within(original, TUPLE_PROTOCOL);
  if (!reply || !source || !asked) return undefined;
  const zone = parts.get(FLOW.zone);
  const state = within(within(parts.get(FLOW.protocol), PROTOCOL_TCP), TCP_STATE)?.[0] ?? 0;
  return {
    family,
    replySource: source.toString("hex"),
    asked: asked.toString("hex"),
    askedPort: within(protocol, PROTOCOL_TARGET_PORT)?.readUInt16BE(0) ?? 0,
    protocol: within(protocol, PROTOCOL_NUMBER)?.[0] ?? 0,
    isTranslated: !source.equals(asked),
    isOver: TCP_STATES_OVER.includes(state),
    name: Buffer.concat([
      nestedAttribute(FLOW.reply, [reply]),
      ...(zone ? [attribute(FLOW.zone, zone)] : []),
    ]),
  };
}

/** Flows of this network namespace, or of the one at `namespacePath`. Opens its socket when first asked. */
export function kernelFlows(namespacePath?: string): Flows {
  let socket: NetlinkSocket | undefined;
  let sequence = 0;
  const close = () => {
    socket?.close();
    socket = undefined;
  };
  // One question at a time.
  let tail: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: (socket: NetlinkSocket) => Promise<T>): Promise<T> => {
    const turn = tail.then(async () => {
      socket ??= openNetlink(NETLINK_NETFILTER, namespacePath);
      try {
        return await work(socket);
      } catch (error) {
        // What is still on its way would be taken for the next question's answer.
        close();
        throw error;
      }
    });
    tail = turn.catch(() => undefined);
    return turn;
  };
  const header = (family: Family) => Buffer.from([ADDRESS_FAMILY[family], 0, 0, 0]);

  const list = async (
    from: NetlinkSocket,
    family: Family,
    question: Buffer,
    see: (flow: Flow) => void,
  ) => {
    sequence += 1;
    const body = Buffer.concat([header(family), question]);
    const flags = NLM_F_REQUEST | NLM_F_DUMP;
    from.send(netlinkMessage({ type: GET, flags, sequence, body }));
    for (let datagrams = 1; ; datagrams++) {
      for (const answer of from.receive()) {
        if (answer.sequence !== sequence) continue;
        if (answer.type === NLMSG_DONE) return;
        if (answer.type === NLMSG_ERROR) throw refused("list flows", errorNumber(answer));
        const flow = parseFlow(family, answer.payload.subarray(4));
        if (flow) see(flow);
      }
      // The kernel goes on with the listing only as it is read: a round of the mesh may come between.
      if (datagrams % DATAGRAMS_AT_ONCE === 0) await new Promise((go) => setImmediate(go));
    }
  };
  const deleteAll = async (from: NetlinkSocket, found: readonly Flow[]) => {
    let count = 0;
    for (let start = 0; start < found.length; start += DELETIONS_AT_ONCE) {
      const some = found.slice(start, start + DELETIONS_AT_ONCE);
      const first = sequence + 1;
      sequence += some.length;
      const flags = NLM_F_REQUEST | NLM_F_ACK;
      const messages = some.map(({ family, name }, place) => {
        const body = Buffer.concat([header(family), name]);
        return netlinkMessage({ type: DELETE, flags, sequence: first + place, body });
      });
      from.send(Buffer.concat(messages));
      for (let left = some.length; left > 0; ) {
        for (const answer of from.receive()) {
          if (answer.type !== NLMSG_ERROR || answer.sequence < first) continue;
          left -= 1;
          const error = errorNumber(answer);
          if (error === 0) count += 1;
          // It has ended meanwhile, or is another one now.
          else if (error !== ENOENT) throw refused("forget a flow", error);
        }
      }
      await new Promise((go) => setImmediate(go));
    }
    return count;
  };

  return {
    find: (addresses) =>
      inTurn(async (from) => {
        const found: Flow[] = [];
        for (const family of ["ipv4", "ipv6"] as const) {
          const wanted = new Set(
            [...addresses]
              .filter((address) => isIpv6(address) === (family === "ipv6"))
              .map((address) => addressDigits(family, address)),
          );
          for (const question of questionsFor(family, wanted)) {
            await list(from, family, question, (flow) => {
              if (wanted.has(flow.replySource) && found.length < FLOWS_MAX) found.push(flow);
            });
          }
        }
        return found;
      }),
    findUntranslatedUdp: ({ family, addresses, ports }) =>
      inTurn(async (from) => {
        const found: Flow[] = [];
        await list(from, family, Buffer.alloc(0), (flow) => {
          const isIt =
            flow.protocol === PROTOCOL_NUMBERS.udp &&
            !flow.isTranslated &&
            ports.has(flow.askedPort);
          if (isIt && addresses.has(flow.asked) && found.length < FLOWS_MAX) found.push(flow);
        });
        return found;
      }),
    forget: (found) => inTurn((from) => deleteAll(from, found)),
    translatedSources: () =>
      inTurn(async (from) => {
        const digits = new Set<string>();
        await list(from, "ipv4", Buffer.alloc(0), (flow) => {
          if (flow.isTranslated) digits.add(flow.replySource);
        });
        return new Set([...digits].map((source) => formatDigits("ipv4", source)));
      }),
    close: async () => {
      await tail;
      close();
    },
  };
}

/**
 * For a few addresses the kernel looks itself, where it is of 5.8 or later, a tenth of the cost of having all
 * told. Not in IPv6: there kernels (6.18 still) leave out just the flows that are asked for.
 */
function questionsFor(family: Family, wanted: ReadonlySet<string>): Buffer[] {
  if (wanted.size === 0) return [];
  if (family !== "ipv4" || wanted.size > QUESTIONS_MAX) return [Buffer.alloc(0)];
  return [...wanted].map((digits) => {
    const source = attribute(SOURCE_ATTRIBUTE[family], Buffer.from(digits, "hex"));
    return Buffer.concat([
      nestedAttribute(FLOW.reply, [nestedAttribute(TUPLE_IP, [source])]),
      nestedAttribute(FLOW.filter, [u32Attribute(FILTER_REPLY, FILTER_SOURCE)]),
    ]);
  });
}

/** The address from which a flow is answered. */
export function flowSource({ family, replySource }: Flow): string {
  return formatDigits(family, replySource);
}

function refused(what: string, error: number): ClusterError {
  return new ClusterError(
    "unavailable",
    `Cannot ${what} by netlink: the kernel gives error ${error}`,
  );
}

/** Those of the cluster's networks that no task has. IPv4 only. Pure. */
export function strayFlowSources(plan: MeshPlan, sources: Iterable<string>): string[] {
  const blocks = plan.filter.subnets.flatMap((subnet) => parseIpv4Block(subnet) ?? []);
  const live = new Set([
    ...plan.legs.map((leg) => leg.split("@")[0] ?? ""),
    ...plan.filter.gateways,
    ...plan.filter.virtualIps.map(({ address }) => address),
  ]);
  return [...sources].filter((source) => {
    const value = parseIpv4(source);
    if (value === undefined || live.has(source)) return false;
    return blocks.some((block) => isInBlock(block, value));
  });
}
