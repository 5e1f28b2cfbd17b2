/**
 * How a manager signs nodes' certificates: by the key of the root that signs now, or, where external CAs are named
 * for that root, by asking those (core/ca/external-ca.ts, net/pki/external-ca.ts). Any manager signs.
 *
 * An external CA that has failed is left alone for a while, and whoever asks meanwhile is told what it failed by:
 * nodes that retry, each on its own, do not add up to a storm. A few requests are under way at once.
 */
import { signingUrls } from "../core/ca/external-ca.ts";
import { signingCa } from "../core/ca/root-rotation.ts";
import { ClusterError } from "../core/errors.ts";
import type { NodeId } from "../core/ids.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import type { NodeRole } from "../core/objects/node.ts";
import { type ExternalCaOptions, signExternally } from "../net/pki/external-ca.ts";
import { issueCertificate } from "../net/pki/issue.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import { openSigningCa } from "./cluster-secrets.ts";
import type { Logger } from "./logger.ts";
import type { Vault } from "./vault.ts";

const REQUESTS_MAX = 16;
const PAUSE_MS_MIN = 500;
const PAUSE_MS_MAX = 8_000;

export type CertificateWish = { csrPem: string; nodeId: NodeId; role: NodeRole };

/** A node's certificate of the cluster. @throws {ClusterError} as issueCertificate, signExternally, Vault.open. */
export type SignCertificate = (cluster: Cluster, wish: CertificateWish) => Promise<string>;

export function createCertificateSigner(ports: {
  /** Absent where nothing is sealed. */
  vault?: Pick<Vault, "open">;
  /** What is shown to an external CA. */
  tls?: () => TlsIdentity | undefined;
  log?: Logger;
  nowMs: () => number;
  /** @default signExternally */
  ask?: (options: ExternalCaOptions) => Promise<string>;
}): SignCertificate {
  const { log, nowMs, ask = signExternally } = ports;
  let failed: { key: string; count: number; untilMs: number; error: ClusterError } | undefined;
  let underWay = 0;
  const waiting: (() => void)[] = [];

  const inTurn = async <T>(run: () => Promise<T>): Promise<T> => {
    // Bounded by the requests that the RPC server serves at once.
    if (underWay >= REQUESTS_MAX) await new Promise<void>((resolve) => waiting.push(resolve));
    else underWay++;
    try {
      return await run();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else underWay--;
    }
  };

  const signByAsking = async (cluster: Cluster, urls: string[], wish: CertificateWish) => {
    const rootPem = signingCa(cluster).certificatePem;
    const tls = ports.tls?.();
    const key = JSON.stringify([rootPem, urls, tls?.certificatePem]);
    const refuseIfPaused = () => {
      if (failed?.key === key && nowMs() < failed.untilMs) throw failed.error;
    };
    refuseIfPaused();
    return inTurn(async () => {
      refuseIfPaused();
      try {
        const request = { ...wish, clusterId: cluster.id };
        const options = { urls, rootPem, request, nowMs: nowMs(), ...(tls ? { tls } : {}) };
        const certificatePem = await ask(options);
        failed = undefined;
        return certificatePem;
      } catch (error) {
        if (!(error instanceof ClusterError) || error.code !== "unavailable") throw error;
        const count = failed?.key === key ? failed.count + 1 : 1;
        const pauseMs = Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** Math.min(count - 1, 10));
        failed = { key, count, untilMs: nowMs() + pauseMs, error };
        log?.warn({ err: error.message, pauseMs }, "The external CA does not sign");
        throw error;
      }
    });
  };

  return async (cluster, wish) => {
    const urls = signingUrls(cluster);
    if (urls.length > 0) return signByAsking(cluster, urls, wish);
    const ca = openSigningCa(ports.vault, cluster);
    if (ca.keyPem === "") {
      throw new ClusterError(
        "failed-precondition",
        "Nobody signs certificates: the cluster does not have the key of its root CA, and no external CA is named for that root; name one by docker swarm update --external-ca",
      );
    }
    return issueCertificate({
      ca,
      ...wish,
      clusterId: cluster.id,
      lifetimeMs: cluster.spec.CAConfig.NodeCertExpiry / 1e6,
      nowMs: nowMs(),
    });
  };
}
