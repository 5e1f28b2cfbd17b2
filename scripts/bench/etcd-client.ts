/**
 * The lightest fair etcd client: gRPC by hand over one TLS connection, only KV.Put and KV.Range.
 * Everything that does not change (the header block, the frames' heads) is made once; what is queued in
 * one turn goes out in one write. It owns HTTP/2's bookkeeping as far as a unary client needs it:
 * stream ids, the send window, acknowledged settings and pings. Header compression is off in both
 * directions (our table size is 0), so that trailers need no decoding: a call that ends without a
 * message has failed.
 * Sources: RFC 9113 (frames), RFC 7541 (static table), etcd 3.4 rpc.proto (field numbers).
 */
import { connect, type TLSSocket } from "node:tls";
import { ClusterError } from "../../core/errors.ts";
import { splitAddress } from "../../net/rpc/client.ts";
import type { TlsIdentity } from "../../net/rpc/peer.ts";

export type EtcdClient = {
  put(key: string, value: string): Promise<void>;
  /** A linearizable read. @returns the size of the answer's message. */
  range(key: string): Promise<number>;
  close(): void;
  readonly isClosed: boolean;
};

const FRAME_HEAD_BYTES = 9;
const DATA = 0;
const HEADERS = 1;
const RST_STREAM = 3;
const SETTINGS = 4;
const PING = 6;
const GOAWAY = 7;
const WINDOW_UPDATE = 8;
const END_STREAM = 1;
const ACK = 1;
const END_HEADERS = 4;
const PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const RECEIVE_WINDOW_BYTES = 2 ** 30;
const WINDOW_UPDATE_BYTES = 2 ** 24;
const SEND_WINDOW_BYTES = 65_535;

type Call = { resolve(size: number): void; reject(error: Error): void; size: number };

export async function connectEtcd(
  addr: string,
  tls: TlsIdentity,
  timeoutMs = 5_000,
): Promise<EtcdClient> {
  const socket = await openSocket(addr, tls, timeoutMs);
  const putHeaders = requestHeaders("/etcdserverpb.KV/Put", addr);
  const rangeHeaders = requestHeaders("/etcdserverpb.KV/Range", addr);
  const calls = new Map<number, Call>();
  /** Whole requests for which the connection's send window has no room. */
  let waiting: { frames: Buffer; dataBytes: number }[] = [];
  let queue: Buffer[] = [];
  let isFlushPlanned = false;
  let sendWindow = SEND_WINDOW_BYTES;
  let receivedBytes = 0;
  let nextStreamId = 1;
  let rest: Buffer = Buffer.alloc(0);
  let isClosed = false;

  const enqueue = (bytes: Buffer) => {
    queue.push(bytes);
    if (isFlushPlanned) return;
    isFlushPlanned = true;
    queueMicrotask(() => {
      isFlushPlanned = false;
      const batch = queue;
      queue = [];
      if (!isClosed) socket.write(batch.length === 1 && batch[0] ? batch[0] : Buffer.concat(batch));
    });
  };
  const close = (why: string) => {
    if (isClosed) return;
    isClosed = true;
    socket.destroy();
    for (const call of calls.values()) call.reject(new ClusterError("unavailable", why));
    calls.clear();
  };
  const settle = (streamId: number) => {
    const call = calls.get(streamId);
    if (!call) return;
    calls.delete(streamId);
    if (call.size > 0) call.resolve(call.size - GRPC_HEAD_BYTES);
    else call.reject(new ClusterError("unavailable", "etcd answered with an error"));
  };
  const sendWaiting = () => {
    while (waiting[0] && waiting[0].dataBytes <= sendWindow) {
      const [{ frames, dataBytes }] = waiting as [(typeof waiting)[0]]; // looked at above
      waiting = waiting.slice(1);
      sendWindow -= dataBytes;
      enqueue(frames);
    }
  };

  const onFrame = (type: number, flags: number, streamId: number, body: Buffer) => {
    switch (type) {
      case DATA: {
        const call = calls.get(streamId);
        if (call) call.size += body.length;
        receivedBytes += body.length;
        if (receivedBytes > WINDOW_UPDATE_BYTES) {
          enqueue(windowUpdate(receivedBytes));
          receivedBytes = 0;
        }
        break;
      }
      case RST_STREAM:
        calls.get(streamId)?.reject(new ClusterError("unavailable", "etcd reset the stream"));
        calls.delete(streamId);
        break;
      case SETTINGS:
        if ((flags & ACK) === 0) enqueue(frame(SETTINGS, ACK, 0, Buffer.alloc(0)));
        break;
      case PING:
        if ((flags & ACK) === 0) enqueue(frame(PING, ACK, 0, body));
        break;
      case WINDOW_UPDATE:
        if (streamId !== 0) break;
        sendWindow += body.readUInt32BE(0) & 0x7fff_ffff;
        sendWaiting();
        break;
      case GOAWAY:
        close("etcd ends the connection");
        break;
      default:
        break;
    }
    if ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0) settle(streamId);
  };

  socket.on("data", (chunk: Buffer) => {
    const all = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (all.length - at >= FRAME_HEAD_BYTES) {
      const end = at + FRAME_HEAD_BYTES + all.readUIntBE(at, 3);
      if (end > all.length) break;
      const streamId = all.readUInt32BE(at + 5) & 0x7fff_ffff;
      onFrame(all[at + 3] ?? 0, all[at + 4] ?? 0, streamId, all.subarray(at + 9, end));
      at = end;
    }
    rest = all.subarray(at);
  });
  socket.on("error", (error) => close(error.message));
  socket.on("close", () => close("etcd closed the connection"));

  const settings = Buffer.alloc(18);
  // HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE.
  for (const [i, [id, value]] of [
    [1, 0] as const,
    [2, 0] as const,
    [4, 2 ** 24] as const,
  ].entries()) {
    settings.writeUInt16BE(id, i * 6);
    settings.writeUInt32BE(value, i * 6 + 2);
  }
  enqueue(
    Buffer.concat([
      Buffer.from(PREFACE),
      frame(SETTINGS, 0, 0, settings),
      windowUpdate(RECEIVE_WINDOW_BYTES),
    ]),
  );

  const call = (headers: Buffer, message: Buffer) =>
    new Promise<number>((resolve, reject) => {
      if (isClosed) {
        reject(new ClusterError("unavailable", "The connection to etcd is closed"));
        return;
      }
      const streamId = nextStreamId;
      nextStreamId += 2;
      calls.set(streamId, { resolve, reject, size: 0 });
      const dataBytes = GRPC_HEAD_BYTES + message.length;
      const frames = Buffer.allocUnsafe(2 * FRAME_HEAD_BYTES + headers.length + dataBytes);
      let at = writeFrameHead(frames, 0, headers.length, HEADERS, END_HEADERS, streamId);
      at += headers.copy(frames, at);
      at = writeFrameHead(frames, at, dataBytes, DATA, END_STREAM, streamId);
      frames[at] = 0; // not compressed
      frames.writeUInt32BE(message.length, at + 1);
      message.copy(frames, at + GRPC_HEAD_BYTES);
      waiting.push({ frames, dataBytes });
      sendWaiting();
    });

  return {
    put: async (key, value) => {
      await call(putHeaders, Buffer.concat([bytesField(1, key), bytesField(2, value)]));
    },
    range: (key) => call(rangeHeaders, bytesField(1, key)),
    close: () => close("closed here"),
    get isClosed() {
      return isClosed;
    },
  };
}

