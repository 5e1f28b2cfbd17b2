import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { createCertificateKeeper } from "../../agent/certificate.ts";
import { createLogger } from "../../agent/logger.ts";
import type { NodeSettings } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import { seededRandom } from "../../core/random.ts";
import { issueCertificate } from "../../net/pki/issue.ts";
import { tlsInfo } from "../../net/pki/read.ts";
import type { TlsIdentity } from "../../net/rpc/peer.ts";
import {
  failureOf,
  makeCluster,
  makeNode,
  type TestCluster,
  until,
} from "../net/rpc/identities.ts";

let old: TestCluster;
let next: TestCluster;
beforeAll(async () => {
  [old, next] = await Promise.all([makeCluster("c1"), makeCluster("c1")]);
});
let disarm: (() => void) | undefined;
afterEach(() => disarm?.());

/** A node with this certificate whose managers sign by that root, or fail. */
function keeperWith(start: TlsIdentity, signs: () => TestCluster) {
  const node = { tls: start, asked: 0, told: 0 };
  const keeper = createCertificateKeeper({
    tls: () => node.tls,
    ask: async ({ csrPem }) => {
      node.asked++;
      const { ca } = signs();
      const certificatePem = await issueCertificate({
        ca,
        csrPem,
        nodeId: "n1",
        role: "worker",
        clusterId: "c1",
        lifetimeMs: 7_200_000,
        nowMs: Date.now(),
      });
      return { role: "worker", certificatePem, caCertificatePem: roots() };
    },
    use: (tls) => void (node.tls = tls),
    onRootsChanged: () => void node.told++,
    exclusive: (run) => run(),
    log: createLogger("silent"),
    random: seededRandom(1),
  });
  disarm = keeper.disarm;
  return { node, keeper };
}
const roots = () => old.ca.certificatePem + next.ca.certificatePem;
const settings = (caCertificatePem: string, issuer?: TestCluster): NodeSettings => ({
  nodeId: "n1",
  clusterId: "c1",
  role: "worker",
  managers: [],
  caCertificatePem,
  ...(issuer ? { issuerPublicKey: issuerOf(issuer) } : {}),
  heartbeatPeriodMs: 1_000,
  dataPathPort: 4789,
  hostname: "",
});
const issuerOf = (cluster: TestCluster) => tlsInfo(cluster.ca.certificatePem).CertIssuerPublicKey;

describe("a rotation of the root", () => {
  test("trust is taken on without a new certificate, given up likewise", async () => {
    const start = await makeNode(old, "worker", "n1");
    const { node, keeper } = keeperWith(start, () => {
      throw new ClusterError("unavailable", "the old root's CA is gone");
    });
    keeper.followCa(settings(roots()));
    await until("both roots are trusted", () => node.tls.caCertificatePem === roots());
    keeper.followCa(settings(old.ca.certificatePem));
    await until("one is", () => node.tls.caCertificatePem === old.ca.certificatePem);
    expect([node.asked, node.told]).toEqual([0, 2]);
    expect(node.tls.certificatePem).toBe(start.certificatePem);
  });

  test("the new root's certificate is asked for until it is given", async () => {
    let failures = 2;
    const { node, keeper } = keeperWith(await makeNode(old, "worker", "n1"), () => {
      if (failures-- > 0) throw new ClusterError("unavailable", "the external CA is asleep");
      return next;
    });
    keeper.followCa(settings(roots(), next));
    await until("it has failed", () => node.asked === 1);
    await until("it is told", () => keeper.status()?.failure !== undefined);
    expect(keeper.status()).toMatchObject({ failure: "the external CA is asleep" });
    await until("it is given", () => node.told === 1);
    expect(tlsInfo(roots(), node.tls.certificatePem).CertIssuerPublicKey).toBe(issuerOf(next));
    expect(keeper.status()).toEqual({ notAfterMs: expect.any(Number), failureCount: 2 });
  });

  test("a certificate of a root that is dropped is replaced", async () => {
    const { node, keeper } = keeperWith(await makeNode(old, "worker", "n1"), () => next);
    keeper.followCa(settings(next.ca.certificatePem));
    await until("it is renewed", () => node.told === 1);
    expect(node.asked).toBe(1);
  });
});

test("an expired certificate is renewed at once; what fails is said", async () => {
  const nowMs = Date.now() - 10 * 86_400_000;
  let isGone = true;
  const { node, keeper } = keeperWith(await makeNode(old, "worker", "n1", { nowMs }), () => {
    if (isGone) throw new ClusterError("unavailable", "nobody is there");
    return old;
  });
  expect((await failureOf(keeper.renew())).message).toBe("nobody is there");
  expect(keeper.status()).toMatchObject({ failure: "nobody is there", failureCount: 1 });
  isGone = false;
  keeper.arm();
  await until("it is renewed", () => (keeper.status()?.notAfterMs ?? 0) > Date.now());
  expect([node.asked, keeper.status()?.failure]).toEqual([2, undefined]);
});
