import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "bun:test";
import {
  type CertificateAuthority,
  createKeyAndCsr,
  createRootCa,
  issueCertificate,
  readRootCa,
} from "../../../net/pki/issue.ts";
import { encodePem } from "../../../net/pki/pem.ts";
import { failureOf } from "../rpc/identities.ts";
import { isIssuedBy, parseCertificate, readCertificate, tlsInfo } from "../../../net/pki/read.ts";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;
const openssl = Bun.which("openssl");

let ca: CertificateAuthority;
beforeAll(async () => {
  ca = await createRootCa();
});

async function issue(overrides: Partial<Parameters<typeof issueCertificate>[0]> = {}) {
  const { keyPem, csrPem } = await createKeyAndCsr();
  const certificatePem = await issueCertificate({
    ca,
    csrPem,
    nodeId: "node1",
    role: "manager",
    clusterId: "cluster1",
    lifetimeMs: 90 * DAY_MS,
    nowMs: Date.now(),
    ...overrides,
  });
  return { keyPem, csrPem, certificatePem };
}

function derOf(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
}

describe("createRootCa()", () => {
  test("gives a self-signed CA of 20 years named swarm-ca", () => {
    const root = parseCertificate(ca.certificatePem);
    expect(root.subject).toBe("CN=swarm-ca");
    expect(root.ca).toBe(true);
    expect(root.verify(root.publicKey)).toBe(true);
    const life = Date.parse(root.validTo) - Date.parse(root.validFrom);
    expect(life).toBe(20 * 365 * DAY_MS + HOUR_MS);
  });
});

describe("readRootCa()", () => {
  test("takes a root with its key, as they are", () => {
    expect(readRootCa({ ...ca, nowMs: Date.now() })).toEqual(ca);
  });

  test("says what is wrong with one", async () => {
    const other = await createRootCa();
    const node = await issue();
    const late = Date.now() + 19.5 * 365 * DAY_MS;
    for (const [certificatePem, keyPem, nowMs, why] of [
      ["", "", Date.now(), "no certificate in it"],
      [ca.certificatePem + other.certificatePem, ca.keyPem, Date.now(), "has 2 certificates"],
      [ca.certificatePem, other.keyPem, Date.now(), "not the certificate's"],
      [ca.certificatePem, "nothing", Date.now(), "not readable"],
      [node.certificatePem, node.keyPem, Date.now(), "not a CA's"],
      [ca.certificatePem, ca.keyPem, late, "a year of life"],
    ] as const) {
      expect(() => readRootCa({ certificatePem, keyPem, nowMs })).toThrow(why);
    }
  });
});

