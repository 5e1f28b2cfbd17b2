import { describe, expect, test } from "bun:test";
import { canHijack, isShoalPath, splitVersion, upstreamOf } from "../../../agent/api/paths.ts";

describe("isShoalPath()", () => {
  test.each([
    ["GET", "/_ping"],
    ["HEAD", "/_ping"],
    ["GET", "/v1.41/info"],
    ["GET", "/version"],
    ["POST", "/v1.41/swarm/init"],
    ["GET", "/v1.41/swarm"],
    ["GET", "/v1.41/services?status=true"],
    ["GET", "/services/x/logs?follow=1"],
    ["GET", "/tasks"],
    ["POST", "/v1.24/nodes/x/update?version=3"],
    ["DELETE", "/secrets/x"],
    ["POST", "/configs/create"],
    ["GET", "/networks"],
    ["GET", "/v1.41/networks?filters=%7B%7D"],
    ["GET", "/v1.41/networks/x?scope=swarm"],
    ["DELETE", "/networks/x"],
    ["POST", "/networks/create"],
    ["POST", "/networks/prune"],
    ["POST", "/v1.41/networks/x/disconnect"],
    ["POST", "/v1.41/networks/x/connect"],
    ["POST", "/v1.41/containers/create?name=services"],
    ["GET", "/shoal/v1/status"],
    ["GET", "http://docker/v1.41/services"],
  ])("%s %s is the cluster's", (method, target) => {
    expect(isShoalPath(method, target)).toBe(true);
  });

  test.each([
    ["GET", "/containers/json"],
    ["POST", "/v1.41/containers/x/start"],
    ["GET", "/containers/create"],
    ["GET", "/v1.41/events"],
    ["GET", "/distribution/busybox/json"],
    ["GET", "/networks/x/connect"],
    ["GET", "/networks/prune/x"],
    ["GET", "/images/services/json"],
    ["GET", "/servicesx"],
    ["GET", "/containers/x/archive?path=/services"],
    ["GET", "/volumes"],
    ["POST", "/session"],
    ["GET", "/"],
    ["GET", "/v1.41"],
  ])("%s %s is the engine's", (method, target) => {
    expect(isShoalPath(method, target)).toBe(false);
  });
});

test("splitVersion() takes the prefix off", () => {
  expect(splitVersion("/v1.41/services?x=/v1.2/")).toEqual({ version: "1.41", path: "/services" });
  expect(splitVersion("/services")).toEqual({ path: "/services" });
  expect(splitVersion("/volumes/v1.2")).toEqual({ path: "/volumes/v1.2" });
});

test("canHijack() knows the calls of clients that do not ask for an upgrade", () => {
  expect(canHijack("POST", "/v1.41/containers/x/attach?stream=1")).toBe(true);
  expect(canHijack("POST", "/exec/x/start")).toBe(true);
  expect(canHijack("GET", "/containers/x/attach")).toBe(false);
  expect(canHijack("POST", "/containers/x/start")).toBe(false);
});

describe("upstreamOf()", () => {
  test("gives events to the engine alone on a node that is no manager", () => {
    expect(upstreamOf("GET", "/v1.41/events?since=1", false)).toBe("engine");
    expect(upstreamOf("GET", "/v1.41/events?since=1", true)).toBe("streams");
    expect(upstreamOf("GET", "/events", true)).toBe("streams");
  });

  test.each([
    ["GET", "/services/x/logs?stdout=1", "streams"],
    ["GET", "/v1.24/tasks/x/logs", "streams"],
    ["POST", "/services/x/logs", "inner"],
    ["GET", "/services/logs", "inner"],
    ["GET", "/containers/x/logs?follow=1", "engine"],
    ["POST", "/events", "engine"],
  ] as const)("sends %s %s to the %s server", (method, target, name) => {
    expect(upstreamOf(method, target, true)).toBe(name);
  });
});
