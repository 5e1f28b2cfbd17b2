import { describe, expect, test } from "bun:test";
import {
  claimsOf,
  configIdsOf,
  holdsAddresses,
  nameClaim,
  referencesOf,
  secretIdsOf,
} from "../../../core/store/claims.ts";
import type { Tables } from "../../../core/store/action.ts";
import { serviceDraft, taskDraft, taskSpec, taskStatus } from "./objects.ts";

const META = { version: 1, createdAtMs: 1, updatedAtMs: 1 };
const service = (...parameters: Parameters<typeof serviceDraft>): Tables["service"] => ({
  ...serviceDraft(...parameters),
  ...META,
  specVersion: 1,
});
const task = (...parameters: Parameters<typeof taskDraft>): Tables["task"] => ({
  ...taskDraft(...parameters),
  ...META,
});

test.each([
  ["new", "running", true],
  ["pending", "shutdown", false],
  ["pending", "remove", false],
  ["assigned", "shutdown", true],
  ["running", "remove", true],
  ["complete", "complete", false],
  ["failed", "running", false],
  ["orphaned", "shutdown", false],
] as const)("holdsAddresses() of a task %s, desired %s is %s", (state, desiredState, expected) => {
  expect(holdsAddresses({ desiredState, status: taskStatus(state) })).toBe(expected);
});

describe("claimsOf()", () => {
  test("takes a service's name, its ports as wished and as allocated, and its VIPs", () => {
    const claims = claimsOf(
      "service",
      service(
        "s1",
        {
          Name: "Web",
          EndpointSpec: {
            Ports: [
              { TargetPort: 80, PublishedPort: 8080 },
              { TargetPort: 81 },
              { TargetPort: 53, PublishedPort: 53, Protocol: "udp", PublishMode: "host" },
            ],
          },
        },
        {
          endpoint: {
            specVersion: 1,
            mode: "vip",
            ports: [
              { TargetPort: 81, PublishedPort: 30000, Protocol: "tcp", PublishMode: "ingress" },
            ],
            virtualIps: [{ networkId: "net1", address: "10.0.1.2" }],
          },
        },
      ),
    );
    expect(claims).toEqual({
      exclusive: ["name/service/web", "port/tcp/8080", "port/tcp/30000", "address/net1/10.0.1.2"],
      shared: ["port/udp/53"],
    });
    expect(nameClaim("service", "WEB")).toBe("name/service/web");
  });

  test("takes nothing for a dead task", () => {
    const networks = [{ networkId: "net1", address: "10.0.1.3", aliases: [] }];
    const alive = task("t1", "s1", { networks, status: taskStatus("running") });
    const dead = task("t1", "s1", { networks, status: taskStatus("failed") });
    expect(claimsOf("task", alive).exclusive).toEqual(["address/net1/10.0.1.3"]);
    expect(claimsOf("task", dead).exclusive).toEqual([]);
    expect(referencesOf("task", alive)).toEqual(["network/net1"]);
    expect(referencesOf("task", dead)).toEqual([]);
  });
});

describe("referencesOf()", () => {
  test("names networks, secrets and configs once each", () => {
    const spec = taskSpec(
      {
        Secrets: [{ SecretID: "x" }, { SecretID: "x" }, { Other: 1 }],
        Configs: [{ ConfigID: "c" }],
        Privileges: { CredentialSpec: { Config: "cred" } },
      },
      { Networks: [{ Target: "net1" }] },
    );
    expect(secretIdsOf(spec)).toEqual(["x"]);
    expect(configIdsOf(spec)).toEqual(["c", "cred"]);
    const networks = [{ Target: "net1" }, { Target: "net2" }];
    expect(
      referencesOf("service", service("s1", { TaskTemplate: spec, Networks: networks })),
    ).toEqual(["network/net1", "network/net2", "secret/x", "config/c", "config/cred"]);
  });
});
