import { describe, expect, test } from "bun:test";
import {
  chooseAddresses,
  localAddresses6,
  parseHostPort,
  watchAddresses6,
} from "../../agent/address.ts";

const one = { eth0: ["192.0.2.7"] };
const two = { eth0: ["192.0.2.7"], eth1: ["198.51.100.7"] };

test("localAddresses6() gives what other nodes may see, not what containers or the link have", () => {
  const one = (address: string, internal = false) => ({
    address,
    internal,
    family: "IPv6" as const,
    netmask: "",
    mac: "",
    cidr: null,
    scopeid: 0,
  });
  const found = localAddresses6({
    lo: [one("::1", true)],
    eth0: [one("fe80::1"), one("2001:db8::5"), one("2001:db8::4")],
    docker0: [one("fd00:1::1")],
    sh01234567: [one("fd00:2::1")],
    shmesh: [one("fd73:686f:616c::aff:1")],
  });
  expect(found).toEqual(["2001:db8::4", "2001:db8::5"]);
});

test("watchAddresses6() tells of a change, once", async () => {
  const state = { addresses: ["2001:db8::4"], changes: 0 };
  const { promise, resolve } = Promise.withResolvers<void>();
  const watch = watchAddresses6(
    () => {
      state.changes += 1;
      resolve();
    },
    { periodMs: 1, read: () => state.addresses },
  );
  state.addresses = ["2001:db8::4", "2001:db8::5"];
  await promise;
  watch.stop();
  expect(state.changes).toBe(1);
});

describe("chooseAddresses()", () => {
  test("takes the only address when none is named", () => {
    expect(chooseAddresses({}, one)).toEqual({
      listen: { host: "0.0.0.0", port: 2377 },
      advertise: { host: "192.0.2.7", port: 2377 },
      dataPath: "192.0.2.7",
    });
  });
  test("refuses to choose between several interfaces, naming them", () => {
    expect(() => chooseAddresses({}, two)).toThrow(
      "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (192.0.2.7 on eth0 and 198.51.100.7 on eth1)",
    );
  });
  test("takes an interface's name for its address", () => {
    expect(chooseAddresses({ AdvertiseAddr: "eth1:7000", DataPathAddr: "eth0" }, two)).toEqual({
      listen: { host: "0.0.0.0", port: 2377 },
      advertise: { host: "198.51.100.7", port: 7000 },
      dataPath: "192.0.2.7",
    });
  });
  test("refuses a name that is no interface and says which there are", () => {
    expect(() => chooseAddresses({ AdvertiseAddr: "eth9" }, two)).toThrow("interfaces: eth0, eth1");
  });
  test("advertises a concrete listen address", () => {
    expect(chooseAddresses({ ListenAddr: "198.51.100.7:9999" }, two).advertise).toEqual({
      host: "198.51.100.7",
      port: 9999,
    });
  });
});

describe("parseHostPort()", () => {
  test.each([
    ["", "invalid empty address"],
    ["a:b", 'port "b" is not a number'],
    ["a:70000", 'port "70000" is not a number from 1 to 65535'],
    [":2377", "the host part is empty"],
  ])("refuses %p", (text, why) => {
    expect(() => parseHostPort(text, "ListenAddr", 2377)).toThrow(why);
  });
});
