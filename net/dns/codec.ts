/**
 * DNS messages as bytes. Pure.
 *
 * By hand and not by a library: an answer repeats the question's bytes, and each record is a pointer
 * to its name with a few more bytes behind it, which is several times faster than building it anew.
 * Source: RFC 1035 §4 (messages), RFC 3596 (AAAA), RFC 6891 (EDNS).
 */
import { parseIpv4 } from "../mesh/ipv4.ts";
import type { DnsReply } from "./answer.ts";

export type DecodedQuery = {
  id: number;
  isRecursionDesired: boolean;
  /** `type` is a name such as `A`, or `TYPE65`. A dot within a label is given as `\.`. */
  question: { name: string; type: string };
  /** Name, type and class as they came. */
  questionBytes: Uint8Array;
  /** Largest UDP answer that the asker takes. */
  sizeBytesMax: number;
  hasEdns: boolean;
};

/** Without EDNS an answer has at most this size. Source: RFC 1035 §4.2.1. */
const UDP_SIZE_BYTES = 512;
/** What we take and send over UDP with EDNS: fits one packet of the overlay. */
const EDNS_SIZE_BYTES_MAX = 1_232;
const TCP_SIZE_BYTES_MAX = 65_535;
const HEADER_BYTES = 12;
const OPT_BYTES = 11;
const LABEL_BYTES_MAX = 63;
const NAME_BYTES_MAX = 255;
/** A name that is the question's, which stands right after the header. */
const POINTER_TO_QUESTION = 0xc000 | HEADER_BYTES;
/** Records looked through for EDNS; a question has one or two. */
const EXTRA_RECORDS_MAX = 8;

const FLAG_RESPONSE = 0x8000;
const FLAG_AUTHORITATIVE = 0x0400;
const FLAG_TRUNCATED = 0x0200;
const FLAG_RECURSION_DESIRED = 0x0100;
const FLAG_RECURSION_AVAILABLE = 0x0080;
const OPCODE_MASK = 0x7800;

const CLASS_IN = 1;
const TYPE_OPT = 41;
const TYPE_NUMBERS = { A: 1, PTR: 12, AAAA: 28 } as const;
const TYPE_NAMES = new Map<number, string>([
  [1, "A"],
  [2, "NS"],
  [5, "CNAME"],
  [6, "SOA"],
  [12, "PTR"],
  [15, "MX"],
  [16, "TXT"],
  [28, "AAAA"],
  [33, "SRV"],
  [255, "ANY"],
]);

const CODES = { NOERROR: 0, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4 } as const;
export type AnswerCode = keyof typeof CODES;

/** Undefined for anything that is not one well-formed standard question. */
export function decodeQuery(given: Uint8Array): DecodedQuery | undefined {
  const bytes = Buffer.from(given.buffer, given.byteOffset, given.byteLength);
  if (bytes.length < HEADER_BYTES) return undefined;
  const flags = bytes.readUInt16BE(2);
  if ((flags & (FLAG_RESPONSE | OPCODE_MASK)) !== 0 || bytes.readUInt16BE(4) !== 1) {
    return undefined;
  }
  const name = readName(bytes, HEADER_BYTES);
  if (!name || name.end + 4 > bytes.length) return undefined;
  const end = name.end + 4;
  const type = bytes.readUInt16BE(name.end);
  const extraCount = bytes.readUInt16BE(6) + bytes.readUInt16BE(8) + bytes.readUInt16BE(10);
  const offered = extraCount === 0 ? undefined : findEdns(bytes, end, extraCount);
  return {
    id: bytes.readUInt16BE(0),
    isRecursionDesired: (flags & FLAG_RECURSION_DESIRED) !== 0,
    question: { name: name.text, type: TYPE_NAMES.get(type) ?? `TYPE${type}` },
    questionBytes: bytes.subarray(HEADER_BYTES, end),
    sizeBytesMax: Math.min(EDNS_SIZE_BYTES_MAX, Math.max(UDP_SIZE_BYTES, offered ?? 0)),
    hasEdns: offered !== undefined,
  };
}

/** A name without pointers, as the first name of a message is. */
function readName(bytes: Buffer, start: number): { text: string; end: number } | undefined {
  let text = "";
  let place = start;
  for (;;) {
    const length = bytes[place];
    if (length === undefined || length > LABEL_BYTES_MAX) return undefined;
    place += 1;
    if (place - start > NAME_BYTES_MAX) return undefined;
    if (length === 0) return { text, end: place };
    if (place + length > bytes.length) return undefined;
    const label = bytes.toString("latin1", place, place + length);
    const plain = label.includes(".") ? label.replaceAll(".", "\\.") : label;
    text = text === "" ? plain : `${text}.${plain}`;
    place += length;
  }
}

