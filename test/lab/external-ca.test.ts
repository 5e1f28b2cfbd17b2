/** Nodes' certificates from an external CA: Debian's cfssl. The tests build on each other. */
import { readFileSync, writeFileSync } from "node:fs";
import { X509Certificate } from "node:crypto";
import { beforeAll, expect, test } from "bun:test";
import { type ExternalCa, makeExternalCa } from "../../scripts/lab/external-ca.ts";
import { createKeyAndCsr, issueCertificate } from "../../net/pki/issue.ts";
import { readCertificate } from "../../net/pki/read.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

type Status = {
  node: { error?: string; certificate: { notAfterMs: number; failure?: string } };
};

describeLab("an external CA", { hosts: 3, agents: true, tools: ["cfssl"] }, (made) => {
  let lab: Lab;
  let ca: ExternalCa;
  let oldRoot = "";
  const docker = (line: string, ...more: string[]) =>
    lab.host(1).docker(...line.split(" "), ...more);
  const join = async (host: number, role: "worker" | "manager") => {
    const token = await docker(`swarm join-token -q ${role}`);
    await lab.host(host).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
  };
  const pkiPath = (host: number, file: string) =>
    `/proc/${lab.host(host).pid("holder")}/root/var/lib/shoal/pki/${file}`;
  const certificateOf = (host: number) =>
    new X509Certificate(readFileSync(pkiPath(host, "node.pem")));
  const isOfExternal = (host: number) => {
    const root = new X509Certificate(ca.root.certificatePem);
    return certificateOf(host).verify(root.publicKey);
  };
  const callOf = async <T>(host: number, path: string): Promise<T> => {
    const socket = ["curl", "-sS", "--unix-socket", "/run/shoal/docker.sock"];
    return JSON.parse(await lab.host(host).run([...socket, `http://shoal${path}`])) as T;
  };
  const statusOf = (host: number) => callOf<Status>(host, "/shoal/v1/status");
  const stateOf = (host: number) =>
    docker(`node inspect --format {{.Status.State}} ${lab.host(host).name}`);
  /** Gives a host whose agent is off a certificate that was signed so long ago, for a day. */
  const age = async (host: number, ageMs: number) => {
    const { nodeId, clusterId, role } = readCertificate(certificateOf(host).toString());
    const { keyPem, csrPem } = await createKeyAndCsr();
    const certificatePem = await issueCertificate({
      ca: ca.root,
      csrPem,
      nodeId,
      clusterId,
      role,
      lifetimeMs: DAY_MS,
      nowMs: Date.now() - ageMs,
    });
    writeFileSync(pkiPath(host, "node.key"), keyPem);
    writeFileSync(pkiPath(host, "node.pem"), certificatePem);
  };
  const restartWith = async (host: number, ageMs: number) => {
    await lab.host(host).killAgent("SIGTERM");
    await age(host, ageMs);
    await lab.host(host).startAgent();
  };
  const isGood = async (host: number) => {
    const { certificate } = (await statusOf(host)).node;
    return certificate.failure === undefined && certificate.notAfterMs > Date.now() + 2 * HOUR_MS;
  };
  const rotate = () =>
    lab.host(1).tryRun(
      [
        ["docker", "swarm", "ca", "--rotate", "--quiet", "--ca-cert", ca.rootPath],
        ["--external-ca", `protocol=cfssl,url=https://127.0.0.1:1/sign`],
        ["--external-ca", `protocol=cfssl,url=${ca.url}`],
      ].flat(),
    );

  beforeAll(async () => {
    lab = made();
    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    await join(2, "manager");
    await docker("service create --name web --replicas 2 --publish 8080:80 lab:latest");
    oldRoot = await docker("swarm ca");
    ca = await makeExternalCa(lab);
  }, 60_000);

  test("that does not sign is refused as the root's, with the reason", async () => {
    const refused = await rotate();
    expect(refused.stderr).toContain(
      "there must be at least one valid, reachable external CA corresponding to the desired CA certificate",
    );
    expect(refused.stderr).toContain(`${ca.url}: ECONNREFUSED`);
    const withoutUrl = await lab
      .host(1)
      .tryRun(["docker", "swarm", "ca", "--rotate", "--ca-cert", ca.rootPath]);
    expect(withoutUrl.code).not.toBe(0);
    expect(await docker("swarm ca")).toBe(oldRoot);
  }, 30_000);

  test("takes the cluster's place: every certificate is of its root, nobody has its key", async () => {
    await ca.start(`${oldRoot}\n${ca.root.certificatePem}`);
    expect(await rotate()).toMatchObject({ code: 0 });
    expect(await docker("swarm ca")).toBe(ca.root.certificatePem.trim());
    for (const host of [1, 2]) expect(isOfExternal(host)).toBe(true);
    const swarm = await callOf<{ Spec: { CAConfig: { ExternalCAs: unknown[] } } }>(1, "/swarm");
    expect(swarm.Spec.CAConfig.ExternalCAs).toEqual([
      { Protocol: "cfssl", URL: "https://127.0.0.1:1/sign", CACert: ca.root.certificatePem },
      { Protocol: "cfssl", URL: ca.url, CACert: ca.root.certificatePem },
    ]);
    expect(await docker("info")).toContain(`cfssl: ${ca.url}`);
    expect(await docker("service ls --format {{.Replicas}}")).toBe("2/2");
  }, 60_000);

  test("signs for nodes that join, and its certificates' life counts", async () => {
    await ca.stop();
    // From now on it needs to know its own root only.
    await ca.start(ca.root.certificatePem);
    await join(3, "worker");
    await waitFor("host 3 to be ready", async () => (await stateOf(3)) === "ready");
    expect(isOfExternal(3)).toBe(true);
    const { subject, validFrom, validTo } = certificateOf(3);
    expect(subject).toContain("OU=swarm-worker");
    expect(Date.parse(validTo) - Date.parse(validFrom)).toBe(86_400_000);
  }, 60_000);

  test("that cannot be reached breaks nothing; the node says so, and renews when it is back", async () => {
    await ca.stop();
    // Most of its life is over.
    await restartWith(3, 23 * HOUR_MS);
    await waitFor("host 3 to be ready", async () => (await stateOf(3)) === "ready");
    await waitFor("host 3 to say so", async () => {
      const { certificate, error } = (await statusOf(3)).node;
      expect(certificate.failure).toContain("The external CA has not signed");
      expect(error).toContain("was not renewed yet: The external CA has not signed");
      return true;
    });
    expect(await lab.client.curl(`http://${lab.host(3).address}:8080/`)).not.toBe("");
    await ca.start(ca.root.certificatePem);
    await waitFor("host 3 to renew", () => isGood(3));
  }, 60_000);

  test("renews a certificate that has expired while its node was off", async () => {
    await restartWith(3, 10 * DAY_MS);
    await waitFor("host 3 to renew", () => isGood(3));
    await waitFor("host 3 to be ready", async () => (await stateOf(3)) === "ready");
  }, 60_000);

  test("is left for the cluster's own CA though it is gone", async () => {
    await ca.stop();
    await docker("swarm ca --rotate --quiet");
    expect(await docker("swarm ca")).not.toBe(ca.root.certificatePem.trim());
    for (const host of [1, 2, 3]) {
      expect(isOfExternal(host)).toBe(false);
      expect(await stateOf(host)).toBe("ready");
    }
  }, 60_000);

  test("a cluster that was off past the end of all its certificates comes back", async () => {
    await docker(
      `swarm ca --rotate --quiet --ca-cert ${ca.rootPath} --ca-key ${ca.rootPath.replace("pem", "key")}`,
    );
    await Promise.all([1, 2, 3].map((host) => lab.host(host).killAgent("SIGTERM")));
    await Promise.all([1, 2, 3].map((host) => age(host, 10 * DAY_MS)));
    await Promise.all([1, 2, 3].map((host) => lab.host(host).startAgent()));
    for (const host of [1, 2, 3]) {
      await waitFor(`host ${host} to renew`, () => isGood(host));
      await waitFor(`host ${host} to be ready`, async () => (await stateOf(host)) === "ready");
    }
    await docker("service update --detach --force web");
  }, 60_000);
});
