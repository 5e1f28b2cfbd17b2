/**
 * What a peer may send: the role each method and note needs, and the shape of its parameters. The
 * border of the RPC: behind it, types are trusted. Unknown fields are dropped (a newer build may
 * send them). Texts and lists have bounds, so that no request is larger than what it is for.
 */
import { z } from "zod";
import type { AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import {
  ADDRESSES6_MAX,
  type NodeDescription,
  type NodeEncryption,
} from "../../core/objects/node.ts";
import { TASK_STATE_ORDER, type TaskState, type TaskStatus } from "../../core/objects/task.ts";
import type { LogOpen, LogTask, RpcMethod, RpcMethods, RpcNote, RpcNotes } from "./methods.ts";

/** `any`: no certificate; `worker`: any node of the cluster; `manager`: OU swarm-manager. */
export const METHOD_ROLES: { [M in RpcMethod]: RpcMethods[M]["role"] } = {
  "issue-certificate": "any",
  form: "any",
  "renew-certificate": "worker",
  "session-open": "worker",
  heartbeat: "worker",
  "report-status": "worker",
  attach: "worker",
  detach: "worker",
  "mesh-state": "worker",
  "node-leave": "worker",
  propose: "manager",
  "raft-join": "manager",
  "raft-leave": "manager",
  "data-keys": "manager",
  "cluster-status": "manager",
  "net-doctor": "manager",
  "net-check": "manager",
};
export const NOTE_ROLES: { [N in RpcNote]: RpcNotes[N]["role"] } = {
  raft: "manager",
  assignments: "manager",
  "assignments-applied": "worker",
  "session-end": "manager",
  "logs-open": "manager",
  "logs-more": "manager",
  "logs-grant": "manager",
  "logs-close": "manager",
  "logs-data": "worker",
  "logs-end": "worker",
};

/** Of a sealed message between hosts that form a cluster; the largest holds two join tokens. */
export const FORM_BYTES_MAX = 4_096;

/** Names of one container on a network, and addresses given back at once. */
const ALIASES_MAX = 100;
export const DETACH_MAX = 1_000;

/** There are two of each at most. */
const ENCRYPTION_LIST_MAX = 4;
/** Of kinds of objects; newer versions know more. */
const KINDS_MAX = 64;

/** Statuses in one report; the agent's batches are smaller. */
export const STATUSES_MAX = 1_000;

/** Tasks of one node in one message about logs. */
export const LOG_TASKS_MAX = 10_000;

/** Every field of a type, optional ones too: one that a schema forgets would be dropped in silence. */
type Fields<T> = Record<keyof T, z.ZodType>;

const shortText = z.string().max(256);
const text = z.string().max(4_096);
const pem = z.string().max(16_384);
const labels = z.record(text, text);
const count = z.number().int().nonnegative();
/** An instance check that keeps msgpackr's Buffer as what it is. */
const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, "Expected bytes");
const nothing = z.object({}).transform((): Record<string, never> => ({}));

const description = z.object({
  Hostname: shortText,
  Platform: z.object({ Architecture: shortText, OS: shortText }),
  Resources: z.object({
    NanoCPUs: count,
    MemoryBytes: count,
    GenericResources: z.array(z.unknown()).max(256).exactOptional(),
  }),
  Engine: z.object({
    EngineVersion: shortText,
    Labels: labels.exactOptional(),
    Plugins: z
      .array(z.object({ Type: shortText, Name: text }))
      .max(1_024)
      .exactOptional(),
  }),
  TLSInfo: z
    .object({ TrustRoot: pem, CertIssuerSubject: pem, CertIssuerPublicKey: pem })
    .exactOptional(),
  addresses6: z.array(shortText).max(ADDRESSES6_MAX).exactOptional(),
  knows: z.array(shortText).max(KINDS_MAX).exactOptional(),
} satisfies Fields<NodeDescription>);

const encryption = z.object({
  lack: text.exactOptional(),
  generations: z.array(shortText).max(ENCRYPTION_LIST_MAX),
  keyIds: z.array(shortText).max(ENCRYPTION_LIST_MAX),
} satisfies Fields<NodeEncryption>);

