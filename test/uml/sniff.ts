/**
 * What is on the wire: counts the frames of one device, until its standard input ends, and prints the
 * counts as JSON. Run in a network namespace: `bun test/uml/sniff.ts DEVICE SECRET…`, secrets in hex.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

export type WireCounts = {
  frames: number;
  esp: number;
  /** UDP by destination port. */
  udp: Record<number, number>;
  /** Frames in which a secret can be read. */
  readable: number;
};

const AF_PACKET = 17;
const SOCK_RAW_NONBLOCK = 3 | 0o4000;
const ETH_P_ALL_BIG_ENDIAN = 0x0300;
const FRAME_BYTES_MAX = 65_536;
const PAUSE_MS = 2;

async function sniff(device: string, secrets: readonly Buffer[]): Promise<WireCounts> {
  const libc = dlopen("libc.so.6", {
    socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    bind: { args: [FFIType.i32, FFIType.ptr, FFIType.i32], returns: FFIType.i32 },
    recv: { args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32], returns: FFIType.i64 },
    if_nametoindex: { args: [FFIType.ptr], returns: FFIType.i32 },
  }).symbols;
  const name = Buffer.from(`${device}\0`);
  const index = libc.if_nametoindex(ptr(name));
  const file = libc.socket(AF_PACKET, SOCK_RAW_NONBLOCK, ETH_P_ALL_BIG_ENDIAN);
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(0x0003, 2);
  address.writeInt32LE(index, 4);
  if (index === 0 || file < 0 || libc.bind(file, ptr(address), address.length) !== 0) {
    throw new Error(`Cannot listen on ${device}`);
  }
  const counts: WireCounts = { frames: 0, esp: 0, udp: {}, readable: 0 };
  const state = { isOver: false };
  void Bun.stdin.text().then(() => {
    state.isOver = true;
  });
  const buffer = Buffer.alloc(FRAME_BYTES_MAX);
  console.log("listening");
  for (;;) {
    const length = Number(libc.recv(file, ptr(buffer), FRAME_BYTES_MAX, 0));
    if (length <= 0) {
      if (state.isOver) return counts;
      await Bun.sleep(PAUSE_MS);
      continue;
    }
    const frame = buffer.subarray(0, length);
    counts.frames += 1;
    if (secrets.some((secret) => frame.includes(secret))) counts.readable += 1;
    if (frame.readUInt16BE(12) !== 0x0800) continue;
    const protocol = frame[23];
    if (protocol === 50) counts.esp += 1;
    if (protocol !== 17) continue;
    const port = frame.readUInt16BE(14 + ((frame[14] ?? 0) & 15) * 4 + 2);
    counts.udp[port] = (counts.udp[port] ?? 0) + 1;
  }
}

if (import.meta.main) {
  const [device = "", ...secrets] = process.argv.slice(2);
  const bytes = secrets.map((secret) => Buffer.from(secret, "hex"));
  console.log(JSON.stringify(await sniff(device, bytes)));
  process.exit(0);
}