const GRPC_HEAD_BYTES = 5;

function openSocket(addr: string, tls: TlsIdentity, timeoutMs: number): Promise<TLSSocket> {
  const { host, port } = splitAddress(addr);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      cert: tls.certificatePem,
      key: tls.keyPem,
      ca: tls.caCertificatePem,
      ALPNProtocols: ["h2"],
      checkServerIdentity: () => undefined,
    });
    const timer = setTimeout(() => socket.destroy(new Error("no answer in time")), timeoutMs);
    const fail = (cause: Error) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new ClusterError("unavailable", `Cannot connect to ${addr}: ${cause.message}`));
    };
    socket.once("error", fail);
    socket.once("secureConnect", () => {
      clearTimeout(timer);
      socket.off("error", fail);
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}

function writeFrameHead(
  out: Buffer,
  at: number,
  length: number,
  type: number,
  flags: number,
  streamId: number,
): number {
  out.writeUIntBE(length, at, 3);
  out[at + 3] = type;
  out[at + 4] = flags;
  return out.writeUInt32BE(streamId, at + 5);
}

function frame(type: number, flags: number, streamId: number, body: Buffer): Buffer {
  const out = Buffer.allocUnsafe(FRAME_HEAD_BYTES + body.length);
  const at = writeFrameHead(out, 0, body.length, type, flags, streamId);
  body.copy(out, at);
  return out;
}

function windowUpdate(bytes: number): Buffer {
  const body = Buffer.alloc(4);
  body.writeUInt32BE(bytes);
  return frame(WINDOW_UPDATE, 0, 0, body);
}

/** Static-table entries and literals that no table takes up: the same bytes for every call. */
function requestHeaders(path: string, authority: string): Buffer {
  const text = (value: string) => [Buffer.from([value.length]), Buffer.from(value)];
  return Buffer.concat([
    Buffer.from([0x83, 0x87]), // :method POST, :scheme https
    Buffer.from([0x04]),
    ...text(path),
    Buffer.from([0x01]),
    ...text(authority),
    Buffer.from([0x0f, 0x10]), // content-type (31)
    ...text("application/grpc"),
    Buffer.from([0x00]),
    ...text("te"),
    ...text("trailers"),
  ]);
}

/** A length-delimited protobuf field. */
function bytesField(field: number, value: string): Buffer {
  const length = Buffer.byteLength(value);
  const head = [(field << 3) | 2];
  let rest = length;
  while (rest >= 128) {
    head.push((rest & 127) | 128);
    rest >>>= 7;
  }
  head.push(rest);
  const out = Buffer.allocUnsafe(head.length + length);
  out.set(head, 0);
  out.write(value, head.length, "latin1");
  return out;
}
