/** `shoal stack …`: compose files as stacks of the cluster, by the agent's /shoal/v1/stacks. */
import { isUtf8 } from "node:buffer";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { parseEnv } from "node:util";
import { ClusterError } from "../../core/errors.ts";
import type {
  PlanAnswer,
  RollbackRequestBody,
  StackDetails,
  StackRequestBody,
  StackSummary,
} from "../api/stacks.ts";
import { neededContents } from "../stacks/compose/compose.ts";
import { callAgent } from "./socket.ts";
import { ago, table } from "./table.ts";

const POLL_MS = 500;
const WAIT_S_DEFAULT = 600;

export type FileFlags = {
  composeFile: string[];
  envFile?: string;
  prune: boolean;
  resolveImage: "always" | "changed" | "never";
  withRegistryAuth?: boolean;
  socket: string;
};
export type RollbackFlags = { revision?: string; plan?: boolean; withRegistryAuth?: boolean };
export type WaitFlags = { detach?: boolean; timeout?: string; socket: string };

/** @throws {ClusterError} as the other verbs here: what the agent refused, or what cannot be read. */
export async function planDeployment(
  name: string,
  flags: FileFlags & { json?: boolean },
): Promise<void> {
  const answer = await send<PlanAnswer>(
    flags.socket,
    `${pathOf(name)}/plan`,
    "POST",
    requestOf(flags),
  );
  if (flags.json === true) process.stdout.write(`${JSON.stringify(answer, null, 2)}\n`);
  else process.stdout.write(`${renderPlan(answer)}\n`);
}

export async function deployStack(
  name: string,
  flags: FileFlags & WaitFlags & { token?: string },
): Promise<void> {
  waitSecondsOf(flags);
  const request = { ...requestOf(flags), Token: flags.token ?? "" };
  const answer = await send<PlanAnswer>(flags.socket, pathOf(name), "PUT", request);
  process.stdout.write(`${renderPlan(answer, true)}\n`);
  await untilSettled(name, flags);
}

export async function rollBackStack(name: string, flags: WaitFlags & RollbackFlags): Promise<void> {
  waitSecondsOf(flags);
  const query = new URLSearchParams({
    ...(flags.revision === undefined ? {} : { revision: flags.revision }),
    ...(flags.plan === true ? { plan: "1" } : {}),
  });
  const path = `${pathOf(name)}/rollback?${query.toString()}`;
  const body: RollbackRequestBody =
    flags.withRegistryAuth === true ? { RegistryAuth: registryAuths() } : {};
  const answer = await send<PlanAnswer>(flags.socket, path, "POST", body);
  process.stdout.write(`${renderPlan(answer, flags.plan !== true)}\n`);
  if (flags.plan !== true) await untilSettled(name, flags);
}

export async function listStacks(socket: string): Promise<void> {
  const stacks = await get<StackSummary[]>(socket, "/shoal/v1/stacks");
  const rows = stacks.map((one) => [
    one.Name,
    String(one.Revision),
    `${one.SettledCount}/${one.ServiceCount}`,
    one.State,
    ago(one.UpdatedAt, Date.now()),
  ]);
  process.stdout.write(`${table(["NAME", "REVISION", "SERVICES", "STATE", "UPDATED"], rows)}\n`);
}

export async function showStack(
  name: string,
  flags: { json?: boolean; files?: boolean; revision?: string; socket: string },
): Promise<void> {
  if (flags.files === true) {
    const path =
      flags.revision === undefined ? "" : `/revisions/${encodeURIComponent(flags.revision)}`;
    const { Files } = await get<Pick<StackDetails, "Files">>(
      flags.socket,
      `${pathOf(name)}${path}`,
    );
    process.stdout.write(Files.map(({ Text }) => Text).join("\n---\n"));
    return;
  }
  const stack = await get<StackDetails>(flags.socket, pathOf(name));
  if (flags.json === true) process.stdout.write(`${JSON.stringify(stack, null, 2)}\n`);
  else process.stdout.write(`${renderStack(stack, Date.now())}\n`);
}

export async function removeStack(name: string, socket: string): Promise<void> {
  await callAgent(socket, pathOf(name), { method: "DELETE" });
  process.stdout.write(`Removed stack ${name}\n`);
}

// ---- calls ------------------------------------------------------------------------------------

function pathOf(name: string): string {
  return `/shoal/v1/stacks/${encodeURIComponent(name)}`;
}

async function get<T>(socket: string, path: string): Promise<T> {
  const answer = await callAgent(socket, path);
  // The agent is this binary.
  return (await answer.json()) as T;
}

