import { describe, expect, test } from "bun:test";
import { pinImage } from "../../../agent/api/pin-image.ts";
import { ClusterError } from "../../../core/errors.ts";
import { aServiceSpec } from "../../fixtures/cluster.ts";

const DIGEST = `sha256:${"a1".repeat(32)}`;

/** An engine that answers so; what it was asked is noted. */
function engineWith(answer: () => Response) {
  const asked: string[] = [];
  return {
    asked,
    request: async (path: string, options: { headers?: Record<string, string> } = {}) => {
      asked.push(`${path} ${options.headers?.["X-Registry-Auth"] ?? "-"}`);
      return answer();
    },
  };
}
const imageOf = async (engine: ReturnType<typeof engineWith>, image: string, auth?: string) => {
  const { spec, warnings } = await pinImage(engine, aServiceSpec("web", { image }), auth);
  return { image: spec.TaskTemplate.ContainerSpec.Image, warnings };
};
const found = () => Response.json({ Descriptor: { digest: DIGEST, size: 5 }, Platforms: [] });

describe("pinImage()", () => {
  test("adds tag and digest, asking with the client's credentials", async () => {
    const engine = engineWith(found);
    expect(await imageOf(engine, "registry:5000/team/app", "e1")).toEqual({
      image: `registry:5000/team/app:latest@${DIGEST}`,
      warnings: [],
    });
    expect(await imageOf(engine, "app:2")).toEqual({ image: `app:2@${DIGEST}`, warnings: [] });
    expect(engine.asked).toEqual([
      "/distribution/registry:5000/team/app:latest/json e1",
      "/distribution/app:2/json -",
    ]);
  });

  test("leaves digests and what is no reference, and asks for neither", async () => {
    const engine = engineWith(found);
    for (const image of [`app:2@${DIGEST}`, "../info", "a b", "app?x=1", ""]) {
      expect(await imageOf(engine, image)).toEqual({ image, warnings: [] });
    }
    expect(engine.asked).toEqual([]);
  });

  test("warns in stock's words when no registry tells, and goes on", async () => {
    const answers = [
      () => new Response("{}", { status: 404 }),
      () => Response.json({ Descriptor: { digest: "md5:x" } }),
      () => new Response("<html>"),
      () => {
        throw new ClusterError("unavailable", "away");
      },
    ];
    for (const answer of answers) {
      const { image, warnings } = await imageOf(engineWith(answer), "app");
      expect(image).toBe("app");
      expect(warnings).toEqual([
        expect.stringMatching(
          /^image app could not be accessed on a registry to record\nits digest/,
        ),
      ]);
    }
  });
});
