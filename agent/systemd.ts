/**
 * sd_notify without a library: one datagram to the socket that systemd names. Bun has no unix
 * datagram sockets, so libc is called directly. Does nothing outside systemd.
 * Source: sd_notify(3).
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;

/** `READY=1`, `STOPPING=1`, `STATUS=…`. */
export function notifySystemd(state: string): void {
  const path = process.env["NOTIFY_SOCKET"];
  if (!path) return;
  const libc = dlopen("libc.so.6", {
    socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    sendto: {
      args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32, FFIType.ptr, FFIType.u32],
      returns: FFIType.i64,
    },
    close: { args: [FFIType.i32], returns: FFIType.i32 },
  });
  const fd = libc.symbols.socket(AF_UNIX, SOCK_DGRAM, 0);
  if (fd < 0) return;
  const name = Buffer.from(path);
  // sockaddr_un: family (little endian on every platform Bun runs on), then the path; "@" is abstract.
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name, Buffer.from([0])]);
  if (path.startsWith("@")) address[2] = 0;
  const length = path.startsWith("@") ? address.length - 1 : address.length;
  const message = Buffer.from(state);
  libc.symbols.sendto(fd, ptr(message), message.length, 0, ptr(address), length);
  libc.symbols.close(fd);
}
