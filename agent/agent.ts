/** `shoal agent`: puts node, API and socket together, and ends the process in one place. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { ClusterError } from "../core/errors.ts";
import type { BackendName } from "../net/mesh/backend.ts";
import { createApp, serveApp } from "./api/app.ts";
import { startFront } from "./api/front.ts";
import { type ApiListen, type ApiTlsFiles, apiListenOf, keepTlsFront } from "./api/front-tls.ts";
import { serveStreams } from "./api/stream-server.ts";
import { createLogger } from "./logger.ts";
import { createNode } from "./node.ts";
import { systemRandom } from "./random.ts";
import { notifySystemd } from "./systemd.ts";
import { VERSION } from "./version.ts";

export type AgentOptions = {
  dataDir: string;
  /** The Docker API's socket. The inner one lies beside it. */
  socket: string;
  /** The local Docker Engine's socket. */
  engine: string;
  logLevel: string;
  /** See NodeOptions. */
  advertiseAddr?: string;
  meshBackend: "auto" | BackendName;
  /** `tcp://<address>:<port>`: the API for other machines too, by mutual TLS with these files. */
  apiListen?: string;
} & Partial<ApiTlsFiles>;

/** sysexits.h EX_SOFTWARE: a broken invariant or a dead worker. systemd starts the agent again. */
const EXIT_BROKEN = 70;
const STOP_TIMEOUT_MS = 10_000;

export async function runAgent(options: AgentOptions): Promise<void> {
  const log = createLogger(options.logLevel).child({ component: "agent" });
  const fatal = (message: string, details: Record<string, unknown>): never => {
    log.fatal(details, message);
    process.exit(EXIT_BROKEN);
  };
  process.on("uncaughtException", (error) => fatal("Uncaught exception", { err: error.stack }));
  process.on("unhandledRejection", (reason) =>
    fatal("Unhandled rejection", { err: reason instanceof Error ? reason.stack : String(reason) }),
  );

  let tlsListen: ApiListen | undefined;
  try {
    tlsListen = apiListenOf(options);
  } catch (error) {
    if (error instanceof ClusterError) fatal(error.message, { code: error.code });
    throw error;
  }
  mkdirSync(options.dataDir, { recursive: true, mode: 0o700 });
  mkdirSync(dirname(options.socket), { recursive: true, mode: 0o755 });
  const node = createNode({
    dataDir: options.dataDir,
    engineSocket: options.engine,
    meshBackend: options.meshBackend,
    version: VERSION.version,
    ...(options.advertiseAddr ? { advertiseAddr: options.advertiseAddr } : {}),
    log,
    random: systemRandom,
    fatal,
  });
  const innerSocketPath = join(dirname(options.socket), "inner.sock");
  const streamSocketPath = join(dirname(options.socket), "streams.sock");
  const app = createApp(node.api);
  const inner = serveApp(app, innerSocketPath);
  const streams = await serveStreams(app, streamSocketPath);
  const upstreams = {
    innerSocketPath,
    streamSocketPath,
    isManager: () => node.api.localNode().isManager,
    engineSocket: options.engine,
  };
  const front = await startFront({ socketPath: options.socket, ...upstreams });
  log.info(
    { version: VERSION.version, commit: VERSION.commit, socket: options.socket },
    "Listening",
  );
  const tlsFront = tlsListen && keepTlsFront({ ...tlsListen, upstreams }, log);
  try {
    await node.start();
  } catch (error) {
    if (error instanceof ClusterError)
      fatal(error.message, { code: error.code, details: error.details });
    throw error;
  }
  notifySystemd("READY=1");

  let isStopping = false;
  const stop = (signal: string) => {
    if (isStopping) return;
    isStopping = true;
    log.info({ signal }, "Stopping");
    notifySystemd("STOPPING=1");
    const late = setTimeout(
      () => fatal("Could not stop in time", { afterMs: STOP_TIMEOUT_MS }),
      STOP_TIMEOUT_MS,
    );
    (async () => {
      await Promise.all([front.close(), tlsFront?.close()]);
      await node.stop();
      await inner.stop(true);
      await streams.stop();
      clearTimeout(late);
      log.info("Stopped");
      process.exit(0);
    })().catch((error: unknown) => fatal("Stopping failed", { err: String(error) }));
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
}
