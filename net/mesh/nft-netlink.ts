/**
 * nf_tables by netlink: changes of elements in one batch, and the count of changes, without a process.
 * The tool needs 15 to 25 ms for such a change, nearly all of it to start and to read the table's
 * declarations. Encoding is pure; the socket is `openNft`.
 *
 * The kernel takes a batch whole or not at all, and counts it as one change. It answers each message,
 * after the batch: with 0, or with the error that made it refuse the batch. An error to the batch's
 * first message is about all of it (not permitted, no nf_tables, refused at the end), and those that
 * follow then say nothing.
 *
 * Numbers are of the kernel's stable interface (linux/netfilter/nfnetlink.h, nf_tables.h); numbers of
 * these messages are in the network's byte order.
 */
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { NFT_TABLE } from "./names.ts";
import {
  ADDRESS_FAMILY,
  attribute,
  errorNumber,
  nestedAttribute,
  NETLINK_NETFILTER,
  netlinkMessage,
  type NetlinkSocket,
  NLM_F_ACK,
  NLM_F_REQUEST,
  NLMSG_ERROR,
  openNetlink,
  parseAttributes,
} from "./netlink.ts";
import {
  type NftElement,
  nftElementBytes,
  type NftElementChange,
  type NftField,
} from "./nft-elements.ts";
import type { Family } from "./plan.ts";

const SUBSYSTEM = 10;
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
const MESSAGE = {
  add: (SUBSYSTEM << 8) | 12,
  delete: (SUBSYSTEM << 8) | 14,
  generation: (SUBSYSTEM << 8) | 16,
} as const;
const NLM_F_CREATE = 0x400;
const LIST = { table: 1, set: 2, elements: 3 } as const;
const LIST_ELEMENT = 1;
const ELEMENT = { key: 1, value: 2 } as const;
const DATA = { value: 1, verdict: 2 } as const;
const VERDICT = { code: 1, chain: 2 } as const;
const VERDICT_GOTO = -4;
const GENERATION_ID = 1;

/** Of the elements in one message: the length of an attribute has 16 bits. */
const LIST_BYTES_MAX = 32 * 1024;
/** A socket's default buffer takes 200 KiB; what is more goes by the tool, whose cost is then small beside. */
const BATCH_BYTES_MAX = 128 * 1024;
/** The answers to all must fit the socket's queue: 200 KiB, of which each takes 768 bytes. */
const BATCH_MESSAGES_MAX = 128;

/** What nftables does in the kernel without its tool. */
export type Nft = {
  /**
   * Makes these changes, all or none; false when they are too many for it, and nothing was done.
   * @throws {ClusterError} unavailable when the kernel refuses, or cannot be asked.
   */
  change(changes: readonly NftElementChange[]): boolean;
  /** What the kernel counts up with every change of any table by anybody; undefined where it cannot be read. */
  readGeneration(): number | undefined;
};

/** One message, without its number. `what`: of refusals. */
export type NftMessage = { what: string; type: number; flags: number; body: Buffer };

/** Header of the subsystem, then attributes. */
function body(family: number, resource: number, attributes: Buffer[]): Buffer {
  return Buffer.concat([Buffer.from([family, 0, resource >> 8, resource & 255]), ...attributes]);
}

function text(type: number, value: string): Buffer {
  return attribute(type, Buffer.from(`${value}\0`));
}

function dataAttribute(
  type: number,
  family: Family,
  fields: readonly NftField[],
  data: string,
): Buffer {
  if (fields[0] !== "verdict") {
    return nestedAttribute(type, [attribute(DATA.value, nftElementBytes(family, fields, data))]);
  }
  const [word, chain = ""] = data.split(" ");
  assert(word === "goto", `The verdict "${data}" goes to a chain`);
  const code = Buffer.alloc(4);
  code.writeInt32BE(VERDICT_GOTO);
  return nestedAttribute(type, [
    nestedAttribute(DATA.verdict, [attribute(VERDICT.code, code), text(VERDICT.chain, chain)]),
  ]);
}

function elementAttribute(change: NftElementChange, [key, value]: NftElement): Buffer {
  const { family, shape } = change;
  return nestedAttribute(LIST_ELEMENT, [
    dataAttribute(ELEMENT.key, family, shape.key, key),
    ...(shape.value === undefined || value === undefined
      ? []
      : [dataAttribute(ELEMENT.value, family, shape.value, value)]),
  ]);
}

