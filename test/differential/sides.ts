/**
 * The two clusters of a differential run: `stock` is dockerd's own swarm, `shoal` is shoal beside the
 * same dockerd. Each is a lab of its own with the same host names and addresses.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type CommandResult, tryRun } from "../../scripts/lab/command.ts";
import { createLab, type Lab } from "../../scripts/lab/lab.ts";
import { allowSwarm } from "../../scripts/lab/stock-swarm.ts";
import { hasDoubtfulWord, idsIn, type Known } from "./normalise.ts";

export type SideName = "stock" | "shoal";

export type Side = {
  name: SideName;
  lab: Lab;
  saved: Map<string, string>;
  ids: Set<string>;
  /** Runs a line of the shell with `docker` on host number `host`. */
  shell(line: string, cwd: string, host: number, timeoutMs: number): Promise<CommandResult>;
  request(
    host: number,
    method: string,
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    timeoutMs: number,
  ): Promise<HttpAnswer>;
  /** Starts what the cluster is made of on a host anew: the engine of stock, the agent of shoal. */
  restart(host: number): Promise<void>;
  /** What to replace in texts; asks the cluster for ids that the texts may have shortened. */
  known(texts: Iterable<string>): Promise<Known>;
};

export type HttpAnswer = { status: number; headers: Headers; text: string };

const LAB_HOSTS = 2;

export async function makeSides(
  binary: string | undefined,
  progress: (line: string) => void,
): Promise<Side[]> {
  const names: SideName[] = ["stock", "shoal"];
  const made = await Promise.allSettled(
    names.map(async (name) => {
      const lab = await createLab({
        hosts: LAB_HOSTS,
        agents: name === "shoal",
        ...(binary === undefined ? {} : { binary }),
        onProgress: (line) => progress(`${name}: ${line}`),
      });
      if (name === "stock") await allowSwarm(lab);
      return makeSide(name, lab);
    }),
  );
  const sides = made.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failure = made.find((result) => result.status === "rejected");
  if (failure) {
    await Promise.allSettled(sides.map((side) => side.lab.down()));
    throw failure.reason;
  }
  return sides;
}

function makeSide(name: SideName, lab: Lab): Side {
  const socket = (host: number) =>
    name === "stock" ? lab.host(host).engineSocket() : lab.host(host).agentSocket();
  const configDir = join(lab.dir, "docker-config");
  mkdirSync(configDir, { recursive: true });
  const side: Side = {
    name,
    lab,
    saved: new Map(),
    ids: new Set(),
    shell: (line, cwd, host, timeoutMs) =>
      tryRun(["sh", "-c", `cd ${cwd} && ${line}`], {
        timeoutMs,
        env: {
          DOCKER_HOST: `unix://${socket(host)}`,
          DOCKER_CONFIG: configDir,
          DOCKER_CLI_HINTS: "false",
          DOCKER_CONTEXT: "",
        },
      }),
    request: async (host, method, path, body, headers, timeoutMs) => {
      const answer = await fetch(`http://d${path}`, {
        unix: socket(host),
        method,
        headers: {
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body }),
        // A client would follow; what is compared is the answer.
        redirect: "manual",
        signal: AbortSignal.timeout(timeoutMs),
      });
      return { status: answer.status, headers: answer.headers, text: await answer.text() };
    },
    restart: async (index) => {
      const host = lab.host(index);
      if (name === "stock") {
        await host.stopDockerd();
        await host.startDockerd({ "live-restore": false });
      } else {
        await host.killAgent("SIGTERM");
        await host.startAgent();
      }
    },
    known: async (given) => {
      const texts = [...given];
      for (const text of texts) for (const id of idsIn(text)) side.ids.add(id);
      if (texts.some(hasDoubtfulWord)) {
        for (const path of ["/nodes", "/services", "/tasks", "/networks", "/secrets", "/configs"]) {
          const answer = await side.request(1, "GET", path, undefined, {}, 10_000);
          for (const id of idsIn(answer.text)) side.ids.add(id);
        }
      }
      return { saved: side.saved, ids: side.ids };
    },
  };
  return side;
}
