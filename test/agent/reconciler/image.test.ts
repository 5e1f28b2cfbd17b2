import { describe, expect, test } from "bun:test";
import { decodeRegistryAuth, type Docker } from "../../../agent/reconciler/docker.ts";
import { createImages } from "../../../agent/reconciler/image.ts";
import { ClusterError } from "../../../core/errors.ts";

/** Only the two calls that matter; any other is a bug and throws. */
function engineWith(calls: Pick<Docker, "hasImage" | "pullImage">): Docker {
  return calls as Docker;
}

describe("images.ensure()", () => {
  /** An engine that has the image, and notes what it is asked to pull. */
  function present(pull: (onAnswer: () => void) => Promise<void>) {
    const pulled: string[] = [];
    const docker = engineWith({
      hasImage: async () => true,
      pullImage: async (reference, _auth, onAnswer = () => {}) => {
        pulled.push(reference);
        await pull(onAnswer);
      },
    });
    return { docker, pulled };
  }
  const denied = async () => {
    throw new ClusterError("docker", "denied");
  };

  test("pulls no digest and no id that is present, but a tag, which may have moved", async () => {
    const { docker, pulled } = present(async () => {});
    const images = createImages(docker);
    await images.ensure({ Image: `nginx:1@sha256:${"a".repeat(64)}` });
    await images.ensure({ Image: `sha256:${"a".repeat(64)}` });
    expect(pulled).toEqual([]);
    await images.ensure({ Image: "nginx" });
    await images.ensure({ Image: "nginx" });
    expect(pulled).toEqual(["nginx:latest", "nginx:latest"]);
  });

  test("follows the pull policy: missing leaves a present tag, never pulls nothing, always must", async () => {
    const { docker, pulled } = present(denied);
    const images = createImages(docker);
    const by = (PullPolicy: string, Image = "nginx") =>
      images.ensure({ Image, EngineOptions: { PullPolicy } });
    await by("missing");
    await by("never");
    await by("always", `nginx@sha256:${"a".repeat(64)}`);
    expect(pulled).toEqual([]);
    expect(by("always")).rejects.toThrow(
      "Cannot pull nginx:latest, as shoal.pull=always asks: denied",
    );
    const absent = createImages(
      engineWith({
        hasImage: async () => false,
        pullImage: async () => {
          throw new Error("nothing is to be pulled");
        },
      }),
    );
    expect(
      absent.ensure({ Image: "nginx", EngineOptions: { PullPolicy: "never" } }),
    ).rejects.toThrow(
      "No such image: nginx:latest (this node does not have it, and shoal.pull is never)",
    );
  });

  test("takes a present tag when its registry refuses, and asks once for a burst of tasks", async () => {
    const { docker, pulled } = present(denied);
    let nowMs = 1_000_000;
    const images = createImages(docker, { nowMs: () => nowMs, failureMemoryMs: 2_000 });
    for (let task = 1; task <= 3; task += 1) await images.ensure({ Image: "nginx" });
    expect(pulled).toHaveLength(1);
    nowMs += 2_000;
    await images.ensure({ Image: "nginx" });
    expect(pulled).toHaveLength(2);
  });

  test("waits for a silent registry only so long, and later tasks not at all", async () => {
    const { docker, pulled } = present(() => new Promise(() => {}));
    let nowMs = 0;
    const images = createImages(docker, { nowMs: () => nowMs, silenceMaxMs: 20 });
    await images.ensure({ Image: "nginx" });
    nowMs = 20;
    await images.ensure({ Image: "nginx" });
    expect(pulled).toHaveLength(1);
  });

  test("waits for the bytes of a registry that has answered", async () => {
    let finish = () => {};
    const { docker } = present((onAnswer) => {
      onAnswer();
      return new Promise<void>((resolve) => {
        finish = resolve;
      });
    });
    const images = createImages(docker, { silenceMaxMs: 1 });
    let isReady = false;
    const ready = images.ensure({ Image: "nginx" }).then(() => {
      isReady = true;
    });
    await Bun.sleep(20);
    expect(isReady).toBe(false);
    finish();
    await ready;
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