/** The messages of a change, in the order of its elements; more than one where they are many. */
export function encodeNftChange(change: NftElementChange): NftMessage[] {
  const lists: Buffer[][] = [];
  let lengthBytes = Infinity;
  for (const element of change.elements) {
    const bytes = elementAttribute(change, element);
    if (lengthBytes + bytes.length > LIST_BYTES_MAX) {
      lists.push([]);
      lengthBytes = 0;
    }
    lists.at(-1)?.push(bytes);
    lengthBytes += bytes.length;
  }
  return lists.map((list) => ({
    what: `${change.kind} element of ${change.set}`,
    type: MESSAGE[change.kind],
    flags: NLM_F_REQUEST | NLM_F_ACK | (change.kind === "add" ? NLM_F_CREATE : 0),
    body: body(ADDRESS_FAMILY[change.family], 0, [
      text(LIST.table, NFT_TABLE),
      text(LIST.set, change.set),
      nestedAttribute(LIST.elements, list),
    ]),
  }));
}

/**
 * The nf_tables of this network namespace, or of the one at `namespacePath` (in tests of several hosts).
 * The socket is opened at the first use. `open`: @default a socket of the kernel
 */
export function openNft(
  namespacePath?: string,
  open: () => NetlinkSocket = () => openNetlink(NETLINK_NETFILTER, namespacePath),
): Nft {
  let socket: NetlinkSocket | undefined;
  let sequence = 0;
  /** Answers were lost: asked again, the mesh might wait for each of them. */
  let isMute = false;

  const receive = (from: NetlinkSocket) => {
    try {
      return from.receive();
    } catch (error) {
      isMute = true;
      from.close();
      throw error;
    }
  };
  const ask = () => {
    if (isMute) throw new ClusterError("unavailable", "Cannot use netlink: its answers were lost");
    socket ??= open();
    return socket;
  };
  const send = (messages: readonly NftMessage[]) => {
    const first = sequence + 1;
    sequence += messages.length;
    const bytes = messages.map((message, place) =>
      netlinkMessage({ ...message, sequence: first + place }),
    );
    const kernel = ask();
    kernel.send(Buffer.concat(bytes));
    return { kernel, first };
  };

  return {
    change: (changes) => {
      const messages = changes.flatMap(encodeNftChange);
      const sizeBytes = messages.reduce((sum, message) => sum + message.body.length, 0);
      if (sizeBytes > BATCH_BYTES_MAX || messages.length > BATCH_MESSAGES_MAX) return false;
      const edge = (type: number) => ({
        what: "all of it",
        type,
        flags: NLM_F_REQUEST,
        body: body(0, SUBSYSTEM, []),
      });
      const batch = [edge(BATCH_BEGIN), ...messages, edge(BATCH_END)];
      const { kernel, first } = send(batch);
      let refusal = "";
      let left = messages.length;
      while (left > 0) {
        for (const answer of receive(kernel)) {
          // Not those to an earlier batch that was refused as a whole.
          if (answer.type !== NLMSG_ERROR || answer.sequence < first) continue;
          const error = errorNumber(answer);
          if (answer.sequence === first) left = 0;
          else left -= 1;
          if (error !== 0 && refusal === "") {
            refusal = `error ${error} to ${batch[answer.sequence - first]?.what}`;
          }
        }
      }
      if (refusal !== "") {
        throw new ClusterError("unavailable", `Cannot change nftables by netlink: ${refusal}`);
      }
      return true;
    },
    readGeneration: () => {
      try {
        const { kernel, first } = send([
          {
            what: "count of changes",
            type: MESSAGE.generation,
            flags: NLM_F_REQUEST,
            body: body(0, 0, []),
          },
        ]);
        for (;;) {
          const answer = receive(kernel).find((candidate) => candidate.sequence === first);
          if (!answer) continue;
          if (answer.type === NLMSG_ERROR) return undefined;
          return parseAttributes(answer.payload.subarray(4)).get(GENERATION_ID)?.readUInt32BE(0);
        }
      } catch {
        // Without it every check looks at the table.
        return undefined;
      }
    },
  };
}
