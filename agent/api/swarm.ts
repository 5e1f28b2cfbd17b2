/** /swarm: the cluster itself. Source: Docker Engine API, tag Swarm; moby daemon/cluster/swarm.go. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { CaRotation, Cluster, ClusterSpec } from "../../core/objects/cluster.ts";
import type { NodeAvailability } from "../../core/objects/node.ts";
import type { Random } from "../../core/random.ts";
import { createRootCa, readRootCa } from "../../net/pki/issue.ts";
import { makeJoinToken } from "../../net/pki/join-token.ts";
import { tlsInfo } from "../../net/pki/read.ts";
import {
  openTokens,
  openUnlockKey,
  sealRotation,
  sealTokens,
  sealUnlockKey,
} from "../cluster-secrets.ts";
import { makeUnlockKey, parseUnlockKey } from "../unlock-key.ts";
import { readBody } from "./body.ts";
import { type ApiContext, propose } from "./context.ts";
import { isTruthy, parseGoBool, parseVersion } from "./go-values.ts";
import type { InitRequest, JoinRequest } from "./ports.ts";
import { controlError } from "./problem.ts";
import { type Json, renderCluster } from "./render.ts";
import {
  clusterSpecSchema,
  initSchema,
  joinSchema,
  type ParsedClusterSpec,
  unlockSchema,
} from "./spec-schema.ts";

const CERT_EXPIRY_NS_MIN = 3_600_000_000_000;
const ALREADY_IN_SWARM =
  'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
const NOT_IN_SWARM = "This node is not part of a swarm";
const NOT_LOCKED = "swarm is not locked";

/** ClusterInfo with the issuer's details; reading a certificate is cheap enough for each answer. */
export function clusterInfo(cluster: Cluster): Json {
  // While roots change, the one that all nodes are to have at the end.
  const { certificatePem } = cluster.caRotation ?? cluster.rootCa;
  return renderCluster(cluster, tlsInfo(certificatePem));
}

export function swarmRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.post("/init", async (c) => {
    const { Availability, ...body } = await readBody(c, initSchema);
    const request: InitRequest = { ...body, ...chosen(Availability) } as InitRequest;
    if (ports.localNode().state !== "inactive" && !request.ForceNewCluster) {
      throw new ClusterError("unavailable", ALREADY_IN_SWARM);
    }
    const spec = request.Spec;
    if (spec?.Name && spec.Name !== "default") {
      throw new ClusterError("invalid-argument", 'swarm spec must be named "default"');
    }
    const dataPathPort = request.DataPathPort ?? 0;
    if (dataPathPort !== 0 && (dataPathPort < 1024 || dataPathPort > 49_151)) {
      throw new ClusterError(
        "invalid-argument",
        `Datapath port number is not in valid range (1024-49151) : ${dataPathPort}`,
      );
    }
    refuseExternalCa(spec?.CAConfig?.ExternalCAs);
    refuseSigningCa(spec?.CAConfig);
    return c.json(await ports.init(request));
  });

  app.post("/join", async (c) => {
    const { Availability, ...body } = await readBody(c, joinSchema);
    if (ports.localNode().state !== "inactive") {
      throw new ClusterError("unavailable", ALREADY_IN_SWARM);
    }
    if (body.RemoteAddrs.length === 0) {
      throw new ClusterError("invalid-argument", "at least 1 RemoteAddr is required to join");
    }
    const request: JoinRequest = { ...body, ...chosen(Availability) };
    await ports.join(request);
    return c.body(null, 200);
  });

  app.post("/leave", async (c) => {
    await ports.leave({ force: isTruthy(c.req.query("force")) });
    return c.body(null, 200);
  });

  app.get("/", async (c) => {
    const cluster = await ports.read((view) => view.cluster());
    if (!cluster) throw new ClusterError("unavailable", NOT_IN_SWARM);
    const tokens = openTokens(ports.vault, cluster);
    return c.json({
      ...clusterInfo(cluster),
      JoinTokens: { Worker: tokens.worker, Manager: tokens.manager },
    });
  });

  app.post("/update", async (c) => {
    const version = parseVersion("swarm", c.req.query("version"));
    const flag = (name: string) => parseGoBool(name, c.req.query(name));
    const rotateWorker = flag("rotateWorkerToken");
    const rotateManager = flag("rotateManagerToken");
    const rotateUnlockKey = flag("rotateManagerUnlockKey");
    const parsed = await readBody(c, clusterSpecSchema);
    const cluster = await ports.read((view) => view.cluster());
    if (!cluster) throw new ClusterError("unavailable", NOT_IN_SWARM);
    const spec = checkClusterSpec(parsed, cluster.spec);
    const rotation = await newRotation(parsed.CAConfig, cluster, ports.random);
    const caRotation = rotation && sealRotation(ports.vault, rotation);
    const token = () => makeJoinToken(cluster.rootCa.certificatePem, ports.random);
    const joinTokens = () =>
      sealTokens(ports.vault, {
        worker: rotateWorker ? token() : cluster.joinTokens.worker,
        manager: rotateManager ? token() : cluster.joinTokens.manager,
      });
    const isLocked = spec.EncryptionConfig.AutoLockManagers;
    const isNewKey = isLocked && (cluster.unlockKey === undefined || rotateUnlockKey);
    await propose(context, [
      {
        type: "update",
        table: "cluster",
        id: cluster.id,
        ifVersion: version,
        set: {
          spec,
          ...(rotateWorker || rotateManager ? { joinTokens: joinTokens() } : {}),
          ...(caRotation ? { caRotation } : {}),
          ...(isNewKey ? { unlockKey: sealUnlockKey(ports.vault, makeUnlockKey()) } : {}),
        },
        ...(isLocked ? {} : { unset: ["unlockKey"] }),
      },
    ]);
    return c.body(null, 200);
  });

  app.get("/unlockkey", async (c) => {
    const cluster = await ports.read((view) => view.cluster());
    c.header("Cache-Control", "no-store");
    return c.json({ UnlockKey: (cluster && openUnlockKey(ports.vault, cluster)) ?? "" });
  });
  app.post("/unlock", async (c) => {
    const { UnlockKey } = await readBody(c, unlockSchema);
    const local = ports.localNode();
    if (local.state === "inactive") throw new ClusterError("unavailable", NOT_IN_SWARM);
    if (local.state !== "locked") {
      // A worker says that it is none.
      if (!local.isManager) await ports.read((view) => view.index);
      throw new ClusterError("name-conflict", NOT_LOCKED);
    }
    await ports.unlock(parseUnlockKey(UnlockKey ?? ""));
    return c.body(null, 200);
  });
  return app;
}

