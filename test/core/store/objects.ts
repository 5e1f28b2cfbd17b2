/** Builders of drafts and proposals that take only what a test is about. */
import { defaultClusterSpec } from "../../../core/objects/cluster.ts";
import type { NetworkSpec } from "../../../core/objects/network.ts";
import type { NodeDescription } from "../../../core/objects/node.ts";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import type { TaskSpec, TaskState, TaskStatus } from "../../../core/objects/task.ts";
import { decodeProposal, encodeProposal } from "../../../core/protocol.ts";
import type {
  Change,
  CreateAction,
  Draft,
  Outcome,
  Proposal,
  StoreAction,
  TableName,
} from "../../../core/store/action.ts";
import { apply } from "../../../core/store/apply.ts";
import type { RowStore } from "../../../core/store/rows.ts";

export const AT_MS = 1_700_000_000_000;

export function create<T extends TableName>(table: T, object: Draft<T>): CreateAction {
  // The table names the draft's type, which TypeScript does not follow through a generic parameter.
  return { type: "create", table, object } as CreateAction;
}

export function clusterDraft(set: Partial<Draft<"cluster">> = {}): Draft<"cluster"> {
  return {
    id: "c1",
    spec: defaultClusterSpec(),
    rootCa: { certificatePem: "CA", keyPem: "KEY" },
    joinTokens: { worker: "w", manager: "m" },
    addressPools: ["10.0.0.0/8"],
    subnetSize: 24,
    meshPool: "10.255.0.0/16",
    dataPathPort: 4789,
    ...set,
  };
}

export function nodeDraft(
  id: string,
  index: number,
  set: Partial<Draft<"node">> = {},
): Draft<"node"> {
  return {
    id,
    spec: { Labels: {}, Role: "worker", Availability: "active" },
    status: { state: "unknown", message: "", addr: "" },
    role: "worker",
    index,
    meshAddress: `10.255.0.${index}`,
    dataPathAddr: `192.0.2.${index}`,
    ...set,
  };
}

export function networkDraft(
  id: string,
  spec: Partial<NetworkSpec> = {},
  set: Partial<Draft<"network">> = {},
): Draft<"network"> {
  return {
    id,
    spec: {
      Name: id,
      Labels: {},
      Driver: "overlay",
      Options: {},
      Internal: false,
      Attachable: false,
      Ingress: false,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: [] },
      ...spec,
    },
    ...set,
  };
}

export function serviceDraft(
  id: string,
  spec: Partial<ServiceSpec> = {},
  set: Partial<Draft<"service">> = {},
): Draft<"service"> {
  return {
    id,
    spec: { Name: id, TaskTemplate: taskSpec(), Mode: { Replicated: {} }, ...spec },
    ...set,
  };
}

export function taskSpec(
  container: Partial<TaskSpec["ContainerSpec"]> = {},
  set: Partial<TaskSpec> = {},
): TaskSpec {
  return { ContainerSpec: { Image: "busybox", ...container }, ...set };
}

export function taskDraft(
  id: string,
  serviceId: string,
  set: Partial<Draft<"task">> = {},
): Draft<"task"> {
  return {
    id,
    serviceId,
    serviceName: serviceId,
    serviceLabels: {},
    slot: 1,
    spec: taskSpec(),
    specVersion: 1,
    desiredState: "running",
    status: taskStatus("new"),
    ...set,
  };
}

export function taskStatus(state: TaskState, set: Partial<TaskStatus> = {}): TaskStatus {
  return { state, atMs: AT_MS, message: state, ...set };
}

export function secretDraft(id: string, name = id): Draft<"secret"> {
  return { id, spec: { Name: name, Labels: {}, Data: "aGVsbG8=" } };
}

export function stackDraft(id: string, name = id, networks: string[] = []): Draft<"stack"> {
  const model = {
    services: [],
    networks: networks.map((Name) => ({ Name, Labels: {} })),
    secrets: [],
    configs: [],
    externals: { networks: [], secrets: [], configs: [] },
  };
  return {
    id,
    spec: { Name: name },
    revisions: [{ number: 1, atMs: AT_MS, files: [], model, images: {} }],
  };
}

export const DESCRIPTION: NodeDescription = {
  Hostname: "host",
  Platform: { Architecture: "x86_64", OS: "linux" },
  Resources: { NanoCPUs: 2e9, MemoryBytes: 1e9 },
  Engine: { EngineVersion: "20.10.24" },
};

export function proposal(actions: StoreAction[], set: Partial<Proposal> = {}): Proposal {
  // As it would come out of the log.
  return decodeProposal(encodeProposal({ id: "p", atMs: AT_MS, mode: "all", ...set, actions }));
}

/** Applies the actions as the next entry. */
export function applyNext(
  rows: RowStore,
  actions: StoreAction[],
  set: Partial<Proposal> = {},
): { outcome: Outcome; changes: Change[] } {
  const index = rows.index + 1;
  rows.setIndex(index);
  return apply(rows, proposal(actions, set), index);
}

/** As `applyNext`, for what must succeed. */
export function applyOrThrow(rows: RowStore, ...actions: StoreAction[]): Change[] {
  const { outcome, changes } = applyNext(rows, actions);
  if (outcome.type !== "applied") throw new Error(`${outcome.code}: ${outcome.message}`);
  return changes;
}
