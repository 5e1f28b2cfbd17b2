import { beforeAll, describe, expect, test } from "bun:test";
import { createCertificateSigner } from "../../agent/certificate-signer.ts";
import { ClusterError } from "../../core/errors.ts";
import type { Cluster, ExternalCa } from "../../core/objects/cluster.ts";
import type { ExternalCaOptions } from "../../net/pki/external-ca.ts";
import { createKeyAndCsr, createRootCa } from "../../net/pki/issue.ts";
import { readCertificate } from "../../net/pki/read.ts";
import { failureOf, makeCluster, makeNode } from "../net/rpc/identities.ts";
import { clusterDraft } from "../core/store/objects.ts";

type Root = Cluster["rootCa"];
let root: Root;
let next: Root;
let csrPem = "";
beforeAll(async () => {
  [root, next] = await Promise.all([createRootCa(), createRootCa()]);
  ({ csrPem } = await createKeyAndCsr());
});

const entry = (URL: string, CACert = ""): ExternalCa => ({ Protocol: "cfssl", URL, CACert });
const clusterWith = (ExternalCAs: ExternalCa[], set: Partial<Cluster> = {}): Cluster => {
  const draft = clusterDraft({ rootCa: root, ...set });
  const CAConfig = { ...draft.spec.CAConfig, ExternalCAs };
  const meta = { version: 1, createdAtMs: 0, updatedAtMs: 0 };
  return { ...draft, ...meta, spec: { ...draft.spec, CAConfig } };
};
const wish = () => ({ csrPem, nodeId: "n1", role: "worker" as const });

/** A signer whose external CA answers so, and what it was asked. */
function signerOver(answer: () => Promise<string>) {
  const asked: ExternalCaOptions[] = [];
  const clock = { nowMs: Date.now() };
  const sign = createCertificateSigner({
    nowMs: () => clock.nowMs,
    ask: (options) => {
      asked.push(options);
      return answer();
    },
  });
  return { sign, asked, clock };
}

describe("a node's certificate is signed", () => {
  test("by the cluster's own key where no external CA is named for its root", async () => {
    const { sign, asked } = signerOver(async () => "external");
    for (const entries of [[], [entry("https://ca/", next.certificatePem)]]) {
      const identity = readCertificate(await sign(clusterWith(entries), wish()));
      expect(identity).toMatchObject({ nodeId: "n1", role: "worker" });
    }
    expect(asked).toEqual([]);
  });

  test("by the external CAs of its root, though the key is there", async () => {
    const { sign, asked } = signerOver(async () => "external");
    const entries = [
      entry("https://a/"),
      entry("https://other/", next.certificatePem),
      entry("https://b/", root.certificatePem.replaceAll("\n", "\r\n")),
    ];
    expect(await sign(clusterWith(entries), wish())).toBe("external");
    expect(asked.map(({ urls, rootPem }) => ({ urls, rootPem }))).toEqual([
      { urls: ["https://a/", "https://b/"], rootPem: root.certificatePem },
    ]);
  });

  test("by those of the root that takes its place, once that signs", async () => {
    const { sign, asked } = signerOver(async () => "external");
    const rotation = {
      certificatePem: next.certificatePem,
      keyPem: "",
      issuerPublicKey: "",
      joinTokens: { worker: "", manager: "" },
    };
    const entries = [entry("https://next/", next.certificatePem)];
    const before = clusterWith(entries, { caRotation: { ...rotation, isSigning: false } });
    expect(await sign(before, wish())).toContain("BEGIN CERTIFICATE");
    const after = clusterWith(entries, { caRotation: { ...rotation, isSigning: true } });
    expect(await sign(after, wish())).toBe("external");
    expect(asked.map(({ rootPem }) => rootPem)).toEqual([next.certificatePem]);
  });

  test("by nobody when there is neither, which is said", async () => {
    const { sign } = signerOver(async () => "external");
    const rootCa = { ...root, keyPem: "" };
    const failure = await failureOf(sign(clusterWith([], { rootCa }), wish()));
    expect(failure.message).toContain("name one by docker swarm update --external-ca");
  });
});

test("an external CA that fails is left alone for longer and longer, and asked at once when it is changed", async () => {
  let isBroken = true;
  const { sign, asked, clock } = signerOver(async () => {
    if (isBroken) throw new ClusterError("unavailable", "broken");
    return "external";
  });
  const cluster = clusterWith([entry("https://a/")]);
  const askedAfter = async (waitMs: number) => {
    clock.nowMs += waitMs;
    expect((await failureOf(sign(cluster, wish()))).message).toBe("broken");
    return asked.length;
  };
  expect(await askedAfter(0)).toBe(1);
  expect(await askedAfter(499)).toBe(1);
  expect(await askedAfter(1)).toBe(2);
  expect(await askedAfter(999)).toBe(2);
  for (let round = 0; round < 10; round++) await askedAfter(8_000);
  const count = asked.length;
  expect(await askedAfter(7_999)).toBe(count);
  isBroken = false;
  expect(await sign(clusterWith([entry("https://b/")]), wish())).toBe("external");
});

test("16 requests are under way at once, the others wait for their turn", async () => {
  const { promise, resolve } = Promise.withResolvers<string>();
  const { sign, asked } = signerOver(() => promise);
  const cluster = clusterWith([entry("https://a/")]);
  const all = Promise.all(Array.from({ length: 50 }, () => sign(cluster, wish())));
  await Bun.sleep(0);
  expect(asked).toHaveLength(16);
  resolve("external");
  expect(await all).toHaveLength(50);
  expect(asked).toHaveLength(50);
});

test("the manager shows its own certificate", async () => {
  const shown = await makeNode(await makeCluster("c"), "manager", "m1");
  const asked: ExternalCaOptions[] = [];
  const sign = createCertificateSigner({
    nowMs: Date.now,
    tls: () => shown,
    ask: async (options) => {
      asked.push(options);
      return "";
    },
  });
  await sign(clusterWith([entry("https://a/")]), wish());
  expect(asked[0]?.tls).toBe(shown);
});
