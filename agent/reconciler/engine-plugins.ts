/** The engine's calls for plugins (plugins.ts), over its socket. Source: Docker Engine API, tag Plugin. */
import { ClusterError } from "../../core/errors.ts";
import type { EnginePlugin, Plugins, Privilege } from "./plugins.ts";

const CALL_TIMEOUT_MS = 30_000;
/** A pull; the registry may be slow, and there is no progress to follow without reading it all. */
const PULL_TIMEOUT_MS = 300_000;
/** The engine waits so long for the plugin to answer. */
const ENABLE_WAIT_S = 20;

/** As the engine lists it, as far as it is read. */
type Listed = {
  Id: string;
  Name: string;
  Enabled: boolean;
  PluginReference?: string;
  Settings?: { Env?: string[] | null };
};

export function createPlugins(socketPath: string): Plugins {
  const call = async (
    method: "GET" | "POST" | "DELETE",
    path: string,
    more: { body?: unknown; registryAuth?: string | undefined; timeoutMs?: number } = {},
  ): Promise<string> => {
    let answer: Response;
    let text: string;
    try {
      answer = await fetch(`http://engine${path}`, {
        unix: socketPath,
        method,
        headers: {
          ...(more.body === undefined ? {} : { "content-type": "application/json" }),
          ...(more.registryAuth === undefined ? {} : { "x-registry-auth": more.registryAuth }),
        },
        ...(more.body === undefined ? {} : { body: JSON.stringify(more.body) }),
        signal: AbortSignal.timeout(more.timeoutMs ?? CALL_TIMEOUT_MS),
      });
      text = await answer.text();
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ClusterError("unavailable", `Cannot ask the Docker Engine for ${path}: ${reason}`, {
        cause,
        retry: "later",
      });
    }
    if (answer.ok) return text;
    throw new ClusterError("docker", messageIn(text), { details: { status: answer.status } });
  };
  const at = (name: string) => `/plugins/${name}`;
  return {
    list: async () => {
      // The engine's own answer.
      const listed = JSON.parse(await call("GET", "/plugins")) as Listed[];
      return listed.map(
        ({ Id, Name, Enabled, PluginReference, Settings }): EnginePlugin => ({
          id: Id,
          name: Name,
          isEnabled: Enabled,
          reference: PluginReference ?? "",
          env: Settings?.Env ?? [],
        }),
      );
    },
    privilegesOf: async (remote, registryAuth) => {
      const path = `/plugins/privileges?remote=${encodeURIComponent(remote)}`;
      // As above; none is null.
      return (JSON.parse(await call("GET", path, { registryAuth })) as Privilege[] | null) ?? [];
    },
    install: async ({ name, remote, isUpgrade, privileges }, registryAuth) => {
      const query = `remote=${encodeURIComponent(remote)}`;
      const path = isUpgrade
        ? `${at(name)}/upgrade?${query}`
        : `/plugins/pull?${query}&name=${encodeURIComponent(name)}`;
      const options = { body: privileges, registryAuth, timeoutMs: PULL_TIMEOUT_MS };
      const progress = await call("POST", path, options);
      // The answer begins before the pull does: what goes wrong is one of its lines.
      const failure = progress.split("\n").find((line) => line.includes('"error"'));
      if (failure !== undefined) throw new ClusterError("docker", messageIn(failure));
    },
    set: async (name, env) => void (await call("POST", `${at(name)}/set`, { body: env })),
    enable: async (name) => {
      const options = { timeoutMs: CALL_TIMEOUT_MS + ENABLE_WAIT_S * 1_000 };
      await call("POST", `${at(name)}/enable?timeout=${ENABLE_WAIT_S}`, options);
    },
    disable: async (name) => void (await call("POST", `${at(name)}/disable?force=1`)),
    remove: async (name) => {
      try {
        await call("DELETE", `${at(name)}?force=1`);
      } catch (error) {
        if (error instanceof ClusterError && error.details["status"] === 404) return;
        throw error;
      }
    },
  };
}

function messageIn(text: string): string {
  try {
    // The API's error, or a line of progress.
    const { message, error } = JSON.parse(text) as { message?: string; error?: string };
    return message ?? error ?? text;
  } catch (error) {
    if (error instanceof SyntaxError) return text.trim();
    throw error;
  }
}
