import type { UnixMs } from "../ids.ts";
import type { Labels, ObjectMeta } from "./object-meta.ts";
import type { ServiceSpec } from "./service.ts";

/** Groups the objects of a stack for every client, as stock's `docker stack` does. */
export const STACK_LABEL = "com.docker.stack.namespace";
/** Id of the stack object that made it: what a client made under the same name is not the stack's to remove. */
export const STACK_ID_LABEL = "shoal.stack.id";

/** A secret or config that a revision names; its data is only in the object of that name. */
export type StackData = { Name: string; Labels: Labels; Templating?: { Name: string } };
/** In the shape of POST /networks/create, as far as the store is concerned. */
export type StackNetwork = { Name: string; Labels: Labels } & Record<string, unknown>;

/**
 * What a stack is to be, by names: networks in the services' specs are named, not identified, and references
 * to secrets and configs have no id. So it means the same when it is applied again later.
 */
export type StackModel = {
  services: ServiceSpec[];
  networks: StackNetwork[];
  secrets: StackData[];
  configs: StackData[];
  /** What must be there already. */
  externals: { networks: string[]; secrets: string[]; configs: string[] };
};

export type StackRevision = {
  /** From 1; never given twice. */
  number: number;
  atMs: UnixMs;
  /** The compose files as they were given, to be shown. */
  files: { name: string; text: string }[];
  model: StackModel;
  /** By service: the image with the digest that it had then, so that a tag that has moved means the same. */
  images: Record<string, string>;
  /** Of a rollback: the revision that this one repeats. */
  repeats?: number;
};

/** A stack as an object of the cluster: what is wanted now, and what was wanted before. */
export type Stack = ObjectMeta & {
  spec: { Name: string };
  /** Oldest first, the last one is what is wanted; at most REVISIONS_MAX. */
  revisions: StackRevision[];
};

export const REVISIONS_MAX = 10;
/** Of a stack's object as JSON, in characters: older revisions are dropped sooner than it grows beyond. */
export const STACK_LENGTH_MAX = 2 * 1024 * 1024;

/** The revisions with one more, without those that there is no more room for. */
export function withRevision(
  revisions: readonly StackRevision[],
  next: Omit<StackRevision, "number">,
): StackRevision[] {
  const kept = [...revisions, { ...next, number: (revisions.at(-1)?.number ?? 0) + 1 }];
  let length = JSON.stringify(kept).length;
  while (kept.length > REVISIONS_MAX || (kept.length > 1 && length > STACK_LENGTH_MAX)) {
    length -= JSON.stringify(kept.shift()).length + 1;
  }
  return kept;
}
