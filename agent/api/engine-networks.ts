/** What the engine calls a network of the cluster: the same name, but an id of its own. */
import { z } from "zod";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { checkShape } from "./body.ts";
import type { Engine } from "./engine.ts";

const listSchema = z.array(
  z.looseObject({ Name: z.string(), Labels: z.record(z.string(), z.string()).nullish() }),
);

/** The name of the cluster's network whose id begins so, where this node has it; else `ref` as it is. */
export async function engineNetworkName(engine: Engine, ref: string): Promise<string> {
  // Names and the engine's own ids are hardly ever the beginning of an id of ours.
  if (!/^[0-9a-z]{1,25}$/.test(ref)) return ref;
  const query = encodeURIComponent(JSON.stringify({ label: [NETWORK_ID_LABEL] }));
  const networks = checkShape(await engine.getJson(`/networks?filters=${query}`), listSchema);
  if (networks.some(({ Name }) => Name === ref)) return ref;
  const found = networks.filter(({ Labels }) => Labels?.[NETWORK_ID_LABEL]?.startsWith(ref));
  const [only] = found;
  return only && found.length === 1 ? only.Name : ref;
}
