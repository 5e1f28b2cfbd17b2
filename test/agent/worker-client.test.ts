import { afterEach, describe, expect, test } from "bun:test";
import { MessageChannel, Worker } from "node:worker_threads";
import { workerClient } from "../../agent/worker-client.ts";
import { failureOf, until } from "../net/rpc/identities.ts";
import type { EchoInput } from "./echo-worker-entry.ts";

const workers: Worker[] = [];
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.terminate();
});

function start() {
  const worker = new Worker(new URL("./echo-worker-entry.ts", import.meta.url));
  workers.push(worker);
  const client = workerClient<EchoInput, string, string>(worker, "echo");
  const exits: { code: number; wasAsked: boolean; error?: Error }[] = [];
  client.onExit((exit) => void exits.push(exit));
  const outputs: string[] = [];
  client.onOutput((output) => void outputs.push(output));
  return { worker, client, exits, outputs };
}

describe("workerClient()", () => {
  test("gives each request its own answer, in whatever order they come", async () => {
    const { client } = start();
    const held = client.request({ type: "hold", text: "first" });
    expect(await client.request({ type: "echo", text: "second" })).toBe("second");
    client.notify({ type: "release" });
    expect(await held).toBe("first");
  });

  test("gives a refusal as the worker threw it, and goes on", async () => {
    const { client } = start();
    const error = await failureOf(client.request({ type: "refuse" }));
    expect(error).toMatchObject({
      name: "ClusterError",
      code: "not-found",
      message: "There is no such thing",
      details: { id: "x" },
    });
    expect(await client.request({ type: "echo", text: "still here" })).toBe("still here");
  });

  test("hands over a port with a request", async () => {
    const { client } = start();
    const { port1, port2 } = new MessageChannel();
    const said: unknown[] = [];
    port1.on("message", (text) => void said.push(text));
    const answer = await client.request({ type: "say-on-port", text: "hi" }, { port: port2 });
    expect(answer).toBe("said");
    await until("it came", () => said.length === 1);
    expect(said).toEqual(["hi"]);
    port1.close();
  });

  test("tells outputs in order", async () => {
    const { client, outputs } = start();
    for (const text of ["a", "b", "c"]) client.notify({ type: "output", text });
    await until("all came", () => outputs.length === 3);
    expect(outputs).toEqual(["a", "b", "c"]);
  });

  test("ends a request at its deadline, and drops the answer that comes later", async () => {
    const { client } = start();
    const error = await failureOf(
      client.request({ type: "hold", text: "late" }, { timeoutMs: 30 }),
    );
    expect(error).toMatchObject({
      code: "deadline",
      message: "The echo worker did not answer in 30 ms",
    });
    client.notify({ type: "release" });
    expect(await client.request({ type: "echo", text: "next" }, { timeoutMs: 5_000 })).toBe("next");
  });

  test("ends what is pending when the thread crashes, and says why it ended", async () => {
    const { client, exits } = start();
    const pending = [1, 2].map((n) =>
      failureOf(client.request({ type: "hold", text: `${n}` }, { timeoutMs: 60_000 })),
    );
    client.notify({ type: "crash" });
    for (const error of await Promise.all(pending)) {
      expect(error).toMatchObject({ code: "unavailable", message: "The echo worker has ended" });
    }
    await until("its end is told", () => exits.length === 1);
    // Not the code: Bun gives 0 for some crashes, which is why wasAsked is told.
    expect(exits[0]?.wasAsked).toBe(false);
    expect(exits[0]?.error?.message).toContain("A bug");
  });

  test("refuses requests after the end, and ignores notifications", async () => {
    const { client, exits } = start();
    await client.stop({ type: "stop" });
    client.notify({ type: "output", text: "nobody hears it" });
    expect(await failureOf(client.request({ type: "echo", text: "x" }))).toMatchObject({
      code: "unavailable",
    });
    await client.stop({ type: "stop" });
    expect(exits).toEqual([{ code: 0, wasAsked: true }]);
  });

  test("ends a thread by force that does not obey a stop", async () => {
    const { client, exits } = start();
    const pending = failureOf(client.request({ type: "hold", text: "x" }));
    const startMs = performance.now();
    await client.stop({ type: "ignore" });
    expect(performance.now() - startMs).toBeGreaterThan(4_000);
    expect(await pending).toMatchObject({ code: "unavailable" });
    expect(exits).toHaveLength(1);
    expect(exits[0]?.wasAsked).toBe(true);
  }, 15_000);
});
