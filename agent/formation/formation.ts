/**
 * Makes this host part of a cluster by itself: `--cluster-peers` names the managers, the same list on
 * every host, and a secret that all have takes the place of init, tokens and joins (DESIGN.md).
 *
 * Owned here: the listener and the questions of a host that is in no cluster. Once it is in one, the
 * manager's own port answers (`answer`), and a file in the data directory keeps it from doing any of
 * this again: who leaves a cluster, or is removed, has left.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { ClusterError } from "../../core/errors.ts";
import { newId } from "../../core/ids.ts";
import type { Random } from "../../core/random.ts";
import { writeAtomically } from "../../net/pki/atomic-file.ts";
import { createKeyAndCsr, createRootCa, issueCertificate } from "../../net/pki/issue.ts";
import { connectRpc, fetchShownCa, splitAddress } from "../../net/rpc/client.ts";
import { type RpcServer, startRpcServer } from "../../net/rpc/server.ts";
import { DEFAULT_RPC_PORT } from "../address.ts";
import type { ApiPorts } from "../api/ports.ts";
import type { Logger } from "../logger.ts";
import { decideFormation, type FormRole, ownReports, type PeerReport } from "./decide.ts";
import {
  type FormKey,
  openAnswer,
  openAsk,
  peersDigestOf,
  sealAnswer,
  sealAsk,
} from "./message.ts";

/** In the data directory, from the first time that this host is in a cluster. */
const MARK = "formed";
const PEERS_MAX = 15;
const ASK_TIMEOUT_MS = 3_000;
/** Between two rounds of questions; somewhat random, so that hosts do not go in step. */
const ROUND_MS = 1_000;
/** After a join or init that failed: each one makes a node. Doubled each time. */
const FAILURE_PAUSE_MS = 2_000;
const FAILURE_PAUSE_MS_MAX = 300_000;
/** The throwaway certificate of the listener: nobody looks at it, but TLS wants it to be valid. */
const CERTIFICATE_LIFE_MS = 10 * 365 * 86_400_000;
/** How long a dead predecessor at this host's address is looked for, and removed. */
const SUCCESSION_TRIES = 90;

export type FormationOptions = {
  /** Names or IPv4 addresses, the founder first. */
  peers: readonly string[];
  key: FormKey;
  role: FormRole;
  /** What others are told. @default what this host's name in the list stands for */
  advertiseAddr?: string;
  dataDir: string;
  log: Logger;
  random: Random;
};

export type Formation = {
  /** Begins, unless this host is or was in a cluster. */
  start(node: Pick<ApiPorts, "init" | "join" | "localNode">, request: LocalRequest): void;
  /**
   * What this host, now a manager, answers to one that asks: its cluster's tokens.
   * @throws {ClusterError} unauthenticated when the other has another secret.
   */
  answer(
    sealed: Uint8Array,
    tokens: () => Promise<{ manager: string; worker: string }>,
  ): Promise<Uint8Array>;
  /** What it waits for; undefined once there is nothing to wait for. */
  waitsFor(): string | undefined;
  /** The port is needed: an init or join begins. Resolves when nobody listens here any more. */
  giveWay(): Promise<void>;
  stop(): Promise<void>;
};

/** The node's own API, without a socket. */
export type LocalRequest = (path: string, init?: RequestInit) => Response | Promise<Response>;

/**
 * The list of `--cluster-peers`.
 * @throws {ClusterError} invalid-argument
 */
