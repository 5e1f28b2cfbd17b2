/** Calls of the local agent's socket, for the verbs of the binary that are its clients. */
import { ClusterError } from "../../core/errors.ts";

export const DEFAULT_SOCKET = "/run/shoal/docker.sock";

/** @throws {ClusterError} unavailable when no agent answers there, docker with what it answered. */
export async function callAgent(
  socket: string,
  path: string,
  init: {
    method?: "GET" | "POST" | "PUT" | "DELETE";
    headers?: Record<string, string>;
    body?: Uint8Array<ArrayBuffer> | string;
  } = {},
): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(`http://shoal${path}`, { unix: socket, ...init });
  } catch (cause) {
    throw new ClusterError(
      "unavailable",
      `Cannot reach the agent at ${socket}: is "shoal agent" running here, and may you use its socket?`,
      { cause },
    );
  }
  if (response.ok) return response;
  throw new ClusterError("docker", await messageOf(response));
}

async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null && "message" in body) return String(body.message);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return text || `status ${response.status}`;
}

/** Runs a verb: what it refuses becomes one line on standard error and exit code 1. */
export async function orExit(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
