/**
 * Write load on a cluster through every host's socket, recorded for the checker.
 *
 * A key is a config; its value is a label. A compare-and-set is an update with the version that came
 * with the value read before: versions and values belong together one to one, which is checked too.
 * Values are unique, so every read says which write it saw. No answer, a closed connection and an
 * answer other than yes or "out of sequence" are unknown outcomes.
 *
 * Connections are never reused: a client that repeats a request on a connection that turned out to
 * be closed would make two of one.
 */
import { STALE_HEADER } from "../../../agent/api/stale.ts";
import type { Host } from "../../../scripts/lab/host.ts";
import type { Operation, Value } from "../../checkers/linearizability.ts";
import { hostPath } from "./cluster.ts";

export type LoadOptions = {
  hosts: readonly Host[];
  /** Prefix of all names, of letters and digits. */
  name: string;
  /** @default 2 */
  clientsPerHost?: number;
  /** Keys that all clients fight for. @default 4 */
  keyCount?: number;
  /** @default Math.random */
  random?: () => number;
};

export type Load = {
  readonly history: readonly Operation[];
  /** What came back instead of an answer, by text, with its count. */
  readonly strange: ReadonlyMap<string, number>;
  /** A version that was seen with two values. */
  readonly versionFaults: readonly string[];
  /** Ends the clients; operations under way are waited for. */
  stop(): Promise<void>;
  /** Every key once more through this host, into the history. */
  readAll(host: Host): Promise<void>;
};

export const REQUEST_TIMEOUT_MS = 4_000;
const PAUSE_MS = 15;
/** After a failure, so that a dead host's clients do not spin. */
const PAUSE_AFTER_FAILURE_MS = 100;
const LABEL = "value";

type Config = { ID: string; Version: { Index: number }; Spec: ConfigSpec };
type ConfigSpec = { Name: string; Labels?: Record<string, string>; Data?: string };
export type Reply = {
  status: number;
  text: string;
  /** Answered without a leader, and marked so: true once, but perhaps overtaken. */
  isStale: boolean;
};

/** One request on a connection of its own. @throws when no whole answer came. */
export async function request(
  host: Host,
  path: string,
  options: { body?: unknown; timeoutMs?: number } = {},
): Promise<Reply> {
  const response = await fetch(`http://d${path}`, {
    // Not host.agentSocket(): that looks the holder up anew.
    unix: hostPath(host, "/run/shoal/docker.sock"),
    keepalive: false,
    signal: AbortSignal.timeout(options.timeoutMs ?? REQUEST_TIMEOUT_MS),
    ...(options.body === undefined
      ? {}
      : {
          method: "POST",
          headers: { "content-type": "application/json", connection: "close" },
          body: JSON.stringify(options.body),
        }),
  });
  const isStale = response.headers.has(STALE_HEADER);
  return { status: response.status, text: await response.text(), isStale };
}

