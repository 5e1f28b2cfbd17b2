/**
 * Elements of nft's sets and maps: one description of what each is made of, out of which come the
 * declaration for the tool and the bytes for the kernel. Pure.
 *
 * Elements are kept as the tool writes them (`10.0.0.2 . 1 : 10.0.0.3`): their text is what two tables
 * are compared by. The kernel compares bytes, as its rules load them: what comes from the packet in the
 * network's order, what the kernel itself counts or marks in the machine's (see `netlink.ts`).
 */
import { assert, AssertionError, unreachable } from "../../core/assert.ts";
import { addressDigits, wordsOf } from "./family.ts";
import { PROTOCOL_NUMBERS } from "./names.ts";
import type { Family } from "./plan.ts";

/** `turn`: the number that a rule draws or counts up to choose a target. */
export type NftField =
  | "address"
  | "device"
  | "mac"
  | "mark"
  | "port"
  | "protocol"
  | "turn"
  | "verdict"
  | "zone";

/** What the elements of one set or map are made of; several fields of a key or value are joined. */
export type NftShape = {
  key: readonly NftField[];
  /** Of maps. */
  value?: readonly NftField[];
  /** Elements count what is looked up. */
  hasCounter?: boolean;
};

/** Key and, in maps, value. */
export type NftElement = readonly [key: string, value: string | undefined];

/** Elements that come into one set, or leave it. */
export type NftElementChange = {
  kind: "add" | "delete";
  family: Family;
  set: string;
  shape: NftShape;
  elements: readonly NftElement[];
};

const JOINT = " . ";
const DEVICE_BYTES = 16;
/** Any number that the turn of a rule gives fits. */
const TURN_WORDS = "numgen random mod 65536";

/** The tool's words: some fields have only the name of a type, some only an expression of that type. */
function wordsOfField(field: NftField, family: Family): { type?: string; expression?: string } {
  const { family: ip, addressType } = wordsOf(family).nft;
  switch (field) {
    case "address":
      return { type: addressType, expression: `${ip} daddr` };
    case "device":
      return { type: "ifname", expression: "iifname" };
    case "mac":
      return { type: "ether_addr", expression: "ether saddr" };
    case "mark":
      return { type: "mark", expression: "meta mark" };
    case "port":
      return { type: "inet_service", expression: "th dport" };
    case "protocol":
      return { type: "inet_proto", expression: "meta l4proto" };
    case "turn":
      return { expression: TURN_WORDS };
    case "verdict":
      return { type: "verdict" };
    case "zone":
      return { expression: "ct zone" };
  }
  return unreachable(field);
}

/** Type and flags of a set of this shape, as nft wants them. */
export function nftDeclaration(family: Family, shape: NftShape): string {
  const { key, value = [], hasCounter } = shape;
  const way = [...key, ...value].every((field) => wordsOfField(field, family).type !== undefined)
    ? "type"
    : "expression";
  const join = (fields: readonly NftField[]) =>
    fields
      .map((field) => {
        const words = wordsOfField(field, family)[way];
        assert(words !== undefined, `Field ${field} of a set has words as ${way}`);
        return words;
      })
      .join(JOINT);
  return (
    `${way === "type" ? "type" : "typeof"} ${join(key)}` +
    `${value.length === 0 ? "" : ` : ${join(value)}`}${hasCounter ? "; counter" : ""}`
  );
}

/** An element as the tool takes it. */
export function nftElementText([key, value]: NftElement): string {
  return value === undefined ? key : `${key} : ${value}`;
}

/** A key or a value as the kernel holds it; a verdict is told otherwise (`nft-netlink.ts`). */
export function nftElementBytes(family: Family, fields: readonly NftField[], text: string): Buffer {
  const parts = text.split(JOINT);
  assert(parts.length === fields.length, `"${text}" is made of ${fields.join(JOINT)}`);
  const bytes = parts.map((part, place) => fieldBytes(family, fields[place] ?? "verdict", part));
  // Joined parts each begin at a register of four bytes.
  return bytes.length === 1 ? (bytes[0] ?? Buffer.alloc(0)) : Buffer.concat(bytes.map(padded));
}

function padded(bytes: Buffer): Buffer {
  const rest = -bytes.length & 3;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(rest)]);
}

function fieldBytes(family: Family, field: NftField, text: string): Buffer {
  switch (field) {
    case "address":
      return Buffer.from(addressDigits(family, text), "hex");
    case "device": {
      const bytes = Buffer.alloc(DEVICE_BYTES);
      bytes.write(text.replaceAll('"', ""));
      return bytes;
    }
    case "mac":
      return Buffer.from(text.replaceAll(":", ""), "hex");
    case "mark":
    case "turn": {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(Number(text));
      return bytes;
    }
    case "zone": {
      const bytes = Buffer.alloc(2);
      bytes.writeUInt16LE(Number(text));
      return bytes;
    }
    case "port": {
      const bytes = Buffer.alloc(2);
      bytes.writeUInt16BE(Number(text));
      return bytes;
    }
    case "protocol": {
      const number = new Map<string, number>(Object.entries(PROTOCOL_NUMBERS)).get(text);
      assert(number !== undefined, `Protocol "${text}" of a plan is known`);
      return Buffer.from([number]);
    }
    case "verdict":
      throw new AssertionError("A verdict stands alone and has no bytes");
  }
  return unreachable(field);
}
