import { describe, expect, test } from "bun:test";
import { readChainCounts } from "../../../net/mesh/iptables-netlink.ts";
import {
  attribute,
  attributeList,
  nestedAttribute,
  netlinkMessage,
  type NetlinkSocket,
  NLMSG_DONE,
  parseAttributes,
  parseMessages,
} from "../../../net/mesh/netlink.ts";

const text = (value: string) => Buffer.from(`${value}\0`);
const NEW_RULE = (10 << 8) | 6;

/** A rule of iptables in nf_tables, with its counter, and a goto where there is one. */
function rule(packets: number, target?: string): Buffer {
  const count = Buffer.alloc(8);
  count.writeBigUInt64BE(BigInt(packets));
  const expression = (name: string, data: Buffer[]) =>
    nestedAttribute(1, [attribute(1, text(name)), nestedAttribute(2, data)]);
  const verdict = nestedAttribute(2, [
    nestedAttribute(2, [attribute(1, Buffer.alloc(4)), attribute(2, text(target ?? ""))]),
  ]);
  return nestedAttribute(4, [
    expression("cmp", []),
    expression("counter", [attribute(1, Buffer.alloc(8)), attribute(2, count)]),
    ...(target === undefined ? [] : [expression("immediate", [verdict])]),
  ]);
}

/** A kernel with these chains in the table nat. */
function fakeSocket(chains: Record<string, Buffer[]>): NetlinkSocket {
  let answer = Buffer.alloc(0);
  return {
    send: (bytes) => {
      const [question] = parseMessages(bytes);
      const attributes = parseAttributes(question?.payload.subarray(4) ?? Buffer.alloc(0));
      expect(attributes.get(1)?.toString()).toBe("nat\0");
      const chain = attributes.get(2)?.toString().replace("\0", "") ?? "";
      const sequence = question?.sequence ?? 0;
      const message = (type: number, attributesOf: Buffer) =>
        netlinkMessage({
          type,
          flags: 2,
          sequence,
          body: Buffer.concat([Buffer.alloc(4), attributesOf]),
        });
      const rules = chains[chain] ?? [];
      answer = Buffer.concat([
        ...rules.map((attributesOf) => message(NEW_RULE, attributesOf)),
        message(NLMSG_DONE, Buffer.alloc(0)),
      ]);
    },
    receive: () => parseMessages(answer),
    close: () => undefined,
  };
}
const isLeaf = (chain: string) => chain.startsWith("SH-V-");

describe("readChainCounts", () => {
  test("walks the trees, and sums what leads to each leaf", async () => {
    const socket = fakeSocket({
      "SH-VIPS": [rule(9, "SH-VIP.a.16"), rule(3, "SH-V-1")],
      "SH-VIP.a.16": [rule(7, "SH-V-2"), rule(1, "SH-V-1"), rule(5)],
    });
    const counts = await readChainCounts(socket, "ipv4", ["SH-VIPS", "SH-PORTS"], isLeaf);
    expect([...(counts ?? [])]).toEqual([
      ["SH-V-1", 4],
      ["SH-V-2", 7],
    ]);
  });

  test("more chains than are asked for at once are all walked", async () => {
    const chains: Record<string, Buffer[]> = { root: [] };
    for (let place = 0; place < 200; place += 1) {
      chains["root"]?.push(rule(1, `branch${place}`));
      chains[`branch${place}`] = [rule(place, `SH-V-${place}`)];
    }
    const counts = await readChainCounts(fakeSocket(chains), "ipv6", ["root"], isLeaf);
    expect(counts?.size).toBe(200);
    expect(counts?.get("SH-V-199")).toBe(199);
  });

  test("a kernel without such chains gives nothing, so that the tool is asked", async () => {
    expect(await readChainCounts(fakeSocket({}), "ipv4", ["SH-VIPS"], isLeaf)).toBeUndefined();
  });
});

test("attributes of one type are all listed, in their order", () => {
  const bytes = Buffer.concat([attribute(1, text("a")), attribute(1, text("bc"))]);
  expect(attributeList(bytes).map(({ value }) => value.toString())).toEqual(["a\0", "bc\0"]);
});
