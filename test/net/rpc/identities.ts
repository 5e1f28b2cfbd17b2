/** Clusters, nodes and servers for the RPC tests. */
import type { NodeRole } from "../../../core/objects/node.ts";
import {
  type CertificateAuthority,
  createKeyAndCsr,
  createRootCa,
  issueCertificate,
} from "../../../net/pki/issue.ts";
import type { TlsIdentity } from "../../../net/rpc/peer.ts";

export type TestCluster = { id: string; ca: CertificateAuthority };

export async function makeCluster(id: string): Promise<TestCluster> {
  return { id, ca: await createRootCa() };
}

export async function makeNode(
  cluster: TestCluster,
  role: NodeRole,
  nodeId: string,
  options: { clusterId?: string; nowMs?: number; lifetimeMs?: number } = {},
): Promise<TlsIdentity> {
  const { keyPem, csrPem } = await createKeyAndCsr();
  const certificatePem = await issueCertificate({
    ca: cluster.ca,
    csrPem,
    nodeId,
    role,
    clusterId: options.clusterId ?? cluster.id,
    lifetimeMs: options.lifetimeMs ?? 86_400_000,
    nowMs: options.nowMs ?? Date.now(),
  });
  return { certificatePem, keyPem, caCertificatePem: cluster.ca.certificatePem };
}

/** Waits for a condition, not for an event; fails after `timeoutMs`. */
export async function until(
  what: string,
  condition: () => boolean,
  timeoutMs = 5_000,
): Promise<void> {
  const endsAtMs = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > endsAtMs) throw new Error(`Not so after ${timeoutMs} ms: ${what}`);
    await Bun.sleep(5);
  }
}

/** The error a promise rejects with. */
export async function failureOf(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
  throw new Error("It did not fail");
}
