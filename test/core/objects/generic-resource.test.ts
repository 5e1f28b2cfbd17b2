import { expect, test } from "bun:test";
import {
  genericReservationProblem,
  readGenericResources,
  resourceEnvironment,
} from "../../../core/objects/generic-resource.ts";

const named = (Kind: string, Value: string) => ({ NamedResourceSpec: { Kind, Value } });
const discrete = (Kind: string, Value: number) => ({ DiscreteResourceSpec: { Kind, Value } });

test("readGenericResources() takes both kinds and drops what is neither", () => {
  const list = [named("gpu", "a"), discrete("ssd", 3), discrete("hdd", 0), {}, null, "x", 4];
  expect(readGenericResources([...list, { NamedResourceSpec: { Kind: 1 } }])).toEqual([
    named("gpu", "a"),
    discrete("ssd", 3),
  ]);
});

test("genericReservationProblem() refuses names, and what is no amount", () => {
  expect(genericReservationProblem([discrete("gpu", 2), discrete("ssd", 0)])).toBeUndefined();
  expect(genericReservationProblem([named("gpu", "a")])).toBe("invalid argument for resource gpu");
  for (const wrong of [{}, null, discrete("", 1), discrete("gpu", -1), discrete("gpu", 1.5)]) {
    expect(genericReservationProblem([wrong])).toContain("DiscreteResourceSpec");
  }
});

test("resourceEnvironment() has one line for each kind, in capitals", () => {
  expect(resourceEnvironment([named("gpu", "a"), discrete("ssd", 3), named("gpu", "b")])).toEqual([
    "DOCKER_RESOURCE_GPU=a,b",
    "DOCKER_RESOURCE_SSD=3",
  ]);
});
