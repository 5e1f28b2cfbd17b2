/**
 * Since which version the spec of a node, or of the cluster, is as it is now. Managers write these objects
 * too: where a node is reached, its role, its keys; right after a join several times a second. A client that
 * reads one, changes its spec and gives the version that it read must not be refused for that; it is when
 * somebody else has changed the spec meanwhile. (A service carries this version itself, as `specVersion`.)
 *
 * What this manager has applied since its start is known; before that the version alone counts.
 */
import { ClusterError } from "../../core/errors.ts";
import type { Cluster } from "../../core/objects/cluster.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import type { Change } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";

export type SpecVersions = {
  /**
   * The version under which the object is changed, given the one that the client saw.
   * @throws {ClusterError} version-conflict
   */
  seen(object: NodeObject | Cluster, version: number): number;
};
export type SpecVersionsSink = SpecVersions & {
  /** What is there when this manager starts, or after a snapshot. */
  seed(view: ClusterView): void;
  take(changes: readonly Change[]): void;
  /** This node is no manager any more. */
  clear(): void;
};

export function createSpecVersions(): SpecVersionsSink {
  const known = new Map<string, { spec: string; sinceVersion: number }>();
  const take = ({ id, version, spec }: NodeObject | Cluster) => {
    const text = JSON.stringify(spec);
    if (known.get(id)?.spec !== text) known.set(id, { spec: text, sinceVersion: version });
  };
  return {
    seen: (object, version) => {
      const { sinceVersion = object.version, spec } = known.get(object.id) ?? {};
      const isSame = version >= sinceVersion && spec === JSON.stringify(object.spec);
      if (version === object.version || (isSame && version < object.version)) return object.version;
      throw new ClusterError("version-conflict", "update out of sequence", {
        details: { version: object.version, ifVersion: version },
      });
    },
    seed: (view) => {
      known.clear();
      for (const node of view.nodes()) take(node);
      const cluster = view.cluster();
      if (cluster) take(cluster);
    },
    take: (changes) => {
      for (const change of changes) {
        if (change.table !== "node" && change.table !== "cluster") continue;
        if (change.kind === "remove") known.delete(change.id);
        else take(change.object);
      }
    },
    clear: () => known.clear(),
  };
}