export function createConfig(host: Host, name: string, value: string, timeoutMs?: number) {
  const body = { Name: name, Labels: { [LABEL]: value }, Data: btoa(name) };
  return request(host, "/configs/create", {
    body,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}

export function startLoad(options: LoadOptions): Load {
  const random = options.random ?? Math.random;
  const keyCount = options.keyCount ?? 4;
  const history: Operation[] = [];
  const strange = new Map<string, number>();
  const versionFaults: string[] = [];
  const valueOf = new Map<string, Value>();
  let isOver = false;
  let nextValue = 1;

  /** Records one operation; `judge` gives undefined for an answer that says nothing certain. */
  const perform = async (
    what: Pick<Operation, "process" | "key" | "op" | "value" | "expected">,
    send: () => Promise<Reply>,
    judge: (reply: Reply) => Partial<Operation> | undefined,
  ): Promise<Operation> => {
    const startMs = performance.now();
    let judged: Partial<Operation> | undefined;
    try {
      const reply = await send();
      judged = judge(reply);
      if (reply.isStale) {
        note("read marked as stale");
        judged = { ...judged, outcome: "unknown" };
      } else if (!judged) {
        note(`${reply.status} ${reply.text.slice(0, 160)}`);
      }
    } catch (error) {
      const code = (error as { code?: unknown }).code;
      note(typeof code === "string" ? code : error instanceof Error ? error.name : String(error));
    }
    const operation: Operation = {
      ...what,
      startMs,
      endMs: performance.now(),
      outcome: "unknown",
      ...judged,
    };
    history.push(operation);
    return operation;
  };
  const note = (what: string) => {
    const key = what.replaceAll(/[0-9a-z]{25}/g, "<id>").replaceAll(/\d{4,}/g, "<n>");
    strange.set(key, (strange.get(key) ?? 0) + 1);
  };
  const noteVersion = (key: string, version: number, value: Value) => {
    const name = `${key}@${version}`;
    const known = valueOf.get(name);
    if (known === undefined) valueOf.set(name, value);
    else if (known !== value) {
      versionFaults.push(`${name} was "${known}", then "${value}"`);
    }
  };

  const read = async (host: Host, process: string, key: string) => {
    let found: Config | undefined;
    const operation = await perform(
      { process, key, op: "read", value: null },
      () => request(host, `/configs/${key}`),
      (reply) => {
        if (reply.status === 404) return { outcome: "ok" };
        if (reply.status !== 200) return undefined;
        found = JSON.parse(reply.text) as Config;
        return { outcome: "ok", value: found.Spec.Labels?.[LABEL] ?? null };
      },
    );
    if (found) noteVersion(key, found.Version.Index, operation.value);
    return { operation, found };
  };

  const create = (host: Host, process: string, key: string) => {
    const value = `v${nextValue++}`;
    return perform(
      { process, key, op: "cas", expected: null, value },
      () => createConfig(host, key, value),
      ({ status }) => {
        if (status === 201) return { outcome: "ok" };
        return status === 409 ? { outcome: "fail" } : undefined;
      },
    );
  };

  const update = (host: Host, process: string, key: string, found: Config, expected: Value) => {
    const value = `v${nextValue++}`;
    const body: ConfigSpec = { Name: key, Labels: { [LABEL]: value } };
    return perform(
      { process, key, op: "cas", expected, value },
      () => request(host, `/configs/${key}/update?version=${found.Version.Index}`, { body }),
      ({ status, text }) => {
        if (status === 200) return { outcome: "ok" };
        if (text.includes("out of sequence")) return { outcome: "fail" };
        // Nothing is ever removed: who does not find it has read something old.
        if (status === 404) return { op: "read", value: null, outcome: "ok" };
        return undefined;
      },
    );
  };

  const runClient = async (host: Host, process: string) => {
    for (let count = 0; !isOver; count++) {
      const dice = random();
      let operation: Operation;
      if (dice < 0.2) {
        operation = await create(host, process, `${options.name}-${process}-${count}`);
      } else {
        const key = `${options.name}-k${Math.floor(random() * keyCount)}`;
        const seen = await read(host, process, key);
        ({ operation } = seen);
        if (dice > 0.5 && operation.outcome === "ok") {
          operation = seen.found
            ? await update(host, process, key, seen.found, operation.value)
            : await create(host, process, key);
        }
      }
      await Bun.sleep(operation.outcome === "unknown" ? PAUSE_AFTER_FAILURE_MS : PAUSE_MS);
    }
  };
  const clients = options.hosts.flatMap((host) =>
    Array.from({ length: options.clientsPerHost ?? 2 }, (_, i) =>
      runClient(host, `${host.name}c${i}`),
    ),
  );

  return {
    history,
    strange,
    versionFaults,
    stop: async () => {
      isOver = true;
      await Promise.all(clients);
    },
    readAll: async (host) => {
      const startMs = performance.now();
      const reply = await request(host, "/configs", { timeoutMs: 15_000 });
      if (reply.status !== 200) throw new Error(`${reply.status} ${reply.text}`);
      if (reply.isStale) throw new Error("The answer is marked as stale");
      const endMs = performance.now();
      const found = new Map(
        (JSON.parse(reply.text) as Config[]).map((config) => [config.Spec.Name, config]),
      );
      for (const key of new Set(history.map((operation) => operation.key))) {
        const config = found.get(key);
        const value = config?.Spec.Labels?.[LABEL] ?? null;
        if (config) noteVersion(key, config.Version.Index, value);
        const process = `${host.name}-end`;
        history.push({ process, key, op: "read", value, startMs, endMs, outcome: "ok" });
      }
    },
  };
}
