import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { openTokens } from "../../../agent/cluster-secrets.ts";
import { LOCKED } from "../../../agent/lock.ts";
import { ClusterError } from "../../../core/errors.ts";
import { defaultClusterSpec, type ExternalCa } from "../../../core/objects/cluster.ts";
import { type CertificateAuthority, createRootCa } from "../../../net/pki/issue.ts";
import golden from "./golden/swarm.json" with { type: "json" };
import { CA_PEM, CLUSTER_ID } from "./fake-ports.ts";
import { type ApiLab, at, createLab, field, keyPaths } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const inactive = () => {
  lab.ports.local = { state: "inactive", isManager: false, managers: [] };
};
const cluster = () => {
  const found = lab.ports.rows.cluster();
  if (!found) throw new Error("no cluster");
  return found;
};
const updatePath = (query = "") => `/swarm/update?version=${cluster().version}${query}`;

describe("GET /swarm", () => {
  test("has the keys of stock's answer, the tokens, and no key", async () => {
    const { body, text } = await lab.call("GET", "/swarm");
    expect([...keyPaths(body)].sort()).toEqual([...keyPaths(golden)].sort());
    expect(at(body, "JoinTokens")).toEqual({
      Worker: "SWMTKN-1-digest-worker",
      Manager: "SWMTKN-1-digest-manager",
    });
    expect(at(body, "TLSInfo", "CertIssuerPublicKey")).toBe(golden.TLSInfo.CertIssuerPublicKey);
    expect(at(body, "TLSInfo", "CertIssuerSubject")).toBe(golden.TLSInfo.CertIssuerSubject);
    expect(field(body, "TLSInfo", "TrustRoot")).toBe(CA_PEM);
    expect(text).not.toContain("the CA's key");
  });
});

describe("POST /swarm/init", () => {
  test("gives the request on and answers with the node id", async () => {
    inactive();
    const request = {
      ListenAddr: "0.0.0.0:2377",
      AdvertiseAddr: "10.1.1.1",
      Availability: "drain",
    };
    const answer = await lab.call("POST", "/swarm/init", { ...request, DefaultAddrPool: null });
    expect([answer.status, answer.body]).toEqual([200, "node1aaaaaaaaaaaaaaaaaaaa"]);
    expect(lab.ports.calls.init).toEqual([{ ...request, Availability: "drain" }]);
  });

  test("is refused in a swarm, but for --force-new-cluster", async () => {
    const refused = await lab.call("POST", "/swarm/init", {});
    expect(refused.status).toBe(503);
    expect(refused.text).toContain("This node is already part of a swarm.");
    expect((await lab.call("POST", "/swarm/init", { ForceNewCluster: true })).status).toBe(200);
  });

  test.each([
    [{ Spec: { Name: "other" } }, 400, 'swarm spec must be named "default"'],
    [{ DataPathPort: 80 }, 400, "Datapath port number is not in valid range (1024-49151) : 80"],
    [{ Availability: "away" }, 400, "invalid value for Availability: "],
    [{ Spec: { CAConfig: { ExternalCAs: [{ URL: "x" }] } } }, 400, "cannot use the external CA"],
    [
      { Spec: { CAConfig: { ExternalCAs: [{ URL: "https://ca/sign" }] } } },
      400,
      "cannot sign by the root that init is about to make",
    ],
  ])("refuses %j", async (body, status, message) => {
    inactive();
    const answer = await lab.call("POST", "/swarm/init", body);
    expect(answer.status).toBe(status);
    expect(field(answer.body, "message")).toContain(message);
    expect(lab.ports.calls.init).toEqual([]);
  });
});

