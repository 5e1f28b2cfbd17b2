import { describe, expect, test } from "bun:test";
import {
  attribute,
  errorNumber,
  nestedAttribute,
  netlinkMessage,
  parseAttributes,
  parseMessages,
  u16Attribute,
  u32Attribute,
} from "../../../net/mesh/netlink.ts";

describe("netlink messages", () => {
  test("attributes are padded to four bytes and read back", () => {
    const bytes = Buffer.concat([
      attribute(6, Buffer.from("wlc\0")),
      u16Attribute(1, 2),
      nestedAttribute(2, [u32Attribute(5, 0x4a65_0002)]),
    ]);
    expect(bytes.length % 4).toBe(0);
    const found = parseAttributes(bytes);
    expect(found.get(6)?.toString()).toBe("wlc\0");
    expect(found.get(1)?.readUInt16LE(0)).toBe(2);
    expect(
      parseAttributes(found.get(2) ?? Buffer.alloc(0))
        .get(5)
        ?.readUInt32LE(0),
    ).toBe(0x4a65_0002);
  });

  test("messages of one datagram are taken apart", () => {
    const refusal = Buffer.alloc(20);
    refusal.writeInt32LE(-17, 0);
    const datagram = Buffer.concat([
      netlinkMessage({ type: 2, flags: 0, sequence: 7, body: refusal }),
      netlinkMessage({ type: 3, flags: 2, sequence: 8, body: Buffer.alloc(4) }),
    ]);
    const [first, second] = parseMessages(datagram);
    expect(first).toMatchObject({ type: 2, sequence: 7 });
    expect(first && errorNumber(first)).toBe(17);
    expect(second).toMatchObject({ type: 3, sequence: 8 });
  });

  test("what is cut off anywhere is left out and never throws", () => {
    const whole = netlinkMessage({ type: 1, flags: 0, sequence: 1, body: u32Attribute(5, 9) });
    for (let length = 0; length < whole.length; length += 1) {
      expect(parseMessages(whole.subarray(0, length))).toEqual([]);
      parseAttributes(whole.subarray(0, length));
    }
  });
});
