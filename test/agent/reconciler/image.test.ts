import { describe, expect, test } from "bun:test";
import { decodeRegistryAuth, type Docker } from "../../../agent/reconciler/docker.ts";
import { createImages } from "../../../agent/reconciler/image.ts";
import { ClusterError } from "../../../core/errors.ts";

/** Only the two calls that matter; any other is a bug and throws. */
function engineWith(calls: Pick<Docker, "hasImage" | "pullImage">): Docker {
  return calls as Docker;
}

describe("images.ensure()", () => {
  test("pulls nothing that is present", async () => {
    const pulled: string[] = [];
    const images = createImages(
      engineWith({
        hasImage: async () => true,
        pullImage: async (reference) => void pulled.push(reference),
      }),
    );
    await images.ensure({ Image: "nginx" });
    expect(pulled).toEqual([]);
  });

  test("pulls once for tasks that ask at the same time, with their credentials", async () => {
    const pulled: string[] = [];
    const images = createImages(
      engineWith({
        hasImage: async () => false,
        pullImage: async (reference, auth) => void pulled.push(`${reference} ${auth}`),
      }),
    );
    const spec = { Image: "nginx", PullOptions: { RegistryAuth: "x" } };
    await Promise.all([
      images.ensure(spec),
      images.ensure(spec),
      images.ensure({ Image: "nginx" }),
    ]);
    expect(pulled.sort()).toEqual(["nginx:latest undefined", "nginx:latest x"]);
  });

  test("ignores a failed pull when the image has come otherwise", async () => {
    let asked = 0;
    const images = createImages(
      engineWith({
        hasImage: async () => asked++ > 0,
        pullImage: async () => {
          throw new ClusterError("docker", "denied");
        },
      }),
    );
    await images.ensure({ Image: "nginx" });
  });

  test("tells the image and the reason", async () => {
    const images = createImages(
      engineWith({
        hasImage: async () => false,
        pullImage: async () => {
          throw new ClusterError("docker", "denied");
        },
      }),
    );
    const error = await images.ensure({ Image: "nginx" }).catch((error: unknown) => error);
    expect(error).toMatchObject({ message: "No such image: nginx:latest (pull: denied)" });
  });

  test("passes on that the engine is away", async () => {
    const images = createImages(
      engineWith({
        hasImage: async () => false,
        pullImage: async () => {
          throw new ClusterError("unavailable", "away");
        },
      }),
    );
    const error = await images.ensure({ Image: "nginx" }).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: "unavailable" });
  });
});

test("decodeRegistryAuth() reads X-Registry-Auth and takes nothing from an empty one", () => {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  expect(decodeRegistryAuth(encode({ username: "u", password: "p" }))).toEqual({
    username: "u",
    password: "p",
  });
  expect(decodeRegistryAuth(encode({}))).toBeUndefined();
  expect(decodeRegistryAuth("%%")).toBeUndefined();
});