describe("issueCertificate()", () => {
  test("writes node, role and cluster, backdated by an hour", async () => {
    const nowMs = Math.floor(Date.now() / 1_000) * 1_000;
    const { certificatePem, keyPem } = await issue({ nowMs });
    expect(readCertificate(certificatePem)).toEqual({
      nodeId: "node1",
      role: "manager",
      clusterId: "cluster1",
      notBeforeMs: nowMs - HOUR_MS,
      notAfterMs: nowMs + 90 * DAY_MS,
    });
    const { createPrivateKey } = await import("node:crypto");
    expect(parseCertificate(certificatePem).checkPrivateKey(createPrivateKey(keyPem))).toBe(true);
  });

  test("marks workers as such", async () => {
    const { certificatePem } = await issue({ role: "worker" });
    expect(parseCertificate(certificatePem).subject).toContain("OU=swarm-worker");
    expect(readCertificate(certificatePem).role).toBe("worker");
  });

  test("names the node id and the given names", async () => {
    const { certificatePem } = await issue({ sans: ["10.0.0.1", "host.example"] });
    const names = parseCertificate(certificatePem).subjectAltName;
    expect(names).toBe("DNS:node1, IP Address:10.0.0.1, DNS:host.example");
  });

  test("does not outlive the CA", async () => {
    const { certificatePem } = await issue({ lifetimeMs: 30 * 365 * DAY_MS });
    const rootEndsMs = Date.parse(parseCertificate(ca.certificatePem).validTo);
    expect(readCertificate(certificatePem).notAfterMs).toBe(rootEndsMs);
  });

  test("refuses a life of less than an hour", async () => {
    expect((await failureOf(issue({ lifetimeMs: HOUR_MS - 1 }))).message).toContain("3599999 ms");
  });

  test("refuses a request whose signature does not match", async () => {
    const { csrPem } = await createKeyAndCsr();
    const other = await createKeyAndCsr();
    // The other request's key under this request's signature.
    const tampered = derOf(other.csrPem);
    const mine = derOf(csrPem);
    mine.copy(tampered, tampered.length - 32, mine.length - 32);
    const text = encodePem("CERTIFICATE REQUEST", tampered);
    expect((await failureOf(issue({ csrPem: text }))).message).toContain("certificate request");
  });

  test("refuses garbage, an oversized text and a key of another curve", async () => {
    expect((await failureOf(issue({ csrPem: "hello" }))).message).toContain("not readable");
    expect((await failureOf(issue({ csrPem: "x".repeat(20_000) }))).message).toContain(
      "20000 characters",
    );
    if (!openssl) return;
    const dir = mkdtempSync(join(tmpdir(), "shoal-pki-"));
    const made = Bun.spawnSync([
      openssl,
      "req",
      "-new",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:secp384r1",
      "-nodes",
      "-subj",
      "/CN=evil",
      "-keyout",
      join(dir, "key"),
    ]);
    rmSync(dir, { recursive: true });
    expect((await failureOf(issue({ csrPem: made.stdout.toString() }))).message).toContain(
      "must be ECDSA P-256",
    );
  });

  test.skipIf(!openssl)("ignores the subject that openssl's request asks for", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-pki-"));
    const made = Bun.spawnSync([
      openssl ?? "",
      "req",
      "-new",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-subj",
      "/CN=evil/OU=swarm-manager/O=mine",
      "-keyout",
      join(dir, "key"),
    ]);
    rmSync(dir, { recursive: true });
    const { certificatePem } = await issue({ csrPem: made.stdout.toString(), role: "worker" });
    const { nodeId, role, clusterId } = readCertificate(certificatePem);
    expect({ nodeId, role, clusterId }).toEqual({
      nodeId: "node1",
      role: "worker",
      clusterId: "cluster1",
    });
  });

  test.skipIf(!openssl)("passes openssl verify -x509_strict as client and as server", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-pki-"));
    try {
      const { certificatePem, csrPem } = await issue();
      writeFileSync(join(dir, "ca.pem"), ca.certificatePem);
      writeFileSync(join(dir, "node.pem"), certificatePem);
      writeFileSync(join(dir, "node.csr"), csrPem);
      for (const purpose of ["sslserver", "sslclient"]) {
        const run = Bun.spawnSync([
          openssl ?? "",
          "verify",
          "-x509_strict",
          "-purpose",
          purpose,
          "-CAfile",
          join(dir, "ca.pem"),
          join(dir, "node.pem"),
        ]);
        expect(run.stderr.toString() + run.stdout.toString()).toContain("node.pem: OK");
      }
      const csr = Bun.spawnSync([
        openssl ?? "",
        "req",
        "-verify",
        "-noout",
        "-in",
        join(dir, "node.csr"),
      ]);
      expect(csr.stderr.toString()).toContain("verify OK");
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe("isIssuedBy()", () => {
  test("accepts the own CA within the certificate's life only", async () => {
    const { certificatePem } = await issue();
    const certificate = parseCertificate(certificatePem);
    const root = parseCertificate(ca.certificatePem);
    expect(isIssuedBy(certificate, [root], Date.now())).toBe(true);
    expect(isIssuedBy(certificate, [root], Date.now() + 91 * DAY_MS)).toBe(false);
    expect(isIssuedBy(certificate, [root], Date.now() - 2 * HOUR_MS)).toBe(false);
    expect(isIssuedBy(certificate, [], Date.now())).toBe(false);
  });

  test("refuses a foreign CA of the same name, and a leaf as CA", async () => {
    const { certificatePem } = await issue();
    const foreign = await createRootCa();
    const certificate = parseCertificate(certificatePem);
    expect(isIssuedBy(certificate, [parseCertificate(foreign.certificatePem)], Date.now())).toBe(
      false,
    );
    expect(isIssuedBy(certificate, [certificate], Date.now())).toBe(false);
  });
});

describe("readCertificate()", () => {
  test("refuses what is no node's certificate", () => {
    expect(() => readCertificate(ca.certificatePem)).toThrow('of "CN=swarm-ca"');
    expect(() => readCertificate("nothing")).toThrow("no certificate");
    expect(() => readCertificate(encodePem("CERTIFICATE", Uint8Array.of(1, 2, 3)))).toThrow(
      "Cannot read",
    );
  });
});

describe("tlsInfo()", () => {
  test("names, of two trusted roots, the one that signed the certificate", async () => {
    const other = await createRootCa();
    const both = ca.certificatePem + other.certificatePem;
    const { certificatePem } = await issue({ ca: other });
    const { TrustRoot, CertIssuerPublicKey } = tlsInfo(both, certificatePem);
    expect(TrustRoot).toBe(both);
    expect(CertIssuerPublicKey).toBe(tlsInfo(other.certificatePem).CertIssuerPublicKey);
  });

  test("gives the root, its subject and its public key as the Docker API does", () => {
    const info = tlsInfo(ca.certificatePem);
    expect(info.TrustRoot).toBe(ca.certificatePem);
    // The same bytes for every cluster: SEQUENCE { SET { SEQUENCE { CN, "swarm-ca" } } }.
    expect(info.CertIssuerSubject).toBe("MBMxETAPBgNVBAMTCHN3YXJtLWNh");
    const key = new X509Certificate(ca.certificatePem).publicKey;
    const spki = key.export({ type: "spki", format: "der" });
    expect(info.CertIssuerPublicKey).toBe(spki.toString("base64"));
  });
});