// The keys of a constant object are exactly the union.
const taskState = z.enum(Object.keys(TASK_STATE_ORDER) as [TaskState, ...TaskState[]]);
const taskStatus = z.object({
  state: taskState,
  atMs: z.number(),
  message: text,
  err: z.string().max(65_536).exactOptional(),
  container: z
    .object({ id: shortText, pid: z.number().int(), exitCode: z.number().int() })
    .exactOptional(),
  ports: z
    .array(
      z.object({
        Protocol: shortText,
        TargetPort: count,
        PublishedPort: count,
        PublishMode: z.literal("host"),
      }),
    )
    .max(1_024)
    .exactOptional(),
} satisfies Fields<TaskStatus>);

export const PARAMS_SCHEMAS: { [M in RpcMethod]: z.ZodType<RpcMethods[M]["params"]> } = {
  "issue-certificate": z.object({
    csrPem: pem,
    token: shortText,
    availability: z.enum(["active", "pause", "drain"]),
    hostname: shortText,
    dataPathAddr: shortText,
  }),
  form: z.object({ sealed: bytes.refine((sealed) => sealed.length <= FORM_BYTES_MAX) }),
  "renew-certificate": z.object({ csrPem: pem }),
  "session-open": z.object({ description, dataPathAddr: shortText }),
  heartbeat: z.object({ sessionId: shortText }),
  "report-status": z.object({
    sessionId: shortText,
    statuses: z.array(z.object({ taskId: shortText, status: taskStatus })).max(STATUSES_MAX),
  }),
  attach: z.object({
    network: shortText,
    name: shortText,
    aliases: z.array(shortText).max(ALIASES_MAX),
    address: shortText.exactOptional(),
  }),
  detach: z.object({ ids: z.array(shortText).max(DETACH_MAX) }),
  "mesh-state": z.object({ encryption }),
  "node-leave": z.object({ force: z.boolean() }),
  propose: z.object({ data: bytes, term: count.exactOptional() }),
  "raft-join": z.object({ addr: shortText }),
  "raft-leave": nothing,
  "data-keys": nothing,
  "cluster-status": nothing,
  "net-doctor": z.object({ node: shortText.exactOptional() }),
  "net-check": nothing,
};

const stream = count;
const logTasks = z
  .array(
    z.object({
      id: shortText,
      container: shortText,
      isTty: z.boolean(),
      tail: count.exactOptional(),
      since: shortText.exactOptional(),
    } satisfies Fields<LogTask>),
  )
  .max(LOG_TASKS_MAX);
const logOpen = z.object({
  nodeId: shortText,
  tasks: logTasks,
  stdout: z.boolean(),
  stderr: z.boolean(),
  follow: z.boolean(),
  details: z.boolean(),
  windowBytes: count,
} satisfies Fields<LogOpen>);

/**
 * Most notes come from managers, whose objects are the cluster's state already: assignments are
 * checked for their frame, not item by item (a set has tens of thousands of them).
 */
export const NOTE_SCHEMAS: { [N in RpcNote]: z.ZodType<RpcNotes[N]["body"]> } = {
  raft: z.object({ data: bytes }),
  assignments: z.object({
    sessionId: shortText,
    message: z.object({
      type: z.enum(["complete", "incremental"]),
      generation: z.number().int().positive(),
      put: z.array(z.custom<RpcNotes["assignments"]["body"]["message"]["put"][number]>(isItem)),
      removed: z.array(z.string()),
      isAckWanted: z.literal(true).exactOptional(),
    } satisfies Fields<AssignmentsMessage>),
  }),
  "assignments-applied": z.object({ sessionId: shortText, generation: count }),
  "session-end": z.object({ sessionId: shortText, reason: text }),
  "logs-open": z.object({ stream, open: logOpen }),
  "logs-more": z.object({ stream, tasks: logTasks }),
  "logs-grant": z.object({ stream, bytes: count }),
  "logs-close": z.object({ stream }),
  "logs-data": z.object({ stream, data: bytes }),
  "logs-end": z.object({ stream, taskCount: count, reason: text.exactOptional() }),
};

export function isRpcMethod(name: string): name is RpcMethod {
  return Object.hasOwn(METHOD_ROLES, name);
}
export function isRpcNote(name: string): name is RpcNote {
  return Object.hasOwn(NOTE_ROLES, name);
}

function isItem(value: unknown): boolean {
  return (
    typeof value === "object" &&
    value !== null &&
    "key" in value &&
    typeof value.key === "string" &&
    "kind" in value &&
    typeof value.kind === "string" &&
    "body" in value &&
    typeof value.body === "object"
  );
}
