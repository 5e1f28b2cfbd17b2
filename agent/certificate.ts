/**
 * Keeps this node's certificate good: a new one when half to four fifths of its life are over, and
 * whenever the managers name other roots to trust (core/ca/root-rotation.ts).
 *
 * The certificate itself and who uses it belong to the node; here is only when a new one is asked for.
 */
import { renewAtMs } from "../core/ca/rotation.ts";
import type { NodeSettings } from "../core/dispatcher/assignment.ts";
import type { NodeRole } from "../core/objects/node.ts";
import type { Random } from "../core/random.ts";
import { createKeyAndCsr } from "../net/pki/issue.ts";
import { readCertificate, tlsInfo } from "../net/pki/read.ts";
import type { RpcMethods } from "../net/rpc/methods.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { Logger } from "./logger.ts";

const RENEW_CHECK_MS = 60_000;
const RETRY_MS = 500;
/** Nodes renew spread over this time when the root CA changes. */
const CA_SPREAD_MS = 1_000;

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

  const renew = async () => {
    const { keyPem, csrPem } = await createKeyAndCsr();
    const { role, certificatePem, caCertificatePem } = await ports.ask({ csrPem });
    ports.use({ certificatePem, keyPem, caCertificatePem }, role);
    log.info({ role }, "Certificate renewed");
    arm();
    return role;
  };

  const arm = () => {
    clearTimeout(timer);
    const tls = ports.tls();
    if (!tls) return;
    const { notBeforeMs, notAfterMs } = readCertificate(tls.certificatePem);
    const atMs = renewAtMs({ notBeforeMs, notAfterMs }, random.next());
    const check = () => {
      const delayMs = Math.min(RENEW_CHECK_MS, Math.max(1_000, atMs - Date.now()));
      timer = setTimeout(() => {
        if (Date.now() < atMs) {
          check();
          return;
        }
        ports.exclusive(renew).catch((error: unknown) => {
          log.warn({ err: String(error) }, "Certificate not renewed, will try again");
          check();
        });
      }, delayMs);
    };
    check();
  };

  const hasCa = (tls: TlsIdentity, wanted: NodeSettings) => {
    if (wanted.caCertificatePem !== tls.caCertificatePem) return false;
    const { CertIssuerPublicKey } = tlsInfo(tls.caCertificatePem, tls.certificatePem);
    return [undefined, CertIssuerPublicKey].includes(wanted.issuerPublicKey);
  };
  const isDue = (settings: NodeSettings) => {
    const tls = ports.tls();
    return tls !== undefined && wantedCa === settings && !hasCa(tls, settings);
  };
  const followCa = (settings: NodeSettings) => {
    wantedCa = settings;
    if (!isDue(settings)) return;
    const step = async () => {
      if (!isDue(settings)) return;
      await renew();
      ports.onRootsChanged();
    };
    setTimeout(() => {
      ports.exclusive(step).catch((error: unknown) => {
        log.warn({ err: String(error) }, "New root CA not followed yet, will try again");
        setTimeout(() => {
          if (wantedCa === settings) followCa(settings);
        }, RETRY_MS);
      });
    }, random.next() * CA_SPREAD_MS);
  };

  return { renew, arm, disarm: () => clearTimeout(timer), followCa };
}
