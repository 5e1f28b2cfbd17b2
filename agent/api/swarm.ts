/** /swarm: the cluster itself. Source: Docker Engine API, tag Swarm; moby daemon/cluster/swarm.go. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { Cluster, ClusterSpec, ExternalCa } from "../../core/objects/cluster.ts";
import type { NodeAvailability } from "../../core/objects/node.ts";
import { makeJoinToken } from "../../net/pki/join-token.ts";
import { tlsInfo } from "../../net/pki/read.ts";
import { openTokens, openUnlockKey, sealTokens, sealUnlockKey } from "../cluster-secrets.ts";
import { makeUnlockKey, parseUnlockKey } from "../unlock-key.ts";
import { readBody } from "./body.ts";
import { type CaWish, externalCas, keptExternalCas, planCaChange } from "./ca-config.ts";
import { type ApiContext, proposeInSequence } from "./context.ts";
import { isTruthy, parseGoBool, parseVersion } from "./go-values.ts";
import type { ApiPorts, InitRequest, JoinRequest } from "./ports.ts";
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
    refuseSigningCa(body.Spec?.CAConfig);
    const ExternalCAs = externalCas(body.Spec?.CAConfig?.ExternalCAs);
    if (spec?.CAConfig && ExternalCAs.length > 0) {
      refuseUnknownRoot(ExternalCAs);
      request.Spec = { ...spec, CAConfig: { ...spec.CAConfig, ExternalCAs } };
    }
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
    await proposeInSequence(context, async () => {
      const cluster = await ports.read((view) => view.cluster());
      if (!cluster) throw new ClusterError("unavailable", NOT_IN_SWARM);
      const entries = keptExternalCas(
        parsed.CAConfig,
        externalCas(parsed.CAConfig?.ExternalCAs),
        cluster,
      );
      const spec = checkClusterSpec(parsed, cluster.spec, entries);
      const ca = await planCaChange(parsed.CAConfig, entries, cluster, ports);
      const token = () => makeJoinToken(cluster.rootCa.certificatePem, ports.random);
      const joinTokens = () =>
        sealTokens(ports.vault, {
          worker: rotateWorker ? token() : cluster.joinTokens.worker,
          manager: rotateManager ? token() : cluster.joinTokens.manager,
        });
      const isLocked = spec.EncryptionConfig.AutoLockManagers;
      const isNewKey = isLocked && (cluster.unlockKey === undefined || rotateUnlockKey);
      return {
        type: "update",
        table: "cluster",
        id: cluster.id,
        ifVersion: ports.specVersions.seen(cluster, version),
        set: {
          spec,
          ...(rotateWorker || rotateManager ? { joinTokens: joinTokens() } : {}),
          ...ca.set,
          ...(isNewKey ? newUnlockKey(ports, cluster) : {}),
        },
        unset: [...ca.unset, ...(isLocked ? [] : ["unlockKey"])],
      };
    });
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

/** Who had the old one may have had the data key as well: that one changes with it. */
function newUnlockKey(
  { vault, nowMs }: Pick<ApiPorts, "vault" | "nowMs">,
  { dataKeys }: Cluster,
): Pick<Cluster, "unlockKey" | "dataKeys"> {
  const nextId = dataKeys?.nextId ?? vault.prepare(nowMs());
  return {
    unlockKey: sealUnlockKey(vault, makeUnlockKey()),
    dataKeys: { ...dataKeys, nextId },
  };
}

/** The root is made by init: nobody else has its key yet, so without one of its own an external CA cannot sign. */
function refuseUnknownRoot(entries: readonly ExternalCa[]): void {
  if (entries.every(({ CACert }) => CACert !== "")) return;
  throw new ClusterError(
    "invalid-argument",
    "an external CA cannot sign by the root that init is about to make: init without it, then docker swarm ca --rotate --ca-cert FILE --external-ca protocol=cfssl,url=URL",
  );
}

function refuseSigningCa(wanted: CaWish | undefined): void {
  if (!wanted?.SigningCACert && !wanted?.SigningCAKey) return;
  throw new ClusterError(
    "not-implemented",
    "a swarm begins with a CA of its own: bring yours in afterwards by docker swarm ca --rotate",
  );
}

/** The spec as stored. It replaces the old one: what is not given becomes zero, as in stock. */
function checkClusterSpec(
  parsed: ParsedClusterSpec,
  current: ClusterSpec,
  ExternalCAs: ExternalCa[],
): ClusterSpec {
  // No name is the default one, in stock too.
  if (parsed.Name !== "" && parsed.Name !== "default") {
    throw new ClusterError("invalid-argument", 'swarm spec must be named "default"');
  }
  const ca = parsed.CAConfig;
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
      ...(ExternalCAs.length > 0 ? { ExternalCAs } : {}),
    },
  };
}
