/**
 * IPVS by generic netlink: the kernel's own interface, so that a change of one target is one message
 * and no process is started. Encoding is pure; the socket is `openIpvs`.
 *
 * Numbers are of the kernel's stable interface (linux/ip_vs.h); ports and addresses are in the
 * network's byte order, the rest in the machine's.
 */
import { unreachable } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { addressDigits, formatDigits, wordsOf } from "./family.ts";
import type { IpvsCommand, IpvsScheduling, IpvsService } from "./ipvs-services.ts";
import { IPVS_MARK } from "./names.ts";
import {
  ADDRESS_FAMILY,
  attribute,
  errorNumber,
  nestedAttribute,
  NETLINK_GENERIC,
  netlinkMessage,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  openNetlink,
  parseAttributes,
  u16Attribute,
  u32Attribute,
} from "./netlink.ts";
import type { Family } from "./plan.ts";

/** All clients apart: of IPv4 a mask, of IPv6 a prefix length. */
const CLIENT_MASK: Record<Family, number> = { ipv4: 0xffff_ffff, ipv6: 128 };
const GENL_ID_CTRL = 16;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;

const CMD = {
  "add-service": 1,
  "set-service": 2,
  "delete-service": 3,
  getService: 4,
  "add-target": 5,
  "set-target": 6,
  "delete-target": 7,
  getTarget: 8,
  setConfig: 12,
  getConfig: 13,
} as const;
const ATTR = { service: 1, target: 2, timeoutTcp: 4, timeoutFin: 5, timeoutUdp: 6 } as const;
const SERVICE = {
  family: 1,
  mark: 5,
  scheduler: 6,
  flags: 7,
  timeout: 8,
  netmask: 9,
  stats: 10,
  stats64: 12,
} as const;
const STATS = { connections: 1 } as const;
/** What the kernel itself sets among a service's flags. */
const FLAG_HASHED = 0x2;
const TARGET = { address: 1, port: 2, method: 3, weight: 4, upper: 5, lower: 6 } as const;
/** Address translation; the other ways need the target to know the service's address. */
const METHOD_NAT = 0;

/** Messages in one call; the kernel's answers to all of them must fit the socket's queue. */
const BATCH = 64;
export type IpvsTimeouts = { tcpS: number; finS: number; udpS: number };

export type IpvsFound = IpvsScheduling & {
  mark: number;
  /** New connections since the service was made. */
  connections: number;
};

export type Ipvs = {
  /** Our services (by mark) of a family, without their targets. */
  services(family: Family): IpvsFound[];
  targets(family: Family, mark: number): Map<string, number>;
  /** @throws {ClusterError} unavailable at the first refused command; those after it may have been done. */
  execute(commands: readonly IpvsCommand[]): void;
  timeouts(): IpvsTimeouts;
  setTimeouts(timeouts: IpvsTimeouts): void;
  close(): void;
};

function serviceAttribute(family: Family, mark: number, scheduling?: IpvsScheduling): Buffer {
  const parts = [
    u16Attribute(SERVICE.family, ADDRESS_FAMILY[family]),
    u32Attribute(SERVICE.mark, mark),
  ];
  if (scheduling !== undefined) {
    const flags = Buffer.alloc(8);
    flags.writeUInt32LE(scheduling.flags, 0);
    // The second word says which of the flags are meant.
    flags.writeUInt32LE(0xffff_ffff, 4);
    parts.push(
      attribute(SERVICE.scheduler, Buffer.from(`${scheduling.scheduler}\0`)),
      attribute(SERVICE.flags, flags),
      u32Attribute(SERVICE.timeout, scheduling.timeoutS),
      u32Attribute(SERVICE.netmask, CLIENT_MASK[family]),
    );
  }
  return nestedAttribute(ATTR.service, parts);
}

