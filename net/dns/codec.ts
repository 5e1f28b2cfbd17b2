/** DNS messages as bytes; dns-packet does the work. Pure. */
import dnsPacket from "dns-packet";
import type { DnsReply } from "./answer.ts";

export type DecodedQuery = {
  id: number;
  isRecursionDesired: boolean;
  question: { name: string; type: string };
  /** Largest UDP answer that the asker takes. */
  sizeBytesMax: number;
  hasEdns: boolean;
};

/** Without EDNS an answer has at most this size. Source: RFC 1035 §4.2.1. */
const UDP_SIZE_BYTES = 512;
/** What we take and send over UDP with EDNS: fits one packet of the overlay. */
const EDNS_SIZE_BYTES_MAX = 1_232;
const HEADER_BYTES = 12;

const CODES = { NOERROR: 0, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4 } as const;
export type AnswerCode = keyof typeof CODES;

/** Undefined for anything that is not one well-formed standard question. */
export function decodeQuery(bytes: Uint8Array): DecodedQuery | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  try {
    const packet = dnsPacket.decode(Buffer.from(bytes));
    const [question] = packet.questions ?? [];
    if (packet.type !== "query" || !question || packet.questions?.length !== 1) return undefined;
    // Operation code 0 is a standard query (bits 11-14 of the flags).
    if (((packet.flags ?? 0) & 0x7800) !== 0) return undefined;
    const edns = packet.additionals?.find((record) => record.type === "OPT");
    const offered = edns && "udpPayloadSize" in edns ? edns.udpPayloadSize : UDP_SIZE_BYTES;
    return {
      id: packet.id ?? 0,
      isRecursionDesired: ((packet.flags ?? 0) & dnsPacket.RECURSION_DESIRED) !== 0,
      question: { name: question.name, type: question.type },
      sizeBytesMax: Math.min(EDNS_SIZE_BYTES_MAX, Math.max(UDP_SIZE_BYTES, offered)),
      hasEdns: edns !== undefined,
    };
  } catch {
    return undefined;
  }
}

/** Over UDP, an answer that is too large becomes an empty one with the truncation bit. */
export function encodeAnswer(
  query: DecodedQuery,
  answer: { code: AnswerCode; isAuthority: boolean; records: DnsReply["records"] },
  transport: "udp" | "tcp",
): Uint8Array {
  const encode = (records: DnsReply["records"], extraFlags: number) =>
    dnsPacket.encode({
      type: "response",
      id: query.id,
      flags:
        CODES[answer.code] |
        dnsPacket.RECURSION_AVAILABLE |
        (query.isRecursionDesired ? dnsPacket.RECURSION_DESIRED : 0) |
        (answer.isAuthority ? dnsPacket.AUTHORITATIVE_ANSWER : 0) |
        extraFlags,
      // The type names come from the same library's decoder.
      questions: [query.question as dnsPacket.Question],
      answers: records.map(({ name, type, ttlS, data }) => ({ name, type, ttl: ttlS, data })),
      ...(query.hasEdns
        ? {
            additionals: [
              {
                type: "OPT",
                name: ".",
                udpPayloadSize: EDNS_SIZE_BYTES_MAX,
                extendedRcode: 0,
                ednsVersion: 0,
                flags: 0,
                flag_do: false,
                options: [],
              },
            ],
          }
        : {}),
    });
  const whole = encode(answer.records, 0);
  if (transport === "tcp" || whole.length <= query.sizeBytesMax) return whole;
  return encode([], dnsPacket.TRUNCATED_RESPONSE);
}
