/** /swarm: the cluster itself. Source: Docker Engine API, tag Swarm; moby daemon/cluster/swarm.go. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { Cluster, ClusterSpec } from "../../core/objects/cluster.ts";
import type { NodeAvailability } from "../../core/objects/node.ts";
import { makeJoinToken } from "../../net/pki/join-token.ts";
import { tlsInfo } from "../../net/pki/read.ts";
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
} from "./spec-schema.ts";

const CERT_EXPIRY_NS_MIN = 3_600_000_000_000;
const ALREADY_IN_SWARM =
  'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
const NOT_IN_SWARM = "This node is not part of a swarm";

/** ClusterInfo with the issuer's details; reading a certificate is cheap enough for each answer. */
export function clusterInfo(cluster: Cluster): Json {
  return renderCluster(cluster, tlsInfo(cluster.rootCa.certificatePem));
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
    refuseAutolock(request.AutoLockManagers || spec?.EncryptionConfig?.AutoLockManagers);
    refuseCaChanges(spec?.CAConfig, undefined);
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
    return c.json({
      ...clusterInfo(cluster),
      JoinTokens: { Worker: cluster.joinTokens.worker, Manager: cluster.joinTokens.manager },
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
    refuseAutolock(parsed.EncryptionConfig.AutoLockManagers || rotateUnlockKey);
    const spec = checkClusterSpec(parsed, cluster.spec);
    const token = () => makeJoinToken(cluster.rootCa.certificatePem, ports.random);
    const joinTokens = {
      worker: rotateWorker ? token() : cluster.joinTokens.worker,
      manager: rotateManager ? token() : cluster.joinTokens.manager,
    };
    await propose(context, [
      {
        type: "update",
        table: "cluster",
        id: cluster.id,
        ifVersion: version,
        set: rotateWorker || rotateManager ? { spec, joinTokens } : { spec },
      },
    ]);
    return c.body(null, 200);
  });

  // Managers are never locked here: there is no key, and nothing to unlock.
  app.get("/unlockkey", async (c) => {
    await ports.read((view) => view.index);
    return c.json({ UnlockKey: "" });
  });
  app.post("/unlock", (_c) => {
    if (ports.localNode().state === "inactive") {
      throw new ClusterError("unavailable", NOT_IN_SWARM);
    }
    throw new ClusterError("name-conflict", "swarm is not locked");
  });
  return app;
}

function chosen(availability: NodeAvailability | "" | undefined): {
  Availability?: NodeAvailability;
} {
  return availability ? { Availability: availability } : {};
}

function refuseAutolock(isWanted: boolean | undefined): void {
  if (!isWanted) return;
  throw new ClusterError(
    "not-implemented",
    "autolock is not supported yet: keep /var/lib/shoal on an encrypted disk instead",
  );
}

function refuseCaChanges(
  wanted:
    | {
        ForceRotate?: number;
        ExternalCAs?: unknown[];
        SigningCACert?: string;
        SigningCAKey?: string;
      }
    | undefined,
  current: ClusterSpec["CAConfig"] | undefined,
): void {
  if (wanted?.ExternalCAs && wanted.ExternalCAs.length > 0) {
    throw new ClusterError("not-implemented", "external CAs are not supported yet: leave them out");
  }
  const isRotation = (wanted?.ForceRotate ?? 0) !== (current?.ForceRotate ?? 0);
  if (isRotation || wanted?.SigningCACert || wanted?.SigningCAKey) {
    throw new ClusterError("not-implemented", "rotating the root CA is not supported yet");
  }
}

/** The spec as stored. It replaces the old one: what is not given becomes zero, as in stock. */
function checkClusterSpec(parsed: ParsedClusterSpec, current: ClusterSpec): ClusterSpec {
  if (parsed.Name !== "default") {
    throw controlError("invalid-argument", 'swarm spec must be named "default"');
  }
  const ca = parsed.CAConfig;
  refuseCaChanges(ca, current.CAConfig);
  if (ca && ca.NodeCertExpiry < CERT_EXPIRY_NS_MIN) {
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
    Raft: raft ?? current.Raft,
    Dispatcher: parsed.Dispatcher?.HeartbeatPeriod
      ? parsed.Dispatcher
      : { HeartbeatPeriod: current.Dispatcher.HeartbeatPeriod },
    CAConfig: {
      NodeCertExpiry: ca?.NodeCertExpiry ?? current.CAConfig.NodeCertExpiry,
      ...(ca?.ForceRotate === undefined ? {} : { ForceRotate: ca.ForceRotate }),
    },
  };
}