function targetAttribute(family: Family, target: string, weight?: number): Buffer {
  const [address = "", portText = ""] = target.split(" ");
  const addressBytes = Buffer.alloc(16);
  addressBytes.write(addressDigits(family, address), "hex");
  const portBytes = Buffer.alloc(2);
  portBytes.writeUInt16BE(Number(portText));
  const parts = [attribute(TARGET.address, addressBytes), attribute(TARGET.port, portBytes)];
  if (weight !== undefined) {
    parts.push(
      u32Attribute(TARGET.method, METHOD_NAT),
      u32Attribute(TARGET.weight, weight),
      u32Attribute(TARGET.upper, 0),
      u32Attribute(TARGET.lower, 0),
    );
  }
  return nestedAttribute(ATTR.target, parts);
}

/** The attributes of a command, as the kernel takes them. */
export function encodeIpvsCommand(command: IpvsCommand): Buffer {
  const { family, mark } = command;
  switch (command.kind) {
    case "add-service":
    case "set-service":
      return serviceAttribute(family, mark, command);
    case "delete-service":
      return serviceAttribute(family, mark);
    case "add-target":
    case "set-target":
      return Buffer.concat([
        serviceAttribute(family, mark),
        targetAttribute(family, command.target, command.weight),
      ]);
    case "delete-target":
      return Buffer.concat([
        serviceAttribute(family, mark),
        targetAttribute(family, command.target),
      ]);
  }
  return unreachable(command);
}

/** Header of generic netlink, then attributes. */
function genericBody(command: number, attributes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([command, 1, 0, 0]), attributes]);
}

/**
 * A socket to the IPVS of this network namespace, or of the one at `namespacePath` (in tests).
 * @throws {ClusterError} unavailable when the kernel has no IPVS.
 */