describe("POST /swarm/join and /swarm/leave", () => {
  test("give the request on", async () => {
    inactive();
    const request = { RemoteAddrs: ["10.0.0.1:2377"], JoinToken: "SWMTKN-1-a-b" };
    const joined = await lab.call("POST", "/swarm/join", request);
    expect([joined.status, joined.text]).toEqual([200, ""]);
    expect(lab.ports.calls.join).toEqual([request]);
    await lab.call("POST", "/swarm/leave?force=1");
    await lab.call("POST", "/swarm/leave?force=false");
    expect(lab.ports.calls.leave).toEqual([{ force: true }, { force: false }]);
  });

  test("refuse a second cluster, and no address", async () => {
    const second = await lab.call("POST", "/swarm/join", { RemoteAddrs: ["x"], JoinToken: "t" });
    expect(second.status).toBe(503);
    inactive();
    const none = await lab.call("POST", "/swarm/join", { JoinToken: "t" });
    expect([none.status, none.body]).toEqual([
      400,
      { message: "at least 1 RemoteAddr is required to join" },
    ]);
  });
});

describe("POST /swarm/update", () => {
  const spec = (set: Record<string, unknown> = {}) => ({ ...defaultClusterSpec(), ...set });

  test("replaces the spec and rotates the tokens that were asked for", async () => {
    const wish = spec({ Orchestration: { TaskHistoryRetentionLimit: 3 } });
    const answer = await lab.call("POST", updatePath("&rotateWorkerToken=true"), wish);
    expect([answer.status, answer.text]).toEqual([200, ""]);
    expect(cluster().spec.Orchestration.TaskHistoryRetentionLimit).toBe(3);
    const tokens = openTokens(lab.ports.vault, cluster());
    expect(tokens.worker).toMatch(/^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$/);
    expect(tokens.manager).toBe("SWMTKN-1-digest-manager");
    expect(JSON.stringify(lab.ports.proposed)).not.toContain("SWMTKN");
    const { body } = await lab.call("GET", "/swarm");
    expect(at(body, "JoinTokens")).toEqual({ Worker: tokens.worker, Manager: tokens.manager });
    expect(cluster().rootCa.keyPem).toBe("the CA's key");
  });

  test("begins a rotation of the root CA, which another one takes the place of", async () => {
    const wish = (ForceRotate: number) =>
      spec({ CAConfig: { NodeCertExpiry: 7_776_000_000_000_000, ForceRotate } });
    expect((await lab.call("POST", updatePath(), wish(1))).status).toBe(200);
    const { caRotation, joinTokens, spec: kept } = cluster();
    expect(caRotation?.isSigning).toBe(false);
    expect(JSON.stringify(caRotation)).not.toMatch(/SWMTKN|PRIVATE KEY/);
    expect(joinTokens.worker).toBe("SWMTKN-1-digest-worker");
    expect(kept.CAConfig.ForceRotate).toBe(1);
    const { body, text } = await lab.call("GET", "/swarm");
    expect(at(body, "RootRotationInProgress")).toBe(true);
    expect(field(body, "TLSInfo", "TrustRoot")).toBe(caRotation?.certificatePem ?? "");
    expect(text).not.toContain("PRIVATE KEY");
    expect((await lab.call("POST", updatePath(), wish(1))).status).toBe(200);
    expect(cluster().caRotation).toEqual(caRotation);
    for (const count of [2, 3]) {
      const before = cluster().caRotation!;
      expect((await lab.call("POST", updatePath(), wish(count))).status).toBe(200);
      expect(cluster().caRotation?.replacedPem).toEndWith(before.certificatePem);
    }
    const fourth = await lab.call("POST", updatePath(), wish(4));
    expect(field(fourth.body, "message")).toContain("rotated already, for the third time");
  });

  test("refuses a stale version as stock does", async () => {
    const answer = await lab.call("POST", "/swarm/update?version=1", spec());
    expect([answer.status, answer.body]).toEqual([
      500,
      { message: "rpc error: code = Unknown desc = update out of sequence" },
    ]);
  });

  test.each([
    ["version=x", {}, 400, "invalid swarm version 'x': strconv.ParseUint: parsing \"x\""],
    ["rotateWorkerToken=perhaps", {}, 400, "invalid value for rotateWorkerToken: perhaps"],
    ["", { Name: "mine" }, 400, 'swarm spec must be named "default"'],
    ["", { CAConfig: { NodeCertExpiry: 1 } }, 400, "minimum certificate expiry time is: 1h0m0s"],
    ["", { CAConfig: { ExternalCAs: [{ URL: "http://ca" }] } }, 400, "write https://HOST:PORT/"],
    [
      "",
      { CAConfig: { ExternalCAs: [{ Protocol: "acme", URL: "https://ca" }] } },
      400,
      'invalid protocol: "acme"',
    ],
    [
      "",
      { CAConfig: { ExternalCAs: Array.from({ length: 17 }, () => ({ URL: "https://ca/sign" })) } },
      400,
      "17 external CAs are too many",
    ],
    ["", { CAConfig: { SigningCAKey: "x" } }, 400, "the signing CA cert must also be provided"],
    ["", { CAConfig: { SigningCACert: "x" } }, 400, "no certificate in it"],
    ["", { CAConfig: { SigningCACert: "x", SigningCAKey: "y" } }, 400, "no certificate in it"],
  ])("with %s and %j is refused", async (query, set, status, message) => {
    const path = query.startsWith("version") ? `/swarm/update?${query}` : updatePath(`&${query}`);
    const answer = await lab.call("POST", path, spec(set));
    expect(answer.status).toBe(status);
    expect(field(answer.body, "message")).toContain(message);
    expect(cluster().id).toBe(CLUSTER_ID);
    expect(lab.ports.proposed).toEqual([]);
  });
});