/** The size that an OPT record offers. Records that cannot be read end the search. */
function findEdns(bytes: Buffer, start: number, count: number): number | undefined {
  let place = start;
  for (let seen = 0; seen < Math.min(count, EXTRA_RECORDS_MAX); seen += 1) {
    while ((bytes[place] ?? 0) > 0 && (bytes[place] ?? 0) <= LABEL_BYTES_MAX) {
      place += (bytes[place] ?? 0) + 1;
    }
    // A pointer is two bytes long, the root one.
    place += (bytes[place] ?? 0) > LABEL_BYTES_MAX ? 2 : 1;
    if (place + 10 > bytes.length) return undefined;
    if (bytes.readUInt16BE(place) === TYPE_OPT) return bytes.readUInt16BE(place + 2);
    place += 10 + bytes.readUInt16BE(place + 8);
  }
  return undefined;
}

/**
 * An answer that is too large holds as many records as fit, and says that it is not all: resolvers
 * ask again over TCP, and those that cannot (musl before 1.2.4) have at least these.
 */
export function encodeAnswer(
  query: DecodedQuery,
  answer: { code: AnswerCode; isAuthority: boolean; records: DnsReply["records"] },
  transport: "udp" | "tcp",
): Uint8Array {
  const limit = transport === "tcp" ? TCP_SIZE_BYTES_MAX : query.sizeBytesMax;
  const optBytes = query.hasEdns ? OPT_BYTES : 0;
  const start = HEADER_BYTES + query.questionBytes.length;
  const datas = answer.records.map((record) => recordData(record.type, record.data));
  let size = start + optBytes;
  let count = 0;
  for (const data of datas) {
    const recordBytes = 12 + data.length;
    if (size + recordBytes > limit) break;
    size += recordBytes;
    count += 1;
  }
  const bytes = Buffer.allocUnsafe(size);
  bytes.writeUInt16BE(query.id, 0);
  bytes.writeUInt16BE(
    FLAG_RESPONSE |
      FLAG_RECURSION_AVAILABLE |
      CODES[answer.code] |
      (query.isRecursionDesired ? FLAG_RECURSION_DESIRED : 0) |
      (answer.isAuthority ? FLAG_AUTHORITATIVE : 0) |
      (count < datas.length ? FLAG_TRUNCATED : 0),
    2,
  );
  bytes.writeUInt16BE(1, 4);
  bytes.writeUInt16BE(count, 6);
  bytes.writeUInt16BE(0, 8);
  bytes.writeUInt16BE(query.hasEdns ? 1 : 0, 10);
  bytes.set(query.questionBytes, HEADER_BYTES);
  let place = start;
  for (let index = 0; index < count; index += 1) {
    const record = answer.records[index];
    const data = datas[index];
    if (!record || !data) break;
    bytes.writeUInt16BE(POINTER_TO_QUESTION, place);
    bytes.writeUInt16BE(TYPE_NUMBERS[record.type], place + 2);
    bytes.writeUInt16BE(CLASS_IN, place + 4);
    bytes.writeUInt32BE(record.ttlS, place + 6);
    bytes.writeUInt16BE(data.length, place + 10);
    bytes.set(data, place + 12);
    place += 12 + data.length;
  }
  if (query.hasEdns) {
    bytes[place] = 0;
    bytes.writeUInt16BE(TYPE_OPT, place + 1);
    bytes.writeUInt16BE(EDNS_SIZE_BYTES_MAX, place + 3);
    bytes.writeUInt32BE(0, place + 5);
    bytes.writeUInt16BE(0, place + 9);
  }
  return bytes;
}

function recordData(type: DnsReply["records"][number]["type"], text: string): ArrayLike<number> {
  if (type === "PTR") return nameBytes(text);
  if (type === "AAAA") return ipv6Bytes(text);
  const value = parseIpv4(text) ?? 0;
  return [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

function nameBytes(name: string): Buffer {
  const parts: Buffer[] = [];
  for (const label of name.split(".")) {
    const bytes = Buffer.from(label, "latin1").subarray(0, LABEL_BYTES_MAX);
    parts.push(Buffer.from([bytes.length]), bytes);
  }
  return Buffer.concat([...parts, Buffer.alloc(1)]);
}

/** Of a well-formed address, such as `fd00::1`. */
function ipv6Bytes(text: string): number[] {
  const [head = "", tail] = text.split("::");
  const groups = (part: string) => (part === "" ? [] : part.split(":"));
  const first = groups(head);
  const last = groups(tail ?? "");
  const zeros = tail === undefined ? 0 : 8 - first.length - last.length;
  const all = [...first, ...Array.from({ length: zeros }, () => "0"), ...last];
  return all.flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >>> 8, value & 0xff];
  });
}
