/**
 * Immutable reads over the replicated state. Planners, the dispatcher and the API see the cluster
 * only through this type. Backed by one SQLite read transaction, or by maps in the state worker and
 * in tests. Every list is ordered by id unless said otherwise; objects must not be changed.
 */
import type { RaftIndex } from "../ids.ts";
import type { Attachment } from "../objects/attachment.ts";
import type { Cluster } from "../objects/cluster.ts";
import type { Network } from "../objects/network.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Config, Secret } from "../objects/secret.ts";
import type { Service } from "../objects/service.ts";
import type { Stack } from "../objects/stack.ts";
import type { Task } from "../objects/task.ts";

export type ClusterView = {
  /** Index of the last applied entry that this view contains. */
  readonly index: RaftIndex;
  cluster(): Cluster | undefined;
  node(id: string): NodeObject | undefined;
  nodes(): readonly NodeObject[];
  network(id: string): Network | undefined;
  networkByName(name: string): Network | undefined;
  networks(): readonly Network[];
  service(id: string): Service | undefined;
  serviceByName(name: string): Service | undefined;
  services(): readonly Service[];
  task(id: string): Task | undefined;
  tasks(): readonly Task[];
  tasksByService(serviceId: string): readonly Task[];
  tasksByNode(nodeId: string): readonly Task[];
  secret(id: string): Secret | undefined;
  secretByName(name: string): Secret | undefined;
  secrets(): readonly Secret[];
  config(id: string): Config | undefined;
  configByName(name: string): Config | undefined;
  configs(): readonly Config[];
  attachment(id: string): Attachment | undefined;
  attachments(): readonly Attachment[];
  stack(id: string): Stack | undefined;
  stackByName(name: string): Stack | undefined;
  stacks(): readonly Stack[];
};