describe("external CAs", () => {
  const LIFE_NS = 7_776_000_000_000_000;
  const update = (CAConfig: object) =>
    lab.call("POST", updatePath(), {
      ...defaultClusterSpec(),
      CAConfig: { NodeCertExpiry: LIFE_NS, ...CAConfig },
    });
  const NO_CA = "there must be at least one valid, reachable external CA corresponding to the";
  let mine: CertificateAuthority;
  beforeAll(async () => {
    mine = await createRootCa();
  });
  const entry = (CACert = ""): ExternalCa => ({
    Protocol: "cfssl",
    URL: "https://ca:8888/sign",
    CACert,
  });

  test("for the present root are stored as they are, and shown", async () => {
    expect((await update({ ExternalCAs: [{ ...entry(), Options: {} }] })).status).toBe(200);
    const { body } = await lab.call("GET", "/swarm");
    expect(at(body, "Spec", "CAConfig", "ExternalCAs")).toEqual([entry()]);
    // The cluster's own key is there: nobody need be asked.
    expect(lab.ports.calls.prove).toEqual([]);
    expect((await update({})).status).toBe(200);
    expect(cluster().spec.CAConfig.ExternalCAs).toBeUndefined();
  });

  test("init takes those of a root of their own, which is to take the new one's place", async () => {
    inactive();
    const ExternalCAs = [entry(mine.certificatePem.replaceAll("\n", "\r\n"))];
    const CAConfig = { NodeCertExpiry: 0, ExternalCAs };
    expect((await lab.call("POST", "/swarm/init", { Spec: { CAConfig } })).status).toBe(200);
    const [request] = lab.ports.calls.init;
    expect(request?.Spec?.CAConfig?.ExternalCAs).toEqual([entry(mine.certificatePem)]);
  });

  test("a root without its key needs one that signs by it", async () => {
    const SigningCACert = mine.certificatePem;
    for (const [ExternalCAs, why] of [
      [[], `${NO_CA} desired CA certificate`],
      [[entry()], `${NO_CA} desired CA certificate`],
      [[entry(SigningCACert)], "desired CA certificate: it is asleep"],
    ] as const) {
      lab.ports.externalCaFailure = "it is asleep";
      const answer = await update({ SigningCACert, ExternalCAs });
      expect(answer.status).toBe(400);
      expect(field(answer.body, "message")).toContain(why);
    }
    delete lab.ports.externalCaFailure;
    expect((await update({ SigningCACert, ExternalCAs: [entry(SigningCACert)] })).status).toBe(200);
    const { caRotation } = cluster();
    expect(caRotation).toMatchObject({ certificatePem: SigningCACert, keyPem: "" });
    const asked = { urls: [entry().URL], rootPem: SigningCACert };
    expect(lab.ports.calls.prove.at(-1)).toEqual(asked);
    // It cannot be taken away while it is needed; the root that signs still is the old one.
    const without = await update({});
    expect(field(without.body, "message")).toContain(`${NO_CA} next CA certificate`);
    // The user has found the key, and the CLI sends back what there is.
    const key = { SigningCACert, SigningCAKey: mine.keyPem };
    const ExternalCAs = [entry(SigningCACert)];
    expect((await update({ ...key, ExternalCAs })).status).toBe(200);
    expect(cluster().spec.CAConfig.ExternalCAs).toBeUndefined();
    expect(cluster().caRotation?.keyPem).not.toBe("");
    expect(cluster().caRotation?.joinTokens).toEqual(caRotation!.joinTokens);
  });

  describe("of a cluster without its root's key", () => {
    beforeEach(() => {
      const CAConfig = { NodeCertExpiry: LIFE_NS, ExternalCAs: [entry()] };
      const rootCa = { certificatePem: CA_PEM, keyPem: "" };
      const spec = { ...defaultClusterSpec(), CAConfig };
      lab.ports.put("cluster", { ...cluster(), spec, rootCa } as never);
    });

    test("cannot be taken away; other changes do not ask for them", async () => {
      lab.ports.externalCaFailure = "it is asleep";
      for (const ExternalCAs of [[], [entry(mine.certificatePem)], [{ URL: "https://other/" }]]) {
        const answer = await update({ ExternalCAs });
        expect(field(answer.body, "message")).toContain(`${NO_CA} current CA certificate`);
      }
      lab.ports.calls.prove.length = 0;
      const other = await update({ ExternalCAs: [entry()], NodeCertExpiry: LIFE_NS / 2 });
      expect(other.status).toBe(200);
      expect(lab.ports.calls.prove).toEqual([]);
    });

    test("can be rotated away though they are gone", async () => {
      lab.ports.externalCaFailure = "it is asleep";
      expect((await update({ ExternalCAs: [entry()], ForceRotate: 1 })).status).toBe(200);
      expect(cluster().caRotation?.keyPem).not.toBe("");
    });
  });

  test("a wish for the present root ends a rotation; one that signs is turned back", async () => {
    const present = { certificatePem: CA_PEM, keyPem: "" };
    const wish = { SigningCACert: CA_PEM, ExternalCAs: [entry(CA_PEM)] };
    await update({ ForceRotate: 1 });
    expect((await update({ ...wish, ForceRotate: 1 })).status).toBe(200);
    expect(cluster().caRotation).toBeUndefined();
    expect(cluster().rootCa).toEqual(present);
    await update({ ForceRotate: 2 });
    const first = { ...cluster().caRotation!, isSigning: true };
    lab.ports.put("cluster", { ...cluster(), caRotation: first } as never);
    expect((await update({ ...wish, ForceRotate: 2 })).status).toBe(200);
    expect(cluster().caRotation).toMatchObject({
      ...present,
      replacedPem: first.certificatePem,
      isSigning: false,
    });
  });
});