async function send<T>(
  socket: string,
  path: string,
  method: "POST" | "PUT",
  body: unknown,
): Promise<T> {
  const headers = { "content-type": "application/json" };
  const answer = await callAgent(socket, path, { method, headers, body: JSON.stringify(body) });
  // As above.
  return (await answer.json()) as T;
}

/**
 * The files, and what they need from here: variables, of the environment and of `.env` beside the first file (or
 * of --env-file), and the files that they name, found beside the first file too.
 */
function requestOf(flags: FileFlags): StackRequestBody {
  const [first = ""] = flags.composeFile;
  const dir = first === "-" ? process.cwd() : dirname(resolve(first));
  const files = flags.composeFile.map((path) => ({
    name: path === "-" ? "standard input" : basename(path),
    text: readText(path === "-" ? "/dev/stdin" : path),
  }));
  const envFile = flags.envFile ?? join(dir, ".env");
  const isEnvFile = flags.envFile !== undefined || existsSync(envFile);
  const given = isEnvFile ? parseEnv(readText(envFile)) : {};
  const env: Record<string, string> = {};
  // Relative sources of binds are beside the first file, too.
  for (const [key, value] of Object.entries({ ...given, ...process.env, PWD: dir })) {
    if (value !== undefined) env[key] = value;
  }
  const Contents: Record<string, string> = {};
  for (const path of neededContents({ files, env })) {
    const found = resolve(dir, path.replace(/^~(?=\/)/, homedir()));
    // What is not there may be optional: who needs it says so, with its place in the file.
    if (existsSync(found)) Contents[path] = readNamed(found).toString("base64");
  }
  return {
    Files: files.map(({ name: Name, text: Text }) => ({ Name, Text })),
    Env: env,
    Contents,
    Prune: flags.prune,
    ResolveImage: flags.resolveImage,
    ...(flags.withRegistryAuth === true ? { RegistryAuth: registryAuths() } : {}),
  };
}

function readNamed(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ClusterError("invalid-argument", `Cannot read ${path}: ${String(error)}`);
  }
}

/** The agent is sent text: what is none would be other text there. */
function readText(path: string): string {
  const bytes = readNamed(path);
  if (isUtf8(bytes)) return bytes.toString("utf8");
  throw new ClusterError(
    "invalid-argument",
    `Cannot read ${path}: it is not text in UTF-8; save it as such`,
  );
}

