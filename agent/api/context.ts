/** What every group of routes gets: the node's ports and the engine's client. */
import type { Context } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { Engine } from "./engine.ts";
import type { ApiPorts } from "./ports.ts";
import { asControlError } from "./problem.ts";

export type ApiContext = { ports: ApiPorts; engine: Engine };

/** Credentials for a registry, base64url JSON; empty ones are as none. Never logged or shown. */
export function registryAuth(c: Context): string | undefined {
  const header = c.req.header("x-registry-auth");
  // "e30" is the base64 of "{}", which some clients send for "no credentials".
  return header && !/^e30=?$/.test(header) ? header : undefined;
}

/**
 * As ports.propose, with refusals in the words of stock Swarm's control API.
 * @throws {ClusterError} see ApiPorts.propose
 */
export async function propose(context: ApiContext, actions: StoreAction[]): Promise<void> {
  try {
    await context.ports.propose(actions);
  } catch (error) {
    throw asControlError(error);
  }
}

/** Each time the managers were faster: they write services, nodes and the cluster too. */
const SEQUENCE_TRIES_MAX = 5;

/**
 * Proposes the action for the object as it is now. A user's version is good for as long as no spec
 * was set since (seenVersion, spec-versions.ts); what the managers write beside the spec is no reason to
 * refuse it, so the action is made anew when that came between.
 * @throws {ClusterError} version-conflict when another spec came first.
 */
export async function proposeInSequence(
  context: ApiContext,
  make: () => Promise<StoreAction>,
): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    const action = await make();
    try {
      return await propose(context, [action]);
    } catch (error) {
      const isConflict = error instanceof ClusterError && error.code === "version-conflict";
      if (!isConflict || tries >= SEQUENCE_TRIES_MAX) throw error;
    }
  }
}

/** Undefined on nodes that cannot read the cluster's state now: they still have their own networks. */
export async function readIfManager<T>(
  context: ApiContext,
  read: (view: ClusterView) => T,
): Promise<T | undefined> {
  if (!context.ports.localNode().isManager) return undefined;
  try {
    return await context.ports.read(read);
  } catch (error) {
    if (
      error instanceof ClusterError &&
      ["unavailable", "no-quorum", "deadline"].includes(error.code)
    ) {
      return undefined;
    }
    throw error;
  }
}
