/**
 * Which external CA signs what (`docker swarm update --external-ca`): an entry of the spec belongs to the root
 * that it names, or to the present one. Where the root that signs now has such entries, they sign, and nobody
 * else: not even the cluster's own key, should it have one. Source: SwarmKit ca/server.go (signNodeCert,
 * filterExternalCAURLs).
 */
import type { Cluster, ExternalCa } from "../objects/cluster.ts";
import { signingCa } from "./root-rotation.ts";

/** The entries that sign by the root given; `currentRootPem` is that of entries without one. */
export function externalCasOf(
  entries: readonly ExternalCa[] | undefined,
  rootPem: string,
  currentRootPem: string,
): ExternalCa[] {
  return (entries ?? []).filter(({ CACert }) => isSamePem(CACert || currentRootPem, rootPem));
}

/** Where certificates are signed at present; none: by the cluster's own key. */
export function signingUrls(cluster: Cluster): string[] {
  const entries = externalCasOf(
    cluster.spec.CAConfig.ExternalCAs,
    signingCa(cluster).certificatePem,
    cluster.rootCa.certificatePem,
  );
  return [...new Set(entries.map(({ URL }) => URL))];
}

/** Whether two texts hold the same certificates, however their lines are broken. */
export function isSamePem(a: string, b: string): boolean {
  return a.replaceAll(/\s/g, "") === b.replaceAll(/\s/g, "");
}
