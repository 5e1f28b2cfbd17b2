/**
 * The bytes of a snapshot: `shoal-s1`, SHA-256 of the text, the text compressed with zstd. The text is
 * one header line `{"index":…}` and one line `<table>\t<body>` per object, in the order of tables
 * (TABLE_NAMES) and ids, so that equal states give equal bytes on every replica.
 */
import { ClusterError } from "../errors.ts";
import type { RaftIndex } from "../ids.ts";
import type { TableName } from "./action.ts";
import { type Row, TABLE_NAMES } from "./memory-rows.ts";
import type { ClusterView } from "./view.ts";

const MAGIC = new TextEncoder().encode("shoal-s1");
const DIGEST_BYTES = 32;
const HEADER_BYTES = MAGIC.length + DIGEST_BYTES;
/** zstd's default: about as quick as gzip's fastest level, and much smaller. */
const ZSTD_LEVEL = 3;

/** `bodies` come ordered as said above; a body has no line break (JSON.stringify). */
export function encodeSnapshot(
  index: RaftIndex,
  bodies: Iterable<{ table: TableName; body: string }>,
): Uint8Array<ArrayBuffer> {
  const lines = [JSON.stringify({ index })];
  for (const { table, body } of bodies) lines.push(`${table}\t${body}`);
  const text = new TextEncoder().encode(lines.join("\n"));
  const packed = Bun.zstdCompressSync(text, { level: ZSTD_LEVEL });
  const data = new Uint8Array(HEADER_BYTES + packed.length);
  data.set(MAGIC, 0);
  data.set(sha256(text), MAGIC.length);
  data.set(packed, HEADER_BYTES);
  return data;
}

/** @throws {ClusterError} internal when the bytes are not a snapshot or are damaged. */
export function decodeSnapshot(data: Uint8Array): { index: RaftIndex; rows: Row[] } {
  if (data.length < HEADER_BYTES || MAGIC.some((byte, position) => data[position] !== byte)) {
    throw damaged("it does not begin as a snapshot of this version");
  }
  let text: Uint8Array;
  try {
    text = Bun.zstdDecompressSync(data.slice(HEADER_BYTES));
  } catch (cause) {
    throw damaged("it cannot be decompressed", cause);
  }
  const digest = sha256(text);
  if (digest.some((byte, position) => data[MAGIC.length + position] !== byte)) {
    throw damaged("its checksum differs");
  }
  const [header = "", ...lines] = new TextDecoder().decode(text).split("\n");
  const rows = lines.map((line): Row => {
    const tab = line.indexOf("\t");
    // The checksum holds, so these are the lines that encodeSnapshot wrote from rows.
    return { table: line.slice(0, tab), object: JSON.parse(line.slice(tab + 1)) } as Row;
  });
  // As above: encodeSnapshot wrote the header.
  const { index } = JSON.parse(header) as { index: RaftIndex };
  return { index, rows };
}

/** A view's objects in a snapshot's order; with `encodeSnapshot`, a way to compare two states. */
export function* bodiesOf(view: ClusterView): Generator<{ table: TableName; body: string }> {
  const lists: { [T in TableName]: readonly object[] } = {
    cluster: [view.cluster()].filter((cluster) => cluster !== undefined),
    node: view.nodes(),
    network: view.networks(),
    secret: view.secrets(),
    config: view.configs(),
    service: view.services(),
    task: view.tasks(),
    attachment: view.attachments(),
    stack: view.stacks(),
  };
  for (const table of TABLE_NAMES) {
    for (const object of lists[table]) yield { table, body: JSON.stringify(object) };
  }
}

function sha256(data: Uint8Array): Uint8Array {
  return new Bun.CryptoHasher("sha256").update(data).digest();
}

function damaged(why: string, cause?: unknown): ClusterError {
  const message = `Cannot restore the state: the snapshot is damaged, ${why}`;
  return new ClusterError("internal", message, cause === undefined ? {} : { cause });
}
