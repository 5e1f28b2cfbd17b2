/** The priority of one thread among all of the machine. */
import { dlopen, FFIType } from "bun:ffi";

const PRIO_PROCESS = 0;
/** The calling thread: on Linux a nice value is a thread's own. Source: setpriority(2), NOTES. */
const CALLER = 0;

/**
 * Asks the kernel to run the calling thread before others, for one that mostly sleeps and is waited
 * for. Without the right to it, or the call, all stays as it was.
 */
export function preferThisThread(nice: number): void {
  try {
    const libc = dlopen("libc.so.6", {
      setpriority: { args: [FFIType.i32, FFIType.u32, FFIType.i32], returns: FFIType.i32 },
    });
    libc.symbols.setpriority(PRIO_PROCESS, CALLER, nice);
    libc.close();
  } catch {
    // Another C library: questions are then answered when it is this thread's turn.
  }
}
