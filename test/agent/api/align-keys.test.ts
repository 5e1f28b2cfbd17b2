import { describe, expect, test } from "bun:test";
import { alignKeys } from "../../../agent/api/align-keys.ts";
import { parseBody } from "../../../agent/api/body.ts";
import { networkCreateSchema, serviceSpecSchema } from "../../../agent/api/spec-schema.ts";

describe("alignKeys()", () => {
  test("spells fields as the schema does, at every depth", () => {
    const given = {
      name: "web",
      taskTEMPLATE: { containerspec: { image: "a", mounts: [{ type: "tmpfs", target: "/a" }] } },
      endpointspec: { ports: [{ targetport: 80 }] },
    };
    expect(alignKeys(given, serviceSpecSchema)).toEqual({
      Name: "web",
      TaskTemplate: { ContainerSpec: { Image: "a", Mounts: [{ Type: "tmpfs", Target: "/a" }] } },
      EndpointSpec: { Ports: [{ TargetPort: 80 }] },
    });
  });

  test("leaves the keys of maps alone, and those that nobody knows", () => {
    const given = { Labels: { name: "x", NAME: "y" }, nosuch: { name: 1 } };
    expect(alignKeys(given, serviceSpecSchema)).toEqual(given);
  });

  test("takes the key that fits as it is when there are two", () => {
    expect(alignKeys({ name: "a", Name: "b" }, networkCreateSchema)).toEqual({
      name: "a",
      Name: "b",
    });
    expect(parseBody('{"name":"a","Name":"b"}', networkCreateSchema).Name).toBe("b");
  });

  test("leaves values of another type to the schema", () => {
    expect(alignKeys("text", serviceSpecSchema)).toBe("text");
    expect(alignKeys({ Labels: [1] }, serviceSpecSchema)).toEqual({ Labels: [1] });
  });
});
