/**
 * Resources that only the user knows: `gpu=UUID-1` (named, each handed to one task) and `ssd=3`
 * (discrete, counted). Nodes have both kinds, by `node-generic-resources` of the engine; services ask
 * for amounts; a task is given names where its node has names. Docker API's shape.
 *
 * Source: SwarmKit api/genericresource.
 */
export type GenericResource =
  | { NamedResourceSpec: { Kind: string; Value: string } }
  | { DiscreteResourceSpec: { Kind: string; Value: number } };

/**
 * A list as a client or an engine sent it, without what is none of both. An engine's zero amounts,
 * which Go leaves out, are dropped too.
 */
export function readGenericResources(list: readonly unknown[]): GenericResource[] {
  const resources: GenericResource[] = [];
  for (const item of list) {
    const { Kind, Value } = partOf(item, "NamedResourceSpec") ?? {};
    if (typeof Kind === "string" && typeof Value === "string" && Kind && Value) {
      resources.push({ NamedResourceSpec: { Kind, Value } });
      continue;
    }
    const discrete = partOf(item, "DiscreteResourceSpec") ?? {};
    if (typeof discrete["Kind"] === "string" && typeof discrete["Value"] === "number") {
      const { Kind, Value } = discrete;
      if (Kind && Value > 0) resources.push({ DiscreteResourceSpec: { Kind, Value } });
    }
  }
  return resources;
}

function partOf(item: unknown, name: string): Record<string, unknown> | undefined {
  if (typeof item !== "object" || item === null) return undefined;
  const part = Object.entries(item).find(([key]) => key === name)?.[1] as unknown;
  // Checked to be an object; what its fields are is looked at one by one.
  return typeof part === "object" && part !== null ? (part as Record<string, unknown>) : undefined;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** Why a service may not ask for these; `undefined` when it may: it asks for amounts only. */
export function genericReservationProblem(list: readonly unknown[]): string | undefined {
  for (const item of list) {
    const named = partOf(item, "NamedResourceSpec");
    // Source: SwarmKit api/genericresource/validate.go.
    if (named) return `invalid argument for resource ${textOf(named["Kind"])}`;
    const { Kind, Value } = partOf(item, "DiscreteResourceSpec") ?? {};
    const isWhole = Value === undefined || (Number.isSafeInteger(Value) && Number(Value) >= 0);
    if (typeof Kind !== "string" || Kind === "" || !isWhole) {
      return "generic resources must be given as DiscreteResourceSpec with Kind and a whole Value";
    }
  }
  return undefined;
}

/** `DOCKER_RESOURCE_<KIND>=<name>,<name>` or `=<amount>`, one line for each kind. */
export function resourceEnvironment(resources: readonly GenericResource[]): string[] {
  const values = new Map<string, string[]>();
  for (const resource of resources) {
    const { Kind, Value } =
      "NamedResourceSpec" in resource ? resource.NamedResourceSpec : resource.DiscreteResourceSpec;
    const name = `DOCKER_RESOURCE_${Kind.toUpperCase()}`;
    const found = values.get(name);
    if (found) found.push(String(Value));
    else values.set(name, [String(Value)]);
  }
  return [...values].map(([name, list]) => `${name}=${list.join(",")}`);
}
