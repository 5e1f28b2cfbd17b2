/** `shoal agent`: puts node, API and socket together, and ends the process in one place. */
import { mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ClusterError } from "../core/errors.ts";
import type { BackendName } from "../net/mesh/backend.ts";
import { createApp, serveApp } from "./api/app.ts";
import { startFront } from "./api/front.ts";
import { type ApiListen, type ApiTlsFiles, apiListenOf, keepTlsFront } from "./api/front-tls.ts";
import { serveStreams } from "./api/stream-server.ts";
import {
  createFormation,
  type Formation,
  type FormationOptions,
  parsePeers,
  wasInCluster,
} from "./formation/formation.ts";
import type { FormRole } from "./formation/decide.ts";
import { formKey } from "./formation/message.ts";
import { createLogger, type Logger } from "./logger.ts";
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
  /** The managers of a cluster that forms by itself, and the secret that its hosts share. */
  clusterPeers?: string;
  clusterSecretFile?: string;
  clusterRole: FormRole;
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
  let formation: Formation | undefined;
  try {
    tlsListen = apiListenOf(options);
    formation = makeFormation(options, log);
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
    ...(formation ? { formation } : {}),
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
  formation?.start(node.api, (path, init) => app.request(path, init));
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
      await Promise.all([front.close(), tlsFront?.close(), formation?.stop()]);
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

/**
 * None where it is not wanted; nor where it cannot be had and is not needed any more: a member of a cluster
 * starts without the secret.
 * @throws {ClusterError} invalid-argument saying what is missing, or wrong with what is given.
 */
function makeFormation(options: AgentOptions, log: Logger): Formation | undefined {
  try {
    const wanted = formationOf(options);
    return wanted && createFormation({ ...wanted, log, random: systemRandom });
  } catch (error) {
    if (!(error instanceof ClusterError) || !wasInCluster(options.dataDir)) throw error;
    log.warn({ component: "formation" }, `${error.message}. Not needed: it was in a cluster`);
    return undefined;
  }
}

/** @throws {ClusterError} invalid-argument saying what is missing, or wrong with what is given. */
function formationOf(options: AgentOptions): Omit<FormationOptions, "log" | "random"> | undefined {
  const { clusterPeers, clusterSecretFile, clusterRole, advertiseAddr, dataDir } = options;
  if (clusterPeers === undefined && clusterSecretFile === undefined) return undefined;
  if (clusterPeers === undefined || clusterSecretFile === undefined) {
    throw new ClusterError(
      "invalid-argument",
      "A cluster that forms by itself needs both --cluster-peers and --cluster-secret-file",
    );
  }
  let secret: string;
  try {
    secret = readFileSync(clusterSecretFile, "utf8");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ClusterError(
      "invalid-argument",
      `Cannot use --cluster-secret-file "${clusterSecretFile}": ${why}`,
      { cause },
    );
  }
  return {
    peers: parsePeers(clusterPeers),
    key: formKey(secret),
    role: clusterRole,
    ...(advertiseAddr === undefined ? {} : { advertiseAddr }),
    dataDir,
  };
}
