/**
 * Keeps this node's certificate good: a new one when half to four fifths of its life are over, and when the
 * managers want it of another root; trusts the roots that they name (core/ca/root-rotation.ts).
 *
 * The certificate itself and who uses it belong to the node; here is only when a new one is asked for. What fails
 * (no manager in reach, an external CA that does not answer) breaks nothing before the certificate's end, is
 * tried again with a back-off, and is told by status(). An expired certificate still asks for its successor
 * (net/rpc/tls.ts).
 */
import { X509Certificate } from "node:crypto";
import { renewAtMs } from "../core/ca/rotation.ts";
import type { NodeSettings } from "../core/dispatcher/assignment.ts";
import type { UnixMs } from "../core/ids.ts";
import type { NodeRole } from "../core/objects/node.ts";
import type { Random } from "../core/random.ts";
import { createKeyAndCsr } from "../net/pki/issue.ts";
import { decodeCertificates } from "../net/pki/pem.ts";
import { readCertificate, tlsInfo } from "../net/pki/read.ts";
import type { RpcMethods } from "../net/rpc/methods.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { Logger } from "./logger.ts";

/** The time is looked at again: the clock may be set. */
const RENEW_CHECK_MS = 60_000;
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 300_000;
/** While the roots change everybody waits for this node. */
const FOLLOW_RETRY_MS_MIN = 500;
const FOLLOW_RETRY_MS_MAX = 10_000;
/** Nodes renew spread over this time when the root CA changes. */
const CA_SPREAD_MS = 1_000;

export type CertificateStatus = {
  notAfterMs: UnixMs;
  /** The last attempts failed. */
  failure?: string;
  /** Since the start. */
  failureCount: number;
};

export type CertificateKeeper = {
  /**
   * A new key with a new certificate, in use when this resolves; gives its role.
   * @throws {ClusterError} as the managers answer.
   */
  renew(): Promise<NodeRole>;
  /** Renews the present certificate when its time comes; instead of what was armed before. */
  arm(): void;
  disarm(): void;
  /** Trusts the roots that the managers name, with a certificate of the one that they want. */
  followCa(settings: NodeSettings): void;
  /** Undefined while the node has none. */
  status(): CertificateStatus | undefined;
};

export function createCertificateKeeper(ports: {
  /** Undefined while the node is in no cluster, and once it stops. */
  tls: () => TlsIdentity | undefined;
  ask: (
    params: RpcMethods["renew-certificate"]["params"],
  ) => Promise<RpcMethods["renew-certificate"]["result"]>;
  /** Saves it and hands it to all who use it. */
  use(next: TlsIdentity, role: NodeRole): void;
  /** Other roots are trusted: the rotation goes on by what the nodes say of themselves. */
  onRootsChanged(): void;
  exclusive<T>(run: () => Promise<T>): Promise<T>;
  log: Logger;
  random: Random;
}): CertificateKeeper {
  const { log, random } = ports;
  let timer: Timer | undefined;
  let wantedCa: NodeSettings | undefined;
  let failure: string | undefined;
  let failureCount = 0;

  const renew = async () => {
    const { keyPem, csrPem } = await createKeyAndCsr();
    try {
      const { role, certificatePem, caCertificatePem } = await ports.ask({ csrPem });
      ports.use({ certificatePem, keyPem, caCertificatePem }, role);
      log.info({ role }, "Certificate renewed");
      failure = undefined;
      arm();
      return role;
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error);
      failureCount++;
      throw error;
    }
  };

  const arm = () => {
    clearTimeout(timer);
    const tls = ports.tls();
    if (!tls) return;
    const { notBeforeMs, notAfterMs } = readCertificate(tls.certificatePem);
    const atMs = renewAtMs({ notBeforeMs, notAfterMs }, random.next());
    const attempt = (retryMs: number) => {
      ports.exclusive(renew).catch((error: unknown) => {
        log.warn({ err: String(error), retryMs }, "Certificate not renewed, will try again");
        if (!ports.tls()) return;
        clearTimeout(timer);
        timer = setTimeout(() => attempt(Math.min(RETRY_MS_MAX, retryMs * 2)), retryMs);
      });
    };
    const check = () => {
      const delayMs = Math.min(RENEW_CHECK_MS, Math.max(RETRY_MS_MIN, atMs - Date.now()));
      timer = setTimeout(() => {
        if (Date.now() < atMs) check();
        else attempt(RETRY_MS_MIN);
      }, delayMs);
    };
    check();
  };

  const isOfWantedRoot = (tls: TlsIdentity, wanted: NodeSettings) => {
    const { CertIssuerPublicKey } = tlsInfo(wanted.caCertificatePem, tls.certificatePem);
    if (wanted.issuerPublicKey !== undefined) return CertIssuerPublicKey === wanted.issuerPublicKey;
    const certificate = new X509Certificate(tls.certificatePem);
    return decodeCertificates(wanted.caCertificatePem).some((root) =>
      certificate.verify(new X509Certificate(root).publicKey),
    );
  };
  const hasCa = (tls: TlsIdentity, wanted: NodeSettings) =>
    wanted.caCertificatePem === tls.caCertificatePem && isOfWantedRoot(tls, wanted);
  const isDue = (settings: NodeSettings) => {
    const tls = ports.tls();
    return tls !== undefined && wantedCa === settings && !hasCa(tls, settings);
  };
  /** Trust needs nobody's signature: the leader of a verified session has named the roots. */
  const follow = async (settings: NodeSettings) => {
    const tls = ports.tls();
    if (!tls || !isDue(settings)) return;
    if (isOfWantedRoot(tls, settings)) {
      const { role } = readCertificate(tls.certificatePem);
      ports.use({ ...tls, caCertificatePem: settings.caCertificatePem }, role);
      log.info("Trusted roots changed");
    } else {
      await renew();
    }
    ports.onRootsChanged();
  };
  const followCa = (settings: NodeSettings) => {
    wantedCa = settings;
    if (!isDue(settings)) return;
    const attempt = (retryMs: number) => {
      ports
        .exclusive(() => follow(settings))
        .catch((error: unknown) => {
          log.warn({ err: String(error), retryMs }, "New root CA not followed yet, will try again");
          setTimeout(() => {
            if (isDue(settings)) attempt(Math.min(FOLLOW_RETRY_MS_MAX, retryMs * 2));
          }, retryMs);
        });
    };
    setTimeout(() => attempt(FOLLOW_RETRY_MS_MIN), random.next() * CA_SPREAD_MS);
  };

  return {
    renew,
    arm,
    disarm: () => clearTimeout(timer),
    followCa,
    status: () => {
      const tls = ports.tls();
      if (!tls) return undefined;
      const { notAfterMs } = readCertificate(tls.certificatePem);
      return { notAfterMs, failureCount, ...(failure === undefined ? {} : { failure }) };
    },
  };
}
