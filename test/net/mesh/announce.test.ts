import { expect, test } from "bun:test";
import { announcementFrame } from "../../../net/mesh/announce.ts";

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

test("what is no IPv4 or MAC address is not announced", () => {
  expect(announcementFrame("fd00::1", "02:42:ac:00:00:01")).toBeUndefined();
  expect(announcementFrame("10.0.1.5", "")).toBeUndefined();
});
