/**
 * Image references pinned to a digest here, for clients that leave it to the server: those that speak
 * an API before 1.30. Later ones ask `/distribution/{name}/json` themselves, or want no digest.
 * Source: moby daemon/cluster/services.go (imageWithDigestString, digestWarning), router/swarm.
 */
import { z } from "zod";
import type { ServiceSpec } from "../../core/objects/service.ts";
import { ClusterError } from "../../core/errors.ts";
import { imageReference } from "../reconciler/container-spec.ts";
import type { Engine } from "./engine.ts";

/** The first API version whose clients pin images themselves. */
export const CLIENT_PINS_SINCE = "1.30";

const distributionSchema = z.looseObject({
  Descriptor: z.looseObject({ digest: z.string().regex(/^sha256:[0-9a-f]{64}$/) }),
});

/**
 * The spec with its image's digest, when a registry that this node's engine can reach has it; else as
 * it was, and stock's warning. `registryAuth`: the client's X-Registry-Auth. Never rejects.
 */
export async function pinImage(
  engine: Pick<Engine, "request">,
  spec: ServiceSpec,
  registryAuth: string | undefined,
): Promise<{ spec: ServiceSpec; warnings: string[] }> {
  const { Image } = spec.TaskTemplate.ContainerSpec;
  const reference = imageReference(Image);
  // What is no reference is refused in its own words; it must not become another path of the engine.
  if (Image === "" || !/^[\w.:/[\]-]+$/.test(reference) || reference.includes(".."))
    return { spec, warnings: [] };
  const digest = await digestOf(engine, reference, registryAuth);
  if (digest === undefined) return { spec, warnings: [warning(Image)] };
  const { TaskTemplate } = spec;
  const ContainerSpec = { ...TaskTemplate.ContainerSpec, Image: `${reference}@${digest}` };
  return { spec: { ...spec, TaskTemplate: { ...TaskTemplate, ContainerSpec } }, warnings: [] };
}

async function digestOf(
  engine: Pick<Engine, "request">,
  reference: string,
  registryAuth: string | undefined,
): Promise<string | undefined> {
  try {
    const headers = registryAuth === undefined ? {} : { "X-Registry-Auth": registryAuth };
    const answer = await engine.request(`/distribution/${reference}/json`, { headers });
    if (answer.status !== 200) return undefined;
    return distributionSchema.safeParse(await answer.json()).data?.Descriptor.digest;
  } catch (error) {
    if (error instanceof ClusterError || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function warning(image: string): string {
  return `image ${image} could not be accessed on a registry to record
its digest. Each node will access ${image} independently,
possibly leading to different nodes running different
versions of the image.
`;
}
