import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { ClusterError } from "../../core/errors.ts";
import { createRowSealer, isSealedText } from "../../core/sqlite-seal.ts";

const KEY = new Uint8Array(32).fill(7);
const refusalOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof ClusterError) return error.code;
    throw error;
  }
  return "none";
};

test("what is sealed opens again, also for a later opening with the same key", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), (plain, context) => {
      const sealer = createRowSealer(KEY);
      const sealed = sealer.seal(context, plain);
      expect([...sealer.open(context, sealed)]).toEqual([...plain]);
      expect([...createRowSealer(KEY).open(context, sealed)]).toEqual([...plain]);
      const text = sealer.sealText(context, "text ü");
      expect(isSealedText(text)).toBe(true);
      expect(sealer.openText(context, text)).toBe("text ü");
    }),
    { numRuns: 50 },
  );
});

test("another key, another place and any changed bit are refused", () => {
  const sealer = createRowSealer(KEY);
  const sealed = sealer.seal("entry 1", new TextEncoder().encode("hunter2"));
  expect(refusalOf(() => sealer.open("entry 2", sealed))).toBe("internal");
  const other = createRowSealer(new Uint8Array(32).fill(8));
  expect(refusalOf(() => other.open("entry 1", sealed))).toBe("internal");
  expect(other.keyId).not.toBe(sealer.keyId);
  for (let at = 0; at < sealed.length; at++) {
    const harmed = Uint8Array.from(sealed);
    harmed[at]! ^= 1;
    expect(refusalOf(() => sealer.open("entry 1", harmed))).toBe("internal");
  }
  for (let length = 0; length < sealed.length; length++) {
    expect(refusalOf(() => sealer.open("entry 1", sealed.subarray(0, length)))).toBe("internal");
  }
  for (const text of ["", "{}", "~", "~!!"]) {
    expect(refusalOf(() => sealer.openText("a", text))).toBe("internal");
  }
});

test("no nonce comes twice: not in one opening, and each opening has a key of its own", () => {
  const heads = new Set<string>();
  for (let opening = 0; opening < 3; opening++) {
    const sealer = createRowSealer(KEY);
    for (let count = 0; count < 1_000; count++) {
      heads.add(Buffer.from(sealer.seal("a", KEY).subarray(0, 25)).toString("hex"));
    }
  }
  expect(heads.size).toBe(3_000);
});

test("a name's token is the same for the same key and name only", () => {
  const [one, same] = [createRowSealer(KEY), createRowSealer(KEY)];
  const other = createRowSealer(new Uint8Array(32));
  expect(one.tokenOf("web")).toBe(same.tokenOf("web"));
  const tokens = [one.tokenOf("web"), one.tokenOf("Web"), other.tokenOf("web")];
  expect(new Set(tokens).size).toBe(3);
});
