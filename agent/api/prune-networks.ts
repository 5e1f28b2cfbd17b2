/**
 * POST /networks/prune: the cluster's networks that nobody uses, and the engine's own. What is in use,
 * `apply` and the engine refuse to remove. The bridges of the cluster's networks are never the user's to
 * prune: a task may come for them.
 *
 * Source: moby daemon/prune.go (clusterNetworksPrune, localNetworksPrune).
 */
import type { Context } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { Labels } from "../../core/objects/object-meta.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { checkShape } from "./body.ts";
import { type ApiContext, propose, readIfManager } from "./context.ts";
import { parseTime } from "./events.ts";
import { type Filters, matchesLabels, parseFilters } from "./filters.ts";
import { passOn } from "./pass-on.ts";

const FILTERS = ["label", "label!", "until"] as const;

const answerSchema = z.looseObject({ NetworksDeleted: z.array(z.string()).nullish() });
const engineNetworkSchema = z.looseObject({
  Id: z.string(),
  Name: z.string(),
  Created: z.string(),
  ConfigOnly: z.boolean().nullish(),
  Labels: z.record(z.string(), z.string()).nullish(),
});

export async function pruneNetworks(context: ApiContext, c: Context): Promise<Response> {
  const text = c.req.query("filters");
  const filters = readFilters(text);
  // Filters that mean nothing to us, the engine refuses in its own words.
  if (!filters) return passOn(c, await pruneEngine(context, text ?? ""));
  const given = JSON.stringify({ ...Object.fromEntries(filters), "label!": [NETWORK_ID_LABEL] });
  const untilMs = untilOf(filters, context.ports.nowMs());
  if (untilMs === undefined) return passOn(c, await pruneEngine(context, given));
  const isWanted = (labels: Labels | undefined, createdAtMs: number) =>
    createdAtMs <= untilMs && matchesPruneLabels(filters, labels);
  const cluster = await pruneCluster(context, isWanted);
  let local: string[];
  if (filters.has("label!")) local = await removeUnused(context, isWanted);
  else {
    const answer = await pruneEngine(context, given);
    if (answer.status !== 200) return passOn(c, answer);
    local = checkShape(await answer.json(), answerSchema).NetworksDeleted ?? [];
  }
  const names = [...cluster, ...local];
  return c.json({ NetworksDeleted: names.length > 0 ? names : null });
}

function readFilters(text: string | undefined): Filters | undefined {
  try {
    return parseFilters(text, FILTERS);
  } catch (error) {
    if (error instanceof ClusterError) return undefined;
    throw error;
  }
}

/** Undefined for what is no time, or several. */
function untilOf(filters: Filters, nowMs: number): number | undefined {
  const [text, ...more] = filters.get("until") ?? [];
  if (text === undefined) return Number.POSITIVE_INFINITY;
  return more.length > 0 ? undefined : parseTime(text, nowMs);
}

/** `label!` excludes what has all of its labels. */
function matchesPruneLabels(filters: Filters, labels: Labels | undefined): boolean {
  const isExcluded = filters.has("label!") && matchesLabels(filters, "label!", labels);
  return matchesLabels(filters, "label", labels) && !isExcluded;
}

type IsWanted = (labels: Labels | undefined, createdAtMs: number) => boolean;

async function pruneCluster(context: ApiContext, isWanted: IsWanted): Promise<string[]> {
  const networks = await readIfManager(context, (view) =>
    view
      .networks()
      .filter(({ predefined, spec }) => !predefined && !spec.Ingress)
      .filter(({ spec, createdAtMs }) => isWanted(spec.Labels, createdAtMs)),
  );
  const removed: string[] = [];
  for (const { id, spec } of networks ?? []) {
    try {
      await propose(context, [{ type: "remove", table: "network", id }]);
      removed.push(spec.Name);
    } catch (error) {
      const isKept = error instanceof ClusterError && ["in-use", "not-found"].includes(error.code);
      if (!isKept) throw error;
    }
  }
  return removed;
}

/**
 * As the engine's own pruning. It cannot be told to leave out what has one of several labels, and the
 * user's `label!` beside ours would be both.
 */
async function removeUnused(context: ApiContext, isWanted: IsWanted): Promise<string[]> {
  const filters = encodeURIComponent('{"type":["custom"],"dangling":["true"]}');
  const networks = checkShape(
    await context.engine.getJson(`/networks?filters=${filters}`),
    z.array(engineNetworkSchema),
  );
  const removed: string[] = [];
  for (const { Id, Name, Created, ConfigOnly, Labels } of networks) {
    if (ConfigOnly || Labels?.[NETWORK_ID_LABEL] !== undefined) continue;
    if (!isWanted(Labels ?? {}, Date.parse(Created))) continue;
    const answer = await context.engine.request(`/networks/${Id}`, { method: "DELETE" });
    if (answer.ok) removed.push(Name);
  }
  return removed;
}

function pruneEngine(context: ApiContext, filters: string): Promise<Response> {
  const query = filters === "" ? "" : `?filters=${encodeURIComponent(filters)}`;
  return context.engine.request(`/networks/prune${query}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
  });
}