/** What `docker login` has left here. Source: docker CLI, cli/config. */
function registryAuths(): Record<string, string> {
  const path = join(process.env["DOCKER_CONFIG"] ?? join(homedir(), ".docker"), "config.json");
  if (!existsSync(path)) return {};
  let config: { auths?: Record<string, { auth?: string }>; credsStore?: string };
  try {
    config = JSON.parse(readNamed(path).toString("utf8")) as typeof config;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ClusterError("invalid-argument", `Cannot read ${path}: ${error.message}`);
  }
  if (config.credsStore) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot use --with-registry-auth: ${path} keeps credentials in the helper ${config.credsStore}, which is not asked; use docker login without one, or docker stack deploy`,
    );
  }
  const auths: Record<string, string> = {};
  for (const [serveraddress, { auth }] of Object.entries(config.auths ?? {})) {
    if (!auth) continue;
    const [username = "", ...password] = Buffer.from(auth, "base64").toString("utf8").split(":");
    const text = JSON.stringify({ username, password: password.join(":"), serveraddress });
    const host = serveraddress.replace(/^https?:\/\//, "").split("/")[0] ?? "";
    auths[host === "index.docker.io" ? "docker.io" : host] =
      Buffer.from(text).toString("base64url");
  }
  return auths;
}

/** @throws {ClusterError} invalid-argument */
function waitSecondsOf({ timeout }: WaitFlags): number {
  const seconds = Number(timeout ?? WAIT_S_DEFAULT);
  if (seconds > 0) return seconds;
  throw new ClusterError(
    "invalid-argument",
    `Cannot wait for ${JSON.stringify(timeout)}: give seconds`,
  );
}

const SETTLED = ["scheduled", "completed", "running"];

/** @throws {ClusterError} failed-precondition when an update was given up, deadline when it takes too long. */
async function untilSettled(name: string, flags: WaitFlags): Promise<void> {
  if (flags.detach === true) return;
  const waitS = waitSecondsOf(flags);
  const endsAtMs = Date.now() + waitS * 1_000;
  const told = new Map<string, string>();
  for (;;) {
    const stack = await get<StackDetails>(flags.socket, pathOf(name));
    for (const one of stack.Services) {
      const line = progressOf(one);
      if (told.get(one.Name) !== line) process.stdout.write(`${line}\n`);
      told.set(one.Name, line);
    }
    const { State: state } = stack;
    if (SETTLED.includes(state)) return;
    const open = stack.Services.filter((one) => !SETTLED.includes(one.State));
    const tell = open.map((one) => `  ${progressOf(one)}`).join("\n");
    if (["failed", "paused", "rolled-back", "missing"].includes(state)) {
      throw new ClusterError(
        "failed-precondition",
        `Stack ${name} is not as it was to be:\n${tell}\nshoal why <service> tells more; shoal stack rollback ${name} goes back`,
      );
    }
    if (Date.now() > endsAtMs) {
      throw new ClusterError(
        "deadline",
        `Stack ${name} is not there after ${waitS} s, and goes on by itself:\n${tell}\nshoal why <service> tells more`,
      );
    }
    await Bun.sleep(POLL_MS);
  }
}

// ---- text -------------------------------------------------------------------------------------

function progressOf(one: StackDetails["Services"][number]): string {
  const done = one.Completed > 0 ? `, ${one.Completed} completed` : "";
  const reason = one.Reason === undefined ? "" : `: ${one.Reason}`;
  return `${one.Name}  ${one.State}  ${one.Running}/${one.Desired}${done}${reason}`;
}

const SIGNS = { create: "+", update: "~", remove: "-", keep: "=" } as const;
/** Longer values are cut: they are in the file. */
const VALUE_LENGTH_MAX = 80;

/** A plan, or what a deployment has done. */
export function renderPlan(answer: PlanAnswer, isDone = false): string {
  const lines = answer.Warnings.map((text) => `warning: ${text}`);
  for (const change of answer.Changes) {
    if (change.Action === "keep") continue;
    const effect = change.Effect === undefined ? "" : `  (${change.Effect})`;
    lines.push(`${SIGNS[change.Action]} ${change.Kind} ${change.Name}${effect}`);
    for (const { Path, From, To } of change.Fields ?? []) {
      lines.push(
        `    ${Path}${From === undefined && To === undefined ? "" : `: ${arrow(From, To)}`}`,
      );
    }
  }
  const kept = answer.Changes.filter(({ Action }) => Action === "keep").length;
  if (kept > 0) lines.push(`= ${kept} as ${kept === 1 ? "it is" : "they are"}`);
  if (!answer.IsChange) lines.push(`Nothing to change: revision ${answer.Revision} is as wanted.`);
  else if (isDone) lines.push(`Revision ${answer.Revision}.`);
  else lines.push(`Would be revision ${answer.Revision}. To do just this: --token ${answer.Token}`);
  return lines.join("\n");
}

function arrow(from: unknown, to: unknown): string {
  if (from === undefined) return `+ ${value(to)}`;
  return to === undefined ? `- ${value(from)}` : `${value(from)} → ${value(to)}`;
}

function value(given: unknown): string {
  const text = JSON.stringify(given);
  return text.length > VALUE_LENGTH_MAX ? `${text.slice(0, VALUE_LENGTH_MAX)}…` : text;
}

/** A stack with its services and revisions. */
export function renderStack(stack: StackDetails, nowMs: number): string {
  const services = stack.Services.map((one) => [
    one.Name,
    one.State,
    `${one.Running}/${one.Desired}${one.Completed > 0 ? ` (${one.Completed} completed)` : ""}`,
    one.Image.replace(/@sha256:.*/, ""),
    one.Reason ?? "",
  ]);
  const revisions = stack.Revisions.toReversed().map((one, index) => [
    String(one.Number),
    ago(one.At, nowMs),
    String(one.Services),
    [index === 0 ? "current" : "", one.Repeats === undefined ? "" : `as revision ${one.Repeats}`]
      .filter(Boolean)
      .join(", "),
  ]);
  const others = [
    ["networks", stack.Networks],
    ["secrets", stack.Secrets],
    ["configs", stack.Configs],
  ] as const;
  return [
    `${stack.Name}, revision ${stack.Revision}: ${stack.State}`,
    table(["SERVICE", "STATE", "TASKS", "IMAGE", "REASON"], services),
    ...others.flatMap(([kind, names]) =>
      names.length === 0 ? [] : [`${kind}: ${names.join(", ")}`],
    ),
    table(["REVISION", "MADE", "SERVICES", ""], revisions),
  ].join("\n\n");
}
