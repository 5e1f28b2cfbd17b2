import { expect, test } from "bun:test";
import { announcementFrame, announcementsOf } from "../../../net/mesh/announce.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { planMesh } from "../../../net/mesh/plan.ts";
import { applyAssignments, emptyTable } from "../../../net/mesh/table.ts";
import { labItems6, six } from "./ipv6-lab.ts";
import { networkId } from "./lab-state.ts";

test("an announcement is a broadcast ARP request of the address for itself", () => {
  expect(announcementFrame("10.0.1.5", "02:42:ac:00:00:01")?.toString("hex")).toBe(
    [
      "ffffffffffff", // to all
      "0242ac000001", // from the bridge
      "0806", // ARP
      "0001080006040001", // Ethernet, IPv4, request
      "0242ac0000010a000105", // who says it: the address is here
      "0000000000000a000105", // who is asked for: the same
    ].join(""),
  );
});

test("in IPv6 it is a neighbour advertisement to all nodes that replaces what they know", () => {
  const frame = announcementFrame("fd00:101::21", "02:42:ac:00:00:01");
  const text = frame?.toString("hex") ?? "";
  const [checksum = ""] = /(?<=8800)..../.exec(text) ?? [];
  expect(text).toBe(
    [
      "333300000001", // to all nodes
      "0242ac000001", // from the bridge
      "86dd", // IPv6
      "60000000",
      "00203aff", // 32 bytes of ICMPv6, hop limit 255
      "fe80000000000000000073686f61006c", // of the bridge
      "ff020000000000000000000000000001",
      "8800", // neighbour advertisement
      checksum,
      "20000000", // override, not asked for
      "fd000101000000000000000000000021", // whose address
      "0201", // 8 bytes: the MAC address of the target
      "0242ac000001",
    ].join(""),
  );
  // Sum of the pseudo header (addresses, length, protocol) and of all that follows: ones only.
  const covered = Buffer.from(`${text.slice(44, 108)}000000200000003a${text.slice(108)}`, "hex");
  let sum = 0;
  for (let place = 0; place < covered.length; place += 2) sum += covered.readUInt16BE(place);
  expect((sum & 0xffff) + (sum >>> 16)).toBe(0xffff);
});

test("what is no IP or MAC address is not announced", () => {
  expect(announcementFrame("web", "02:42:ac:00:00:01")).toBeUndefined();
  expect(announcementFrame("10.0.1.5", "")).toBeUndefined();
  expect(announcementFrame("fd00::1", "02:42")).toBeUndefined();
});

test("addresses that have come to other nodes are announced on this node's bridge, in both families", () => {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("no plan");
  const bridge = { index: 7, mac: "02:42:ac:00:00:01", mtu: 1450, isUp: true, addresses: [] };
  const interfaces = [{ ...bridge, name: bridgeName(networkId("netA")) }];
  const announced = (come: string[]) =>
    announcementsOf(plan, come, "node1", interfaces).map(({ address }) => address);
  // Of network A; what is on this node is not.
  const elsewhere = ["10.101.0.22", "10.101.0.23", "10.101.0.33", "10.101.0.12"];
  expect(announced(plan.legs).toSorted()).toEqual([...elsewhere, ...elsewhere.map(six)].toSorted());
  expect(announced([])).toEqual([]);
  const moved = six("10.101.0.23");
  const come = plan.legs.filter((leg) => leg.startsWith(`${moved}@node3`));
  expect(announcementsOf(plan, come, "node1", interfaces)).toEqual([
    { address: moved, deviceIndex: 7, mac: bridge.mac },
  ]);
  expect(announcementsOf(plan, plan.legs, "node1", [])).toEqual([]);
});
