/**
 * What a swarm's spec asks of its CA: a rotation of the root (a higher ForceRotate, or a root of the user's own, with
 * its key or with external CAs that have it), and external CAs for a root. Answers with what is to be set.
 *
 * As in stock a wish for the present root ends a rotation under way, one for another root takes its place. Unlike
 * stock's, an external CA is proven by a certificate that it signs for this manager and that is thrown away; only
 * when something of it changes; and a rotation may go from one external CA to another, or away from one that is gone.
 *
 * Source: SwarmKit manager/controlapi/ca_rotation.go, validateCAConfig.
 */
import { externalCasOf, isSamePem } from "../../core/ca/external-ca.ts";
import { ClusterError } from "../../core/errors.ts";
import type { CaRotation, Cluster, ExternalCa } from "../../core/objects/cluster.ts";
import type { Random } from "../../core/random.ts";
import { readRootCa, createRootCa } from "../../net/pki/issue.ts";
import { makeJoinToken } from "../../net/pki/join-token.ts";
import { decodeCertificates, encodePem } from "../../net/pki/pem.ts";
import { tlsInfo } from "../../net/pki/read.ts";
import { sealRoot, sealRotation } from "../cluster-secrets.ts";
import type { Vault } from "../vault.ts";
import { controlError } from "./problem.ts";

/** Entries of a spec. */
const EXTERNAL_CAS_MAX = 16;
/** Rotations that others have taken the place of, before the last one has ended. */
const REPLACED_MAX = 2;

/** CAConfig as a request has it. */
export type CaWish = {
  ForceRotate?: number;
  ExternalCAs?: ExternalCaWish[];
  SigningCACert?: string;
  SigningCAKey?: string;
};
type ExternalCaWish = {
  Protocol?: string;
  URL?: string;
  Options?: Record<string, string>;
  CACert?: string;
};

export type CaPorts = {
  vault: Vault;
  random: Random;
  nowMs(): number;
  /** Resolves when one of the CAs signs for this manager by that root. @throws {ClusterError} unavailable. */
  proveExternalCa(urls: readonly string[], rootPem: string): Promise<void>;
};

/** What is set on the cluster object, and what is taken from it. */
export type CaChange = {
  set: Partial<Pick<Cluster, "rootCa" | "caRotation">>;
  unset: "caRotation"[];
};

/**
 * The entries as they are stored.
 * @throws {ClusterError} invalid-argument for another protocol, in stock's words; for an address that is not https,
 * or a root that is no certificate.
 */
export function externalCas(wanted: readonly ExternalCaWish[] | undefined): ExternalCa[] {
  const refuse = (message: string) => new ClusterError("invalid-argument", message);
  const entries = (wanted ?? []).map(({ Protocol = "", URL: url = "", Options, CACert = "" }) => {
    // No protocol is the first one, as in stock.
    if (!["", "cfssl"].includes(Protocol.toLowerCase())) {
      throw refuse(`invalid protocol: ${JSON.stringify(Protocol)}`);
    }
    if (!URL.canParse(url) || !url.startsWith("https://")) {
      throw refuse(
        `cannot use the external CA at ${JSON.stringify(url)}: write https://HOST:PORT/api/v1/cfssl/sign`,
      );
    }
    const hasOptions = Options && Object.keys(Options).length > 0;
    return {
      Protocol: "cfssl" as const,
      URL: url,
      ...(hasOptions ? { Options } : {}),
      CACert: CACert && rootsIn(CACert),
    };
  });
  if (entries.length > EXTERNAL_CAS_MAX) {
    throw refuse(`${entries.length} external CAs are too many: ${EXTERNAL_CAS_MAX} are possible`);
  }
  return entries;
}

/** In canonical form, which is what roots are compared by. */
function rootsIn(pem: string): string {
  return decodeCertificates(pem)
    .map((der) => encodePem("CERTIFICATE", der))
    .join("");
}

/**
 * Which of the entries stay when the request brings a root with its key: who gives the key wants the cluster to sign,
 * and `docker swarm ca` can only send the entries back as they were. Stock keeps them and goes on asking.
 */
export function keptExternalCas(
  wanted: CaWish | undefined,
  entries: ExternalCa[],
  cluster: Cluster,
): ExternalCa[] {
  const { SigningCACert = "", SigningCAKey = "" } = wanted ?? {};
  const isAsBefore = isSameList(entries, cluster.spec.CAConfig.ExternalCAs);
  if (SigningCAKey === "" || SigningCACert === "" || !isAsBefore) return entries;
  const dropped = externalCasOf(entries, SigningCACert, cluster.rootCa.certificatePem);
  return entries.filter((entry) => !dropped.includes(entry));
}

