/**
 * References of users to objects: full id, else exact name, else a unique prefix of an id. Pure.
 * Source: moby daemon/cluster/helpers.go.
 */
import { ClusterError } from "../../core/errors.ts";
import type { Network } from "../../core/objects/network.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import type { Config, Secret } from "../../core/objects/secret.ts";
import type { Service } from "../../core/objects/service.ts";
import { type Task, taskName } from "../../core/objects/task.ts";
import type { ClusterView } from "../../core/store/view.ts";

/**
 * @throws {ClusterError} not-found `<kind> <ref> not found`; invalid-argument when ambiguous.
 */
function find<T extends { id: string }>(
  kind: string,
  ref: string,
  byId: (id: string) => T | undefined,
  all: () => readonly T[],
  hasName: (object: T, name: string) => boolean,
): T {
  const exact = byId(ref);
  if (exact) return exact;
  const objects = all();
  let found = objects.filter((object) => hasName(object, ref));
  if (found.length === 0 && ref !== "") {
    found = objects.filter((object) => object.id.startsWith(ref));
  }
  const [only] = found;
  if (!only) throw new ClusterError("not-found", `${kind} ${ref} not found`);
  if (found.length > 1) {
    throw new ClusterError(
      "invalid-argument",
      `${kind} ${ref} is ambiguous (${found.length} matches found)`,
    );
  }
  return only;
}

/** By id, host name, name given in the spec, or prefix. */
export function findNode(view: ClusterView, ref: string): NodeObject {
  return find(
    "node",
    ref,
    (id) => view.node(id),
    () => view.nodes(),
    (node, name) => namesOf(node).includes(name),
  );
}

export function findService(view: ClusterView, ref: string): Service {
  return find(
    "service",
    ref,
    (id) => view.service(id),
    () => view.services(),
    (service, name) => service.spec.Name === name,
  );
}

export function findTask(view: ClusterView, ref: string): Task {
  return find(
    "task",
    ref,
    (id) => view.task(id),
    () => view.tasks(),
    (task, name) => taskName(task) === name,
  );
}

export function findSecret(view: ClusterView, ref: string): Secret {
  return find(
    "secret",
    ref,
    (id) => view.secret(id),
    () => view.secrets(),
    (secret, name) => secret.spec.Name === name,
  );
}

export function findConfig(view: ClusterView, ref: string): Config {
  return find(
    "config",
    ref,
    (id) => view.config(id),
    () => view.configs(),
    (config, name) => config.spec.Name === name,
  );
}

export function findNetwork(view: ClusterView, ref: string): Network {
  return find(
    "network",
    ref,
    (id) => view.network(id),
    () => view.networks(),
    (network, name) => network.spec.Name === name,
  );
}

/** Stock finds a node by its host name only, also when its spec has a name. */
export function namesOf(node: NodeObject): string[] {
  return [node.description?.Hostname ?? "", node.spec.Name ?? ""].filter((name) => name !== "");
}

/** The name under which users know a node: the one they gave, else its host name. */
export function nodeName(node: NodeObject): string {
  return node.spec.Name || (node.description?.Hostname ?? "");
}
