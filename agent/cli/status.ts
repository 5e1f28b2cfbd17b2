import { callAgent } from "./socket.ts";

/** GET /shoal/v1/status, indented. @throws {ClusterError} unavailable, docker. */
export async function printStatus(socket: string): Promise<void> {
  const response = await callAgent(socket, "/shoal/v1/status");
  process.stdout.write(`${JSON.stringify(await response.json(), null, 2)}\n`);
}
