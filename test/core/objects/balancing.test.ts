import { describe, expect, test } from "bun:test";
import {
  balancingOf,
  balancingProblem,
  isBalancingLabel,
  publishPolicyOf,
} from "../../../core/objects/balancing.ts";

const web = { Protocol: "tcp", PublishedPort: 8080 };

describe("balancing labels", () => {
  test("without labels a service is balanced evenly and keeps the client's address", () => {
    expect(balancingOf(undefined)).toEqual({});
    expect(publishPolicyOf({}, web)).toBe("preserve");
  });

  test("preference and affinity are read, each on its own", () => {
    expect(balancingOf({ "shoal.balance.prefer": "local" })).toEqual({ isLocalFirst: true });
    expect(balancingOf({ "shoal.balance.affinity": "client" })).toEqual({ hasAffinity: true });
  });

  test("the label that names a port most closely decides its policy", () => {
    const labels = {
      "shoal.publish": "snat",
      "shoal.publish.8080": "local",
      "shoal.publish.8080/udp": "preserve",
    };
    expect(publishPolicyOf(labels, web)).toBe("local");
    expect(publishPolicyOf(labels, { ...web, Protocol: "udp" })).toBe("preserve");
    expect(publishPolicyOf(labels, { ...web, PublishedPort: 9000 })).toBe("snat");
  });

  test.each([
    [{ "shoal.balance.prefer": "near" }, '"near" is no preference: use local'],
    [{ "shoal.balance.affinity": "cookie" }, '"cookie" is no affinity: use client'],
    [{ "shoal.publish": "dsr" }, '"dsr" is no policy: use preserve, local, snat'],
    [{ "shoal.publish.8080": "" }, '"" is no policy'],
    [{ "shoal.publish.http": "local" }, '"http" is no port'],
    [{ "shoal.publish.0/tcp": "local" }, '"0/tcp" is no port'],
    [{ "shoal.publish.70000": "local" }, '"70000" is no port'],
  ])("%j is refused, and counts as absent", (labels, message) => {
    expect(balancingProblem({ Labels: labels })).toContain(message);
    expect(balancingOf(labels)).toEqual({});
    expect(publishPolicyOf(labels, web)).toBe("preserve");
  });

  test("good labels and those of others are no problem", () => {
    const labels = {
      "shoal.balance.prefer": "local",
      "shoal.balance.affinity": "client",
      "shoal.publish.53/udp": "local",
      "com.example.publish": "x",
    };
    expect(balancingProblem({ Labels: labels })).toBeUndefined();
    expect(Object.keys(labels).map(isBalancingLabel)).toEqual([true, true, true, false]);
  });
});