function isSameList(a: readonly ExternalCa[], b: readonly ExternalCa[] | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b ?? []);
}

/** @throws {ClusterError} invalid-argument, in stock's words where it has some; failed-precondition. */
export async function planCaChange(
  wanted: CaWish | undefined,
  entries: ExternalCa[],
  cluster: Cluster,
  ports: CaPorts,
): Promise<CaChange> {
  const { rootCa, caRotation, spec } = cluster;
  const certificate = wanted?.SigningCACert ?? "";
  const key = wanted?.SigningCAKey ?? "";
  if (key !== "" && certificate === "") {
    throw controlError(
      "invalid-argument",
      "if a signing CA key is provided, the signing CA cert must also be provided",
    );
  }
  const prove = async (rootPem: string, which: "current" | "next" | "desired") => {
    const urls = externalCasOf(entries, rootPem, rootCa.certificatePem).map(({ URL }) => URL);
    const refuse = (why: string) =>
      controlError(
        "invalid-argument",
        `there must be at least one valid, reachable external CA corresponding to the ${which} CA certificate${why}`,
      );
    if (urls.length === 0) throw refuse("");
    try {
      await ports.proveExternalCa(urls, rootPem);
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      throw refuse(`: ${error.message}`);
    }
  };
  const isForced = (wanted?.ForceRotate ?? 0) !== (spec.CAConfig.ForceRotate ?? 0);
  if (certificate === "" && !isForced) {
    if (!isSameList(entries, spec.CAConfig.ExternalCAs)) {
      if (rootCa.keyPem === "" && !caRotation?.isSigning) {
        await prove(rootCa.certificatePem, "current");
      }
      if (caRotation?.keyPem === "") await prove(caRotation.certificatePem, "next");
    }
    return { set: {}, unset: [] };
  }
  if (certificate === "")
    return begin(await createRootCa({ random: ports.random }), cluster, ports);

  const root = readRootCa({ certificatePem: certificate, keyPem: key, nowMs: ports.nowMs() });
  if (key === "") await prove(root.certificatePem, "desired");
  if (isSamePem(root.certificatePem, rootCa.certificatePem)) {
    const next = sealRoot(ports.vault, root);
    // Some nodes may have certificates of the other root already: they are brought back first.
    if (caRotation?.isSigning) return begin(root, { ...cluster, rootCa: next }, ports);
    return { set: { rootCa: next }, unset: caRotation ? ["caRotation"] : [] };
  }
  if (caRotation && isSamePem(root.certificatePem, caRotation.certificatePem)) {
    const next = sealRoot(ports.vault, { ...caRotation, keyPem: root.keyPem });
    return { set: { caRotation: next }, unset: [] };
  }
  if (issuerOf(root.certificatePem) === issuerOf(rootCa.certificatePem)) {
    throw controlError("invalid-argument", "Cannot update to a cert with an identical key");
  }
  return begin(root, cluster, ports);
}

/** A rotation to that root, instead of the one under way if there is one. */
function begin(root: Cluster["rootCa"], cluster: Cluster, { vault, random }: CaPorts): CaChange {
  const { caRotation, rootCa } = cluster;
  const before = caRotation ? (caRotation.replacedPem ?? "") + caRotation.certificatePem : "";
  const replaced = before === "" ? [] : decodeCertificates(before);
  if (replaced.length > REPLACED_MAX) {
    throw new ClusterError(
      "failed-precondition",
      "the root CA is being rotated already, for the third time: it ends when every node has followed; remove nodes that are gone for good by docker node rm",
    );
  }
  const token = () => makeJoinToken(root.certificatePem, random);
  const rotation: CaRotation = {
    ...root,
    ...(before === "" ? {} : { replacedPem: before }),
    issuerPublicKey: issuerOf(root.certificatePem),
    joinTokens: { worker: token(), manager: token() },
    isSigning: false,
  };
  const isBack = isSamePem(root.certificatePem, rootCa.certificatePem);
  return {
    set: { caRotation: sealRotation(vault, rotation), ...(isBack ? { rootCa } : {}) },
    unset: [],
  };
}

function issuerOf(rootPem: string): string {
  return tlsInfo(rootPem).CertIssuerPublicKey;
}
