import { describe, expect, test } from "bun:test";
import type { ClusterEvent } from "../../../agent/api/cluster-events.ts";
import { matches, mergedBody, parseTime, renderEvent } from "../../../agent/api/events.ts";
import { until } from "../logs/fake-engine.ts";

const event = (set: Partial<ClusterEvent> = {}): ClusterEvent => ({
  type: "service",
  action: "create",
  id: "e08z45mbo2hqy6tt24v4luzmx",
  attributes: { name: "s1" },
  atMs: 1_795_331_563_093,
  nanoseconds: 476_199,
  ...set,
});

test("renderEvent() gives stock's bytes", () => {
  const wanted = [
    `{"Type":"service","Action":"create","Actor":{"ID":"e08z45mbo2hqy6tt24v4luzmx","Attributes":{"name":"s1"}},"scope":"swarm","time":1795331563,"timeNano":1795331563093476199}`,
    `{"Type":"service","Action":"update","Actor":{"ID":"e08z45mbo2hqy6tt24v4luzmx","Attributes":{"name":"s1","replicas.new":"3","replicas.old":"2"}},"scope":"swarm","time":1795331589,"timeNano":1795331589926913221}`,
  ];
  const attributes = { "replicas.old": "2", name: "s1", "replicas.new": "3" };
  expect(renderEvent(event())).toBe(`${wanted[0]}\n`);
  expect(
    renderEvent(
      event({ action: "update", attributes, atMs: 1_795_331_589_926, nanoseconds: 913_221 }),
    ),
  ).toBe(`${wanted[1]}\n`);
});

describe("matches()", () => {
  test.each([
    [{}, true],
    [{ type: ["service"] }, true],
    [{ type: ["container"] }, false],
    [{ type: ["container", "service"], event: ["create"] }, true],
    [{ event: ["remove"] }, false],
    [{ scope: ["swarm"] }, true],
    [{ scope: ["local"] }, false],
    [{ service: ["s1"] }, true],
    [{ service: ["e08z"] }, true],
    [{ service: ["other"] }, false],
    [{ node: ["s1"] }, false],
    [{ label: ["name"] }, true],
    [{ label: ["name=s1"] }, true],
    [{ label: ["name=s2"] }, false],
    // A filter for a container shows what it would show without us.
    [{ container: ["s1"] }, false],
    [{ image: ["s1"] }, false],
  ])("with filters %p is %p for the creation of a service", (filters, expected) => {
    expect(matches(event(), new Map(Object.entries(filters)))).toBe(expected);
  });
});

test("matches() knows events of stacks by type and name", () => {
  const ofStack = event({ type: "stack", attributes: { name: "shop", revision: "2" } });
  const isMatch = (filters: Record<string, string[]>) =>
    matches(ofStack, new Map(Object.entries(filters)));
  expect([isMatch({ type: ["stack"] }), isMatch({ stack: ["shop"] })]).toEqual([true, true]);
  expect([isMatch({ type: ["service"] }), isMatch({ stack: ["x"] })]).toEqual([false, false]);
  expect(isMatch({ service: ["shop"] })).toBe(false);
});

test("parseTime() reads what the engine reads", () => {
  const nowMs = Date.UTC(2026, 0, 1);
  expect(parseTime("1795331563.5", nowMs)).toBe(1_795_331_563_500);
  expect(parseTime("1h30m", nowMs)).toBe(nowMs - 5_400_000);
  expect(parseTime("1.5s", nowMs)).toBe(nowMs - 1_500);
  expect(parseTime("2026-01-01T00:00:00Z", nowMs)).toBe(nowMs);
  expect(parseTime("soon", nowMs)).toBeUndefined();
});

/** A merged body over an engine's stream that the test speaks for. */
function merged(past: ClusterEvent[] = [], mark = "") {
  const pieces: (Uint8Array | undefined)[] = [];
  let wake: (() => void) | undefined;
  let tell: ((event: ClusterEvent) => void) | undefined;
  const state = { isClosed: false, ends: 0 };
  const body = mergedBody({
    engine: {
      status: 200,
      contentType: "application/json",
      read: async () => {
        while (pieces.length === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
        return pieces.shift();
      },
      close: () => {
        state.isClosed = true;
      },
    },
    onEnd: () => {
      state.ends += 1;
    },
    past,
    listen: (handler) => {
      tell = handler;
      return () => {
        tell = undefined;
      };
    },
    includes: () => true,
    mark,
  });
  let text = "";
  let isDone = false;
  const reader = body.getReader();
  const gather = async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += Buffer.from(value).toString();
    }
    isDone = true;
  };
  const reading = gather();
  return {
    state,
    reader,
    reading,
    text: () => text,
    isDone: () => isDone,
    isListening: () => tell !== undefined,
    engineSays: (piece: string | undefined) => {
      pieces.push(piece === undefined ? undefined : Buffer.from(piece));
      wake?.();
    },
    happens: (one: ClusterEvent) => tell?.(one),
  };
}
const line = (atMs: number) => `{"Type":"container","timeNano":${atMs}000001}\n`;

describe("mergedBody()", () => {
  test("puts events between the engine's lines, never into one", async () => {
    const { engineSays, happens, text, isDone, state } = merged();
    engineSays('{"Type":"cont');
    happens(event());
    await until(() => text() === renderEvent(event()));
    engineSays('ainer"}\n{"a"');
    await until(() => text() === `${renderEvent(event())}{"Type":"container"}\n`);
    engineSays(":1}\n");
    engineSays(undefined);
    await until(isDone);
    expect(text()).toBe(`${renderEvent(event())}{"Type":"container"}\n{"a":1}\n`);
    expect(state).toEqual({ isClosed: true, ends: 1 });
  });

  test("puts past events in the order of time", async () => {
    const { engineSays, text, isDone } = merged([event({ atMs: 1_005 }), event({ atMs: 1_015 })]);
    engineSays(line(1_000) + line(1_010));
    engineSays(undefined);
    await until(isDone);
    expect(text()).toBe(
      [
        line(1_000),
        renderEvent(event({ atMs: 1_005 })),
        line(1_010),
        renderEvent(event({ atMs: 1_015 })),
      ].join(""),
    );
  });

  test("gives past events although the engine has none", async () => {
    const { text, reader, state, isListening } = merged([event()]);
    await until(() => text() === renderEvent(event()));
    await reader.cancel();
    expect(state).toEqual({ isClosed: true, ends: 1 });
    expect(isListening()).toBe(false);
  });

  test("marks records for clients that asked for them", async () => {
    const { text, happens, reader } = merged([], "\u001E");
    happens(event());
    await until(() => text() === `\u001E${renderEvent(event())}`);
    await reader.cancel();
  });
});
