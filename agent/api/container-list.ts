/**
 * GET /containers/json by what the engine knows otherwise. `is-task` it means of a swarm of its own: here
 * containers of this cluster's tasks have a label. And `network` may be the id of a network of the cluster.
 * Other lists are the engine's alone (paths.ts).
 */
import { Hono } from "hono";
import { z } from "zod";
import { TASK_ID_LABEL } from "../reconciler/container-spec.ts";
import { checkShape } from "./body.ts";
import type { ApiContext } from "./context.ts";
import { engineNetworkName } from "./engine-networks.ts";
import { type Filters, parseAnyFilters } from "./filters.ts";
import { passOn } from "./pass-on.ts";

const listSchema = z.array(z.looseObject({ Labels: z.record(z.string(), z.string()).nullish() }));

export function containerListRoutes(context: ApiContext): Hono {
  const app = new Hono();
  app.get("/containers/json", async (c) => {
    const { pathname, searchParams } = new URL(c.req.url);
    // What is no filter at all, the engine refuses in its own words.
    const filters: Filters = parseAnyFilters(c.req.query("filters")) ?? new Map();
    const isTask = wantedKind(filters);
    const known = new Map(filters);
    if (isTask !== undefined) known.delete("is-task");
    if (isTask) known.set("label", [...(filters.get("label") ?? []), TASK_ID_LABEL]);
    const networks = (filters.get("network") ?? []).map((ref) =>
      engineNetworkName(context.engine, ref),
    );
    if (networks.length > 0) known.set("network", await Promise.all(networks));
    if (filters.size > 0) searchParams.set("filters", JSON.stringify(Object.fromEntries(known)));
    const answer = await context.engine.request(`${pathname}?${searchParams.toString()}`);
    if (isTask !== false || answer.status !== 200) return passOn(c, answer);
    const all = checkShape(await answer.json(), listSchema);
    return c.json(all.filter(({ Labels }) => Labels?.[TASK_ID_LABEL] === undefined));
  });
  return app;
}

/** Undefined when it is not asked for, or by a word that is none. */
function wantedKind(filters: Filters): boolean | undefined {
  const [word, ...more] = filters.get("is-task") ?? [];
  if (word === undefined || more.length > 0) return undefined;
  if (/^(?:1|true)$/i.test(word)) return true;
  return /^(?:0|false)$/i.test(word) ? false : undefined;
}