export function parsePeers(text: string): string[] {
  const peers = text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  if (peers.length === 0 || peers.length > PEERS_MAX) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot form a cluster of ${peers.length} peers: give 1 to ${PEERS_MAX}, separated by commas, the same list on every host`,
    );
  }
  for (const peer of peers) {
    const { host, port } = splitAddress(peer);
    if (port === DEFAULT_RPC_PORT && isIP(host) !== 6) continue;
    throw new ClusterError(
      "invalid-argument",
      `Cannot form a cluster with "${peer}": hosts find each other by IPv4 on port ${DEFAULT_RPC_PORT}; name the host or its IPv4 address alone`,
    );
  }
  if (new Set(peers).size === peers.length) return peers;
  throw new ClusterError(
    "invalid-argument",
    `Cannot form a cluster of "${text}": a peer is twice in it`,
  );
}

/** This host is a node of a cluster, or was one: nothing is to be formed. */
export function wasInCluster(dataDir: string): boolean {
  return existsSync(join(dataDir, MARK)) || existsSync(join(dataDir, "node.json"));
}

export function createFormation(options: FormationOptions): Formation {
  const { peers, key, role, log } = options;
  const markPath = join(options.dataDir, MARK);
  const bootId = randomUUID();
  const peersDigest = peersDigestOf(peers);
  let server: RpcServer | undefined;
  let listening: Promise<void> = Promise.resolve();
  /** The one of the list that leads here, once known. */
  let self: string | undefined;
  let failureCount = 0;
  let why: string | undefined;
  let lastSaid = "";
  let isStopped = false;
  let timer: Timer | undefined;
  let running: Promise<void> = Promise.resolve();

  const wasMember = () => existsSync(markPath);
  const mark = () => {
    if (!wasMember()) writeAtomically(markPath, "", 0o600);
  };
  const say = (text: string | undefined) => {
    why = text;
    if (text === undefined || text === lastSaid) return;
    lastSaid = text;
    log.info({ component: "formation" }, text);
  };

  const listen = async () => {
    if (server || isStopped) return;
    const nowMs = Date.now();
    const ca = await createRootCa({ nowMs, name: "shoal-formation" });
    const { keyPem, csrPem } = await createKeyAndCsr();
    const certificatePem = await issueCertificate({
      ca,
      csrPem,
      nodeId: newId(options.random),
      role: "manager",
      clusterId: "formation",
      lifetimeMs: CERTIFICATE_LIFE_MS,
      nowMs,
    });
    server = await startRpcServer({
      host: "0.0.0.0",
      port: DEFAULT_RPC_PORT,
      tls: { certificatePem, keyPem, caCertificatePem: ca.certificatePem },
      handlers: {
        form: async ({ sealed }) => {
          const { number } = openAsk(key, sealed);
          const state = wasMember() ? "left" : "fresh";
          const answer = { number, bootId, peersDigest, state } as const;
          return { sealed: sealAnswer(key, self === undefined ? answer : { ...answer, self }) };
        },
      },
    });
  };
  const unlisten = async () => {
    const open = server;
    server = undefined;
    await open?.close();
  };
  /** One at a time: opening takes a while. */
  const setListening = (isWanted: boolean) => {
    // One that failed (the port was taken) says nothing of the next.
    listening = listening.catch(() => undefined).then(isWanted ? listen : unlisten);
    return listening;
  };

  const askPeer = async (addr: string): Promise<PeerReport> => {
    try {
      const caCertificatePem = await fetchShownCa({ addr, timeoutMs: ASK_TIMEOUT_MS });
      const connection = await connectRpc({ addr, caCertificatePem, timeoutMs: ASK_TIMEOUT_MS });
      try {
        const ask = { number: randomUUID(), bootId, peersDigest };
        const { sealed } = await connection.request(
          "form",
          { sealed: sealAsk(key, ask) },
          { timeoutMs: ASK_TIMEOUT_MS },
        );
        return { addr, answer: openAnswer(key, sealed, ask) };
      } finally {
        connection.close();
      }
    } catch (error) {
      return { addr, failure: error instanceof Error ? error.message : String(error) };
    }
  };

  const round = async (node: Pick<ApiPorts, "init" | "join">) => {
    await setListening(true);
    const reports = await Promise.all(peers.map(askPeer));
    const decision = decideFormation({ bootId, peersDigest, role }, reports);
    self = ownReports({ bootId }, reports)[0]?.addr;
    if (isStopped) return;
    if (decision.type === "wait") {
      say(`This host forms a cluster by itself: ${decision.why}`);
      return;
    }
    const advertised = options.advertiseAddr ?? (await addressOf(decision.self));
    const own = advertised === undefined ? {} : { AdvertiseAddr: advertised };
    failureCount += 1;
    if (decision.type === "found") {
      await refuseAmbiguous(decision.self);
      await node.init(own);
      log.info({ component: "formation", peers }, "All peers answered: the cluster is founded");
    } else {
      await node.join({ ...own, RemoteAddrs: decision.addrs, JoinToken: decision.token });
    }
    failureCount = 0;
  };

  /** What hinders `step` is no bug: it is said, and tried again in the next round. */
  const told = async (what: string, step: () => Promise<void>) => {
    try {
      await step();
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      say(`This host ${what}: ${error.message}`);
    }
  };

  const run = async (
    node: Pick<ApiPorts, "init" | "join" | "localNode">,
    request: LocalRequest,
  ) => {
    const { state, isManager } = node.localNode();
    if (state === "inactive" && !wasMember()) {
      await told("forms a cluster by itself, and tries again", () => round(node));
      // Also when a join goes on in the background.
      const { nodeId, isManager: isOne } = node.localNode();
      if (nodeId === undefined) return;
      mark();
      if (isOne) await succeed(request, nodeId);
    } else if (state === "inactive") {
      // To say so to others: they wait for each other to say anything.
      say(undefined);
      await told("was in a cluster, and cannot tell those who form one", () => setListening(true));
    } else {
      await setListening(false);
      say(undefined);
      if (state === "active" || isManager) mark();
    }
  };

  /**
   * This host took the place of another with the same address, whose disk is gone: the other's node still
   * counts in every majority, and can never come back.
   */
  const succeed = async (request: LocalRequest, nodeId: string) => {
    for (let turn = 0; turn < SUCCESSION_TRIES && !isStopped; turn++) {
      const listed = await request("/nodes");
      if (listed.ok) {
        // The agent's own API.
        const nodes = (await listed.json()) as NodeView[];
        const addr = nodes.find(({ ID }) => ID === nodeId)?.ManagerStatus?.Addr;
        const former = nodes.find(
          ({ ID, ManagerStatus }) => ID !== nodeId && ManagerStatus?.Addr === addr,
        );
        if (addr !== undefined && !former) return;
        if (addr !== undefined && former?.Status.State === "down") await retire(request, former);
      }
      await Bun.sleep(ROUND_MS);
    }
  };
  const retire = async (request: LocalRequest, former: NodeView) => {
    const demoted = await request(`/nodes/${former.ID}/update?version=${former.Version.Index}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...former.Spec, Role: "worker" }),
    });
    if (!demoted.ok) return;
    for (let turn = 0; turn < SUCCESSION_TRIES && !isStopped; turn++) {
      const removed = await request(`/nodes/${former.ID}?force=1`, { method: "DELETE" });
      if (removed.ok || removed.status === 404) {
        log.info(
          { component: "formation", former: former.ID },
          "The node that had this host's address before is removed",
        );
        return;
      }
      await Bun.sleep(ROUND_MS);
    }
  };

  return {
    start: (node, request) => {
      const again = () => {
        running = run(node, request)
          .catch((error: unknown) => {
            const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
            log.error({ component: "formation", err: text }, "Bug in the formation");
          })
          .then(() => {
            if (isStopped) return;
            const pauseMs =
              failureCount === 0
                ? ROUND_MS
                : Math.min(FAILURE_PAUSE_MS * 2 ** failureCount, FAILURE_PAUSE_MS_MAX);
            timer = setTimeout(again, pauseMs * (0.75 + Math.random() / 2));
          });
      };
      again();
    },
    answer: async (sealed, tokens) => {
      const { number } = openAsk(key, sealed);
      const answer = { number, bootId, peersDigest, tokens: await tokens() };
      return sealAnswer(key, { ...answer, state: "member" });
    },
    waitsFor: () => why,
    giveWay: () => setListening(false),
    stop: async () => {
      isStopped = true;
      clearTimeout(timer);
      await setListening(false);
      // A join under way goes on for as long as the node lets it.
      await Promise.race([running, Bun.sleep(ROUND_MS)]);
    },
  };
}

