/** A worker that does as it is told, for the tests of both ends of the thread protocol. */
import type { MessagePort } from "node:worker_threads";
import { unreachable } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { serveWorker } from "../../core/worker-server.ts";

export type EchoInput =
  | { type: "echo"; text: string }
  /** Answered after the next "release". */
  | { type: "hold"; text: string }
  | { type: "release" }
  | { type: "refuse" }
  /** The port is answered on, and closed. */
  | { type: "say-on-port"; text: string }
  | { type: "output"; text: string }
  | { type: "crash" }
  | { type: "stop" }
  /** A stop that is not obeyed. */
  | { type: "ignore" };

// Imported for the types by the test, run as an entry by its worker.
if (!Bun.isMainThread) {
  const held: (() => void)[] = [];
  const handle = async (input: EchoInput, port: MessagePort | undefined) => {
    switch (input.type) {
      case "echo":
        return input.text;
      case "hold":
        return new Promise<string>((resolve) => void held.push(() => resolve(input.text)));
      case "release":
        for (const answer of held.splice(0)) answer();
        return undefined;
      case "refuse":
        throw new ClusterError("not-found", "There is no such thing", { details: { id: "x" } });
      case "say-on-port":
        port?.postMessage(input.text);
        port?.close();
        return "said";
      case "output":
        server.notify(input.text);
        return undefined;
      case "crash":
        throw new Error("A bug");
      case "stop":
        server.exit();
        return undefined;
      case "ignore":
        return undefined;
      default:
        return unreachable(input);
    }
  };
  const server = serveWorker<EchoInput, string, string>(handle);
}