export function openIpvs(namespacePath?: string): Ipvs {
  const socket = openNetlink(NETLINK_GENERIC, namespacePath);
  let sequence = 0;

  const fail = (what: string): never => {
    throw new ClusterError("unavailable", `Cannot program IPVS: ${what}`);
  };
  /** Attributes of every answer to one request. */
  const ask = (type: number, command: number, flags: number, attributes: Buffer) => {
    sequence += 1;
    const body = genericBody(command, attributes);
    socket.send(netlinkMessage({ type, flags: NLM_F_REQUEST | flags, sequence, body }));
    const found: Map<number, Buffer>[] = [];
    for (;;) {
      for (const answer of socket.receive()) {
        if (answer.sequence !== sequence) continue;
        if (answer.type === NLMSG_DONE) return found;
        if (answer.type === NLMSG_ERROR) {
          const error = errorNumber(answer);
          if (error !== 0) fail(`error ${error} to command ${command}`);
          return found;
        }
        found.push(parseAttributes(answer.payload.subarray(4)));
        if ((flags & NLM_F_DUMP) === 0) return found;
      }
    }
  };
  const none = Buffer.alloc(0);
  let family: number;
  try {
    const name = attribute(CTRL_ATTR_FAMILY_NAME, Buffer.from("IPVS\0"));
    const [answer] = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, name);
    family = answer?.get(CTRL_ATTR_FAMILY_ID)?.readUInt16LE(0) ?? fail("no family");
  } catch {
    socket.close();
    throw new ClusterError(
      "unavailable",
      "Cannot use the ipvs back-end: the kernel has no IPVS (module ip_vs); choose nftables or iptables",
    );
  }

  return {
    services: (wanted) =>
      ask(family, CMD.getService, NLM_F_DUMP, none).flatMap((answer) => {
        const service = parseAttributes(answer.get(ATTR.service) ?? none);
        const mark = service.get(SERVICE.mark)?.readUInt32LE(0) ?? 0;
        // Two bits: others' marks with the highest one are not ours.
        if (mark >>> 30 !== IPVS_MARK >>> 30) return [];
        if (service.get(SERVICE.family)?.readUInt16LE(0) !== ADDRESS_FAMILY[wanted]) return [];
        const long = parseAttributes(service.get(SERVICE.stats64) ?? none).get(STATS.connections);
        const short = parseAttributes(service.get(SERVICE.stats) ?? none).get(STATS.connections);
        return [
          {
            mark,
            scheduler: service.get(SERVICE.scheduler)?.toString().replace(/\0.*$/, "") ?? "",
            flags: (service.get(SERVICE.flags)?.readUInt32LE(0) ?? 0) & ~FLAG_HASHED,
            timeoutS: service.get(SERVICE.timeout)?.readUInt32LE(0) ?? 0,
            connections: Number(long?.readBigUInt64LE(0) ?? short?.readUInt32LE(0) ?? 0),
          },
        ];
      }),
    targets: (wanted, mark) => {
      const found = new Map<string, number>();
      const answers = ask(family, CMD.getTarget, NLM_F_DUMP, serviceAttribute(wanted, mark));
      for (const answer of answers) {
        const target = parseAttributes(answer.get(ATTR.target) ?? none);
        const bytes = target.get(TARGET.address) ?? Buffer.alloc(16);
        const digits = bytes.toString("hex", 0, wordsOf(wanted).bits / 8);
        const port = target.get(TARGET.port)?.readUInt16BE(0) ?? 0;
        const weight = target.get(TARGET.weight)?.readUInt32LE(0) ?? 0;
        const isNat = (target.get(TARGET.method)?.readUInt32LE(0) ?? 0) === METHOD_NAT;
        // A weight that no plan has: it is set anew.
        found.set(`${formatDigits(wanted, digits)} ${port}`, isNat ? weight : -1);
      }
      return found;
    },
    execute: (commands) => {
      for (let start = 0; start < commands.length; start += BATCH) {
        const batch = commands.slice(start, start + BATCH);
        const first = sequence + 1;
        sequence += batch.length;
        socket.send(
          Buffer.concat(
            batch.map((command, place) =>
              netlinkMessage({
                type: family,
                flags: NLM_F_REQUEST | NLM_F_ACK,
                sequence: first + place,
                body: genericBody(CMD[command.kind], encodeIpvsCommand(command)),
              }),
            ),
          ),
        );
        let refused = "";
        let left = batch.length;
        while (left > 0) {
          for (const answer of socket.receive()) {
            if (answer.type !== NLMSG_ERROR || answer.sequence < first) continue;
            left -= 1;
            const error = errorNumber(answer);
            if (error !== 0 && refused === "") {
              refused = `error ${error} to ${JSON.stringify(batch[answer.sequence - first])}`;
            }
          }
        }
        if (refused !== "") fail(refused);
      }
    },
    timeouts: () => {
      const [answer] = ask(family, CMD.getConfig, 0, none);
      const read = (type: number) => answer?.get(type)?.readUInt32LE(0) ?? 0;
      return {
        tcpS: read(ATTR.timeoutTcp),
        finS: read(ATTR.timeoutFin),
        udpS: read(ATTR.timeoutUdp),
      };
    },
    setTimeouts: ({ tcpS, finS, udpS }) => {
      const body = Buffer.concat([
        u32Attribute(ATTR.timeoutTcp, tcpS),
        u32Attribute(ATTR.timeoutFin, finS),
        u32Attribute(ATTR.timeoutUdp, udpS),
      ]);
      ask(family, CMD.setConfig, NLM_F_ACK, body);
    },
    close: socket.close,
  };
}

/** All our services of a family with their targets, as `diffIpvs` compares them. */
export function readIpvs(ipvs: Ipvs, family: Family): Map<number, IpvsService> {
  const services = new Map<number, IpvsService>();
  for (const { mark, scheduler, flags, timeoutS } of ipvs.services(family)) {
    const targets = ipvs.targets(family, mark);
    services.set(mark, { mark, scheduler, flags, timeoutS, targets });
  }
  return services;
}