function chosen(availability: NodeAvailability | "" | undefined): {
  Availability?: NodeAvailability;
} {
  return availability ? { Availability: availability } : {};
}

function refuseExternalCa(wanted: unknown[] | undefined): void {
  if (!wanted || wanted.length === 0) return;
  throw new ClusterError("not-implemented", "external CAs are not supported yet: leave them out");
}

function refuseSigningCa(wanted: CaWish): void {
  if (!wanted?.SigningCACert && !wanted?.SigningCAKey) return;
  throw new ClusterError(
    "not-implemented",
    "a swarm begins with a CA of its own: bring yours in afterwards by docker swarm ca --rotate",
  );
}

type CaWish = { ForceRotate?: number; SigningCACert?: string; SigningCAKey?: string } | undefined;

/** The rotation that the spec asks for, by a higher ForceRotate or by a root of the user's own. */
async function newRotation(
  wanted: CaWish,
  cluster: Cluster,
  random: Random,
): Promise<CaRotation | undefined> {
  const certificate = wanted?.SigningCACert ?? "";
  const key = wanted?.SigningCAKey ?? "";
  const isForced = (wanted?.ForceRotate ?? 0) !== (cluster.spec.CAConfig.ForceRotate ?? 0);
  if (certificate === "" && key === "" && !isForced) return undefined;
  if (cluster.caRotation) {
    throw new ClusterError(
      "failed-precondition",
      "the root CA is being rotated already: it ends when every node has followed; remove nodes that are gone for good by docker node rm",
    );
  }
  if ((certificate === "") !== (key === "")) {
    throw new ClusterError(
      "invalid-argument",
      "a new root CA needs both its certificate and its key: external CAs are not supported yet",
    );
  }
  const root =
    certificate === ""
      ? await createRootCa({ random })
      : readRootCa({ certificatePem: certificate, keyPem: key, nowMs: Date.now() });
  const token = () => makeJoinToken(root.certificatePem, random);
  return {
    ...root,
    issuerPublicKey: tlsInfo(root.certificatePem).CertIssuerPublicKey,
    joinTokens: { worker: token(), manager: token() },
    isSigning: false,
  };
}

/** The spec as stored. It replaces the old one: what is not given becomes zero, as in stock. */
function checkClusterSpec(parsed: ParsedClusterSpec, current: ClusterSpec): ClusterSpec {
  // No name is the default one, in stock too.
  if (parsed.Name !== "" && parsed.Name !== "default") {
    throw new ClusterError("invalid-argument", 'swarm spec must be named "default"');
  }
  const ca = parsed.CAConfig;
  refuseExternalCa(ca?.ExternalCAs);
  // Zero is as not given.
  if (ca && ca.NodeCertExpiry !== 0 && ca.NodeCertExpiry < CERT_EXPIRY_NS_MIN) {
    throw controlError("invalid-argument", "minimum certificate expiry time is: 1h0m0s");
  }
  if ((parsed.Dispatcher?.HeartbeatPeriod ?? 0) < 0) {
    throw controlError("invalid-argument", "heartbeat time period cannot be a negative duration");
  }
  const raft = parsed.Raft;
  if (
    raft &&
    (raft.ElectionTick !== current.Raft.ElectionTick ||
      raft.HeartbeatTick !== current.Raft.HeartbeatTick)
  ) {
    throw controlError(
      "invalid-argument",
      "the raft ticks cannot be changed: leave ElectionTick and HeartbeatTick as they are",
    );
  }
  return {
    ...parsed,
    Name: "default",
    Raft: raft ?? current.Raft,
    Dispatcher: parsed.Dispatcher?.HeartbeatPeriod
      ? parsed.Dispatcher
      : { HeartbeatPeriod: current.Dispatcher.HeartbeatPeriod },
    CAConfig: {
      NodeCertExpiry: ca?.NodeCertExpiry || current.CAConfig.NodeCertExpiry,
      ...(ca?.ForceRotate === undefined ? {} : { ForceRotate: ca.ForceRotate }),
    },
  };
}