describe("autolock", () => {
  const spec = (AutoLockManagers: boolean) => ({
    ...defaultClusterSpec(),
    EncryptionConfig: { AutoLockManagers },
  });
  const update = (isOn: boolean, query = "") =>
    lab.call("POST", updatePath(query), spec(isOn)).then(({ status }) => expect(status).toBe(200));
  const unlockKey = async () => (await lab.call("GET", "/swarm/unlockkey")).body;
  const unlock = (UnlockKey: unknown) => lab.call("POST", "/swarm/unlock", { UnlockKey });
  const KEY = /^SWMKEY-1-[A-Za-z0-9+/]{43}$/;

  test("off: there is no key, and nothing to unlock", async () => {
    expect(await unlockKey()).toEqual({ UnlockKey: "" });
    await update(false, "&rotateManagerUnlockKey=true");
    expect(await unlockKey()).toEqual({ UnlockKey: "" });
    const answer = await unlock("x");
    expect([answer.status, answer.body]).toEqual([409, { message: "swarm is not locked" }]);
    inactive();
    expect((await unlock("x")).status).toBe(503);
  });

  test("on makes a key, which stays until it is rotated and goes when it is switched off", async () => {
    await update(true);
    const first = await unlockKey();
    expect(field(first, "UnlockKey")).toMatch(KEY);
    expect(JSON.stringify(lab.ports.proposed)).not.toContain("SWMKEY");
    await update(true);
    expect(await unlockKey()).toEqual(first);
    await update(true, "&rotateManagerUnlockKey=true");
    const second = await unlockKey();
    expect(field(second, "UnlockKey")).toMatch(KEY);
    expect(second).not.toEqual(first);
    expect((await lab.call("GET", "/swarm")).text).not.toMatch(/unlockKey|SWMKEY/);
    await update(false);
    expect(cluster().unlockKey).toBeUndefined();
    expect(await unlockKey()).toEqual({ UnlockKey: "" });
  });

  test("init takes it from either place", async () => {
    inactive();
    for (const body of [{ AutoLockManagers: true }, { Spec: spec(true) }]) {
      expect((await lab.call("POST", "/swarm/init", body)).status).toBe(200);
    }
  });

  describe("a locked manager", () => {
    beforeEach(() => {
      lab.ports.local = { ...lab.ports.local, state: "locked", error: LOCKED, isManager: false };
      lab.ports.failure = new ClusterError("unavailable", LOCKED);
    });

    test("says so to every call of the cluster, and in info and ping", async () => {
      for (const path of ["/swarm", "/swarm/unlockkey", "/nodes", "/services", "/tasks"]) {
        const { status, body } = await lab.call("GET", path);
        expect([status, body]).toEqual([503, { message: LOCKED }]);
      }
      const { body } = await lab.call("GET", "/info");
      expect(at(body, "Swarm", "LocalNodeState")).toBe("locked");
      expect(at(body, "Swarm", "Error")).toBe(LOCKED);
      expect(at(body, "Swarm", "ControlAvailable")).toBe(false);
      const status = await lab.call("GET", "/shoal/v1/status");
      expect(at(status.body, "node", "state")).toBe("locked");
    });

    test("takes a key, and refuses what is none", async () => {
      for (const text of ["", "x", "SWMKEY-1-?", undefined]) {
        const answer = await unlock(text);
        expect([answer.status, answer.body]).toEqual([400, { message: "invalid key string" }]);
      }
      expect(lab.ports.calls.unlock).toEqual([]);
      const answer = await unlock("SWMKEY-1-AAEC");
      expect([answer.status, answer.text]).toEqual([200, ""]);
      expect(lab.ports.calls.unlock).toEqual([Buffer.from([0, 1, 2])]);
      lab.ports.unlock = async () => {
        throw new ClusterError(
          "unauthenticated",
          "swarm could not be unlocked: invalid key provided",
        );
      };
      expect((await unlock("SWMKEY-1-AAEC")).status).toBe(401);
    });

    test("is in a swarm: no other is made or joined", async () => {
      const join = { RemoteAddrs: ["a:1"], JoinToken: "x" };
      for (const answer of [
        await lab.call("POST", "/swarm/init", {}),
        await lab.call("POST", "/swarm/join", join),
      ]) {
        expect(answer.status).toBe(503);
        expect(answer.text).toContain("already part of a swarm");
      }
    });
  });
});
