import { describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import { matchesConstraints, parseConstraints } from "../../../core/scheduler/constraint.ts";
import { aNode } from "../../fixtures/cluster.ts";

describe("parseConstraints()", () => {
  test("reads keys, operators and values around blanks", () => {
    expect(parseConstraints([" node.labels.zone ==  a 1 ", "node.role!=manager"])).toEqual([
      { key: "node.labels.zone", operator: "==", value: "a 1" },
      { key: "node.role", operator: "!=", value: "manager" },
    ]);
  });

  const bad: [string, string][] = [
    ["node.role", "constraint expected one operator from ==, !="],
    ["node.role=manager", "constraint expected one operator from ==, !="],
    ["", "constraint expected one operator from ==, !="],
    ["1node == a", "key '1node' is invalid"],
    ["== a", "key '' is invalid"],
    ["node.id == ", "value '' is invalid"],
    ["node.id == a,b", "value 'a,b' is invalid"],
  ];
  for (const [text, message] of bad) {
    test(`refuses "${text}"`, () => {
      expect(() => parseConstraints([text])).toThrow(new ClusterError("invalid-argument", message));
    });
  }
});

describe("matchesConstraints()", () => {
  const node = aNode({
    id: "n1",
    labels: { zone: "East", a: "" },
    engineLabels: { storage: "ssd" },
    role: "manager",
    addr: "10.1.2.3",
  });
  const cases: [string, boolean][] = [
    ["node.id == N1", true],
    ["node.id != n1", false],
    ["node.hostname == host-n1", true],
    ["node.role == manager", true],
    ["node.role == worker", false],
    ["node.platform.os == Linux", true],
    ["node.platform.arch == x86_64", true],
    ["node.platform.arch == amd64", true],
    ["node.platform.arch != arm64", true],
    ["node.labels.zone == east", true],
    ["Node.Labels.zone == EAST", true],
    ["node.labels.zone != west", true],
    ["node.labels.zone == eas.*", false],
    ["node.labels.missing == x", false],
    ["node.labels.missing != x", true],
    ["engine.labels.storage == ssd", true],
    ["node.ip == 10.1.2.3", true],
    ["node.ip == 10.1.0.0/16", true],
    ["node.ip != 10.1.0.0/16", false],
    ["node.ip == 10.2.0.0/16", false],
    ["node.ip == nonsense", false],
    ["node.ip != nonsense", false],
    ["node.unknown == x", false],
    ["node.unknown != x", false],
    ["unreadable", false],
  ];
  for (const [text, isMatch] of cases) {
    test(`${text}: ${isMatch}`, () => expect(matchesConstraints([text], node)).toBe(isMatch));
  }

  test("all must hold", () => {
    expect(matchesConstraints(["node.id == n1", "node.role == worker"], node)).toBe(false);
    expect(matchesConstraints([], node)).toBe(true);
  });
});