/** What is read of a node as the API shows it. */
type NodeView = {
  ID: string;
  Version: { Index: number };
  Spec: Record<string, unknown>;
  Status: { State: string };
  ManagerStatus?: { Addr?: string };
};

/**
 * What is told to others: the address, since not all need know the name. Undefined where a host's own
 * name stands for its loopback, as on Debian: then the host's address is taken, if it has one only.
 */
async function addressOf(peer: string | undefined): Promise<string | undefined> {
  if (peer === undefined) return undefined;
  const { host, port } = splitAddress(peer);
  const [address] = await addressesOf(host);
  return address === undefined || isLoopback(address) ? undefined : `${address}:${port}`;
}

/**
 * Several hosts must not each find that the founder's name leads to itself.
 * @throws {ClusterError} failed-precondition
 */
async function refuseAmbiguous(founder: string): Promise<void> {
  const { host } = splitAddress(founder);
  const addresses = await addressesOf(host);
  const refuse = (why: string) =>
    new ClusterError(
      "failed-precondition",
      `Cannot found the cluster as ${founder}: ${why}; the list needs a name of one host`,
    );
  if (addresses.length > 1) throw refuse(`the name stands for ${addresses.join(" and ")}`);
  const [own = ""] = hostname().split(".");
  const isOwnName = host.split(".")[0] === own;
  if (addresses.some(isLoopback) && !isOwnName) throw refuse("that is every host to itself");
}

/** IPv4. @throws {ClusterError} unavailable for a name that is not known. */
async function addressesOf(host: string): Promise<string[]> {
  if (isIP(host) !== 0) return [host];
  try {
    const found = await lookup(host, { family: 4, all: true });
    return [...new Set(found.map(({ address }) => address))];
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new ClusterError("unavailable", `Cannot look up ${host}: ${text}`, { cause });
  }
}

const isLoopback = (address: string) => address.startsWith("127.");
