/**
 * What a case of the differential run is: a few lines that both clusters are told, and short words to
 * write them. `$name` in a line, path or body stands for a value that an earlier step of the case
 * saved on that side (`{ save: "name" }`); `$node` is host 1's node, `$worker` host 2's, `$reg` the
 * registry's address, `$key` the unlock key.
 */

export type StepOptions = {
  /** Keeps the trimmed output (or the answer's `ID`/`Id`, else what `pick` gives) as `$save`. */
  save?: string;
  /** Path of keys into a JSON answer for `save`, joined by dots. */
  pick?: string;
  /** Not compared, but it must succeed on both sides. */
  setup?: boolean;
  /** Neither compared nor required to succeed: tidying up. */
  ignored?: boolean;
  /** Repeated until the raw output matches, on each side; then compared as others (unless setup). */
  until?: RegExp;
  /** Places (see compare.ts) that differ by nature, from run to run on one and the same engine. */
  volatile?: RegExp;
  /** Which host is asked, counted from 1. @default 1 */
  host?: number;
  timeoutMs?: number;
};

export type ShellStep = StepOptions & { kind: "sh"; line: string };
export type HttpStep = StepOptions & {
  kind: "http";
  method: string;
  path: string;
  /** Texts are sent as they are, other values as JSON. */
  body?: unknown;
  headers?: Record<string, string>;
};
export type Step = ShellStep | HttpStep;

export type Case = {
  /** `group/subject: what`; unique. */
  name: string;
  steps: Step[];
  /** Written into the directory in which the lines run. */
  files?: Record<string, string>;
};

/** A shell line; `docker` is the stock CLI on the side's socket. */
export const sh = (line: string, options: StepOptions = {}): Step => ({
  kind: "sh",
  line,
  ...options,
});
/** A line that must succeed on both sides and is not compared. */
export const setup = (line: string, options: StepOptions = {}): Step =>
  sh(line, { ...options, setup: true });

export const http = (
  method: string,
  path: string,
  body?: unknown,
  options: StepOptions & { headers?: Record<string, string> } = {},
): Step => ({ kind: "http", method, path, ...(body === undefined ? {} : { body }), ...options });
export const get = (path: string, options: StepOptions = {}): Step =>
  http("GET", path, undefined, options);
export const post = (path: string, body?: unknown, options: StepOptions = {}): Step =>
  http("POST", path, body, options);
export const del = (path: string, options: StepOptions = {}): Step =>
  http("DELETE", path, undefined, options);

/** `filters` as clients send it. */
export const filters = (value: unknown): string =>
  `filters=${encodeURIComponent(typeof value === "string" ? value : JSON.stringify(value))}`;

/** `docker service create` of a service of the lab's image that no registry is asked about. */
export const create = (flags: string, rest = ""): string =>
  `docker service create -d --no-resolve-image ${flags} lab:latest ${rest}`.trimEnd();

/** One case for each line of a table: its name and what is said. */
export function table(group: string, lines: Record<string, string | Step[]>): Case[] {
  return Object.entries(lines).map(([name, line]) => ({
    name: `${group}: ${name}`,
    steps: typeof line === "string" ? [sh(line)] : line,
  }));
}

type Json = Record<string, unknown>;
const asJson = (value: unknown): Json =>
  // Only called with objects that the cases write themselves.
  (value ?? {}) as Json;

/** The least body of POST /services/create; nothing of it runs. `set` goes on top, two levels deep. */
export function spec(name: string, set: Json = {}): Json {
  const { container, template, ...rest } = set;
  return {
    Name: name,
    TaskTemplate: {
      ContainerSpec: { Image: "lab:latest", ...asJson(container) },
      ...asJson(template),
    },
    Mode: { Replicated: { Replicas: 0 } },
    ...rest,
  };
}
