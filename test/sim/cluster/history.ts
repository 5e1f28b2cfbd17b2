/**
 * What was committed, told once per index whichever replica applies it first: the reference that the
 * checkers hold everything else against.
 */
import type { RaftIndex } from "../../../core/ids.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { NodeObject } from "../../../core/objects/node.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import type { Change, Outcome } from "../../../core/store/action.ts";

export type AppliedEntry = {
  index: RaftIndex;
  proposalId: string | undefined;
  outcome: Outcome | undefined;
  changes: readonly Change[];
  /** Virtual time at which the first replica applied it. */
  atMs: number;
};

/** One change with the object before it, and the state around it. */
export type Step = {
  entry: AppliedEntry;
  change: Change;
  /** Absent for a creation. */
  before: Change["object"] | undefined;
  history: History;
};

export type History = {
  lastIndex(): RaftIndex;
  at(index: RaftIndex): AppliedEntry | undefined;
  /** The newest state. */
  tasks: ReadonlyMap<string, Task>;
  services: ReadonlyMap<string, Service>;
  nodes: ReadonlyMap<string, NodeObject>;
  networks: ReadonlyMap<string, Network>;
  /** Versions that an object had, oldest first; a removal as `undefined`. Key: `<table>/<id>`. */
  versions(key: string): readonly { index: RaftIndex; object: Change["object"] | undefined }[];
  /** Entries in which a proposal was found. */
  entriesOf(proposalId: string): readonly AppliedEntry[];
};

export type Recorder = {
  history: History;
  /** Takes the entry unless it is known; `onStep` is called after each change, when it is new. */
  record(entry: AppliedEntry, onStep: (step: Step) => void): boolean;
};

export function createRecorder(): Recorder {
  const entries: AppliedEntry[] = [];
  const tasks = new Map<string, Task>();
  const services = new Map<string, Service>();
  const nodes = new Map<string, NodeObject>();
  const networks = new Map<string, Network>();
  const versions = new Map<string, { index: RaftIndex; object: Change["object"] | undefined }[]>();
  const byProposal = new Map<string, AppliedEntry[]>();
  const history: History = {
    lastIndex: () => entries.length,
    at: (index) => entries[index - 1],
    tasks,
    services,
    nodes,
    networks,
    versions: (key) => versions.get(key) ?? [],
    entriesOf: (proposalId) => byProposal.get(proposalId) ?? [],
  };
  const put = (change: Change) => {
    const keep = <T>(table: Map<string, T>, object: T) => {
      if (change.kind === "remove") table.delete(change.id);
      else table.set(change.id, object);
    };
    if (change.table === "task") keep(tasks, change.object);
    if (change.table === "service") keep(services, change.object);
    if (change.table === "node") keep(nodes, change.object);
    if (change.table === "network") keep(networks, change.object);
  };
  return {
    history,
    record: (entry, onStep) => {
      if (entry.index <= entries.length) return false;
      if (entry.index !== entries.length + 1) {
        throw new Error(`Entry ${entry.index} is applied first after ${entries.length}`);
      }
      entries.push(entry);
      if (entry.proposalId !== undefined) {
        const known = byProposal.get(entry.proposalId);
        if (known) known.push(entry);
        else byProposal.set(entry.proposalId, [entry]);
      }
      for (const change of entry.changes) {
        const key = `${change.table}/${change.id}`;
        const list = versions.get(key) ?? [];
        const before = list.at(-1)?.object;
        list.push({
          index: entry.index,
          object: change.kind === "remove" ? undefined : change.object,
        });
        versions.set(key, list);
        put(change);
        onStep({ entry, change, before, history });
      }
      return true;
    },
  };
}

/** The version that an object had once `index` was applied; `undefined` when it was not there. */
export function objectAt(
  history: History,
  key: string,
  index: RaftIndex,
): Change["object"] | undefined {
  let found: Change["object"] | undefined;
  for (const version of history.versions(key)) {
    if (version.index > index) break;
    found = version.object;
  }
  return found;
}
