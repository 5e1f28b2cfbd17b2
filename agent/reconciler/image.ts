/**
 * The image of a task: pulled unless it is present. A reference with a digest (as the CLI pins it) is thereby
 * exact; a bare tag is taken as it is on this node. Tasks that need one image at the same time share one pull.
 *
 * Unlike stock Swarm, a tag that is present is not pulled again: a node without a way to the registry
 * would wait for each task, and tags that move silently are what digests are there against.
 */
import { ClusterError } from "../../core/errors.ts";
import type { ContainerSpec } from "../../core/objects/task.ts";
import { imageReference } from "./container-spec.ts";
import { type Docker, isEngineAway } from "./docker.ts";

export type Images = {
  /**
   * Resolves when the image is present.
   * @throws {ClusterError} docker with the engine's text, such as `No such image: x:latest`, when it is
   *   not present and cannot be pulled; unavailable when the engine is away.
   */
  ensure(spec: Pick<ContainerSpec, "Image" | "PullOptions">): Promise<void>;
};

export function createImages(docker: Docker): Images {
  const pulls = new Map<string, Promise<void>>();
  const pull = (reference: string, registryAuth: string | undefined) => {
    // Credentials are part of the key: nobody gets an image by somebody else's.
    const key = `${reference} ${registryAuth ?? ""}`;
    const running = pulls.get(key);
    if (running) return running;
    const started = docker.pullImage(reference, registryAuth).finally(() => pulls.delete(key));
    pulls.set(key, started);
    return started;
  };
  return {
    ensure: async ({ Image, PullOptions }) => {
      const reference = imageReference(Image);
      if (await docker.hasImage(reference)) return;
      try {
        await pull(reference, PullOptions?.RegistryAuth);
      } catch (error) {
        if (isEngineAway(error) || !(error instanceof ClusterError)) throw error;
        // Loaded by hand meanwhile: then the pull's failure does not matter (as in stock Swarm).
        if (await docker.hasImage(reference)) return;
        // Stock Swarm's text, and the reason, which it only logs.
        throw new ClusterError("docker", `No such image: ${reference} (pull: ${error.message})`, {
          details: error.details,
          cause: error,
        });
      }
    },
  };
}
