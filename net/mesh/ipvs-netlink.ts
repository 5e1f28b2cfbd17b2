/**
 * IPVS by generic netlink: the kernel's own interface, so that a change of one target is one message
 * and no process is started. Encoding is pure; the socket is `openIpvs`.
 *
 * Numbers are of the kernel's stable interface (linux/ip_vs.h); ports and addresses are in the
 * network's byte order, the rest in the machine's.
 */
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";
import type { IpvsCommand, IpvsService } from "./ipvs-services.ts";
import { IPVS_MARK } from "./names.ts";
import {
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

const AF_INET = 2;
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
const SERVICE = { family: 1, mark: 5, scheduler: 6, flags: 7, timeout: 8, netmask: 9 } as const;
const TARGET = { address: 1, port: 2, method: 3, weight: 4, upper: 5, lower: 6 } as const;
/** Address translation; the other ways need the target to know the service's address. */
const METHOD_NAT = 0;

/** Messages in one call; the kernel's answers to all of them must fit the socket's queue. */
const BATCH = 64;
export type IpvsTimeouts = { tcpS: number; finS: number; udpS: number };

export type Ipvs = {
  /** Our services (by mark), without their targets. */
  services(): { mark: number; scheduler: string }[];
  targets(mark: number): Map<string, number>;
  /** @throws {ClusterError} unavailable at the first refused command; those after it may have been done. */
  execute(commands: readonly IpvsCommand[]): void;
  timeouts(): IpvsTimeouts;
  setTimeouts(timeouts: IpvsTimeouts): void;
  close(): void;
};

function serviceAttribute(mark: number, scheduler?: string): Buffer {
  const parts = [u16Attribute(SERVICE.family, AF_INET), u32Attribute(SERVICE.mark, mark)];
  if (scheduler !== undefined) {
    const flags = Buffer.alloc(8);
    // All flags off: the second word says which are meant.
    flags.writeUInt32LE(0xffff_ffff, 4);
    parts.push(
      attribute(SERVICE.scheduler, Buffer.from(`${scheduler}\0`)),
      attribute(SERVICE.flags, flags),
      u32Attribute(SERVICE.timeout, 0),
      u32Attribute(SERVICE.netmask, 0xffff_ffff),
    );
  }
  return nestedAttribute(ATTR.service, parts);
}

function targetAttribute(target: string, weight?: number): Buffer {
  const [address = "", portText = ""] = target.split(":");
  const value = parseIpv4(address);
  assert(value !== undefined, `The IPVS target "${target}" is IPv4`);
  const addressBytes = Buffer.alloc(16);
  addressBytes.writeUInt32BE(value);
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
  switch (command.kind) {
    case "add-service":
    case "set-service":
      return serviceAttribute(command.mark, command.scheduler);
    case "delete-service":
      return serviceAttribute(command.mark);
    case "add-target":
    case "set-target":
      return Buffer.concat([
        serviceAttribute(command.mark),
        targetAttribute(command.target, command.weight),
      ]);
    case "delete-target":
      return Buffer.concat([serviceAttribute(command.mark), targetAttribute(command.target)]);
  }
  throw new Error("No such command");
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
    services: () =>
      ask(family, CMD.getService, NLM_F_DUMP, none).flatMap((answer) => {
        const service = parseAttributes(answer.get(ATTR.service) ?? none);
        const mark = service.get(SERVICE.mark)?.readUInt32LE(0) ?? 0;
        const scheduler = service.get(SERVICE.scheduler)?.toString().replace(/\0.*$/, "") ?? "";
        // Two bits: others' marks with the highest one are not ours.
        return mark >>> 30 === IPVS_MARK >>> 30 ? [{ mark, scheduler }] : [];
      }),
    targets: (mark) => {
      const found = new Map<string, number>();
      const answers = ask(family, CMD.getTarget, NLM_F_DUMP, serviceAttribute(mark));
      for (const answer of answers) {
        const target = parseAttributes(answer.get(ATTR.target) ?? none);
        const address = target.get(TARGET.address)?.readUInt32BE(0) ?? 0;
        const port = target.get(TARGET.port)?.readUInt16BE(0) ?? 0;
        const weight = target.get(TARGET.weight)?.readUInt32LE(0) ?? 0;
        const isNat = (target.get(TARGET.method)?.readUInt32LE(0) ?? 0) === METHOD_NAT;
        // A weight that no plan has: it is set anew.
        found.set(`${formatIpv4(address)}:${port}`, isNat ? weight : -1);
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

/** All our services with their targets, as `diffIpvs` compares them. */
export function readIpvs(ipvs: Ipvs): Map<number, IpvsService> {
  const services = new Map<number, IpvsService>();
  for (const { mark, scheduler } of ipvs.services()) {
    services.set(mark, { mark, scheduler, targets: ipvs.targets(mark) });
  }
  return services;
}
