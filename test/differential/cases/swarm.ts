/** `docker swarm` on a manager, and /swarm. */
import { type Case, get, http, post, setup, sh, table } from "../case.ts";

/** The current version, then an update with the spec that `docker swarm inspect` would give. */
const SPEC = {
  Name: "default",
  Labels: {},
  Orchestration: { TaskHistoryRetentionLimit: 5 },
  Raft: {
    SnapshotInterval: 10_000,
    KeepOldSnapshots: 0,
    LogEntriesForSlowFollowers: 500,
    ElectionTick: 10,
    HeartbeatTick: 1,
  },
  Dispatcher: { HeartbeatPeriod: 5_000_000_000 },
  CAConfig: { NodeCertExpiry: 7_776_000_000_000_000 },
  TaskDefaults: {},
  EncryptionConfig: { AutoLockManagers: false },
};
const version = get("/swarm", { save: "v", pick: "Version.Index" });
const shown = get("/swarm");
const update = (query: string, set: Record<string, unknown> = {}) =>
  post(`/swarm/update?version=$v${query}`, { ...SPEC, ...set });
const reset = [
  get("/swarm", { save: "v", pick: "Version.Index", setup: true }),
  { ...update(""), setup: true },
];
const tell = (set: Record<string, unknown>, query = "") => [
  version,
  update(query, set),
  shown,
  ...reset,
];

export const SWARM_CASES: readonly Case[] = [
  ...table("swarm/cli", {
    "init again": "docker swarm init",
    "join while in one": "docker swarm join --token SWMTKN-1-a-b 192.168.77.2:2377",
    "join-token worker": "docker swarm join-token worker",
    "join-token manager": "docker swarm join-token manager",
    "join-token -q": "docker swarm join-token -q manager",
    "join-token of no role": "docker swarm join-token captain",
    "join-token without role": "docker swarm join-token",
    "join-token --rotate": [
      sh("docker swarm join-token --rotate worker"),
      sh("docker swarm join-token --rotate -q manager"),
    ],
    "update without flags": "docker swarm update",
    "update task history": [sh("docker swarm update --task-history-limit 3"), shown, ...reset],
    "update heartbeat": [sh("docker swarm update --dispatcher-heartbeat 7s"), shown, ...reset],
    "update expiry": [sh("docker swarm update --cert-expiry 48h"), shown, ...reset],
    "update expiry too short": "docker swarm update --cert-expiry 5m",
    "update snapshots": [
      sh("docker swarm update --max-snapshots 2 --snapshot-interval 5000"),
      shown,
      ...reset,
    ],
    "update history below 0": [sh("docker swarm update --task-history-limit=-1"), shown, ...reset],
    "update external CA without URL": "docker swarm update --external-ca protocol=cfssl",
    "update external CA of another protocol":
      "docker swarm update --external-ca protocol=foo,url=https://x",
    unlock: "echo SWMKEY-1-abc | docker swarm unlock",
    "unlock-key": "docker swarm unlock-key",
    "unlock-key -q": "docker swarm unlock-key -q",
    "unlock-key --rotate": "docker swarm unlock-key --rotate",
    ca: "docker swarm ca",
    "ca with flags that need --rotate": "docker swarm ca --cert-expiry 48h",
    "leave of the last manager": "docker swarm leave",
    "no such command": "docker swarm nosuch",
    info: "docker info --format '{{json .Swarm}}'",
    "info in words": "docker info 2>&1 | sed -n '/Swarm/,/2377/p'",
  }),
  ...table("swarm/autolock", {
    "on, its key, another key, off": [
      sh("docker swarm update --autolock=true"),
      shown,
      sh("docker swarm unlock-key"),
      setup("docker swarm unlock-key -q", { save: "key" }),
      sh("docker swarm unlock-key --rotate"),
      sh("docker swarm unlock-key -q"),
      get("/swarm/unlockkey"),
      post("/swarm/unlock", { UnlockKey: "$key" }),
      sh("echo $key | docker swarm unlock"),
      sh(
        "docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.Cluster.Spec.EncryptionConfig.AutoLockManagers}}'",
      ),
      sh("docker swarm update --autolock=false"),
      sh("docker swarm unlock-key"),
      shown,
    ],
    "a rotation of the key without one": [
      version,
      update("&rotateManagerUnlockKey=true"),
      get("/swarm/unlockkey"),
    ],
  }),
  ...table("swarm/api", {
    inspect: [shown],
    "inspect in an old version": [get("/v1.24/swarm"), get("/v1.38/swarm")],
    "unlock key": [get("/swarm/unlockkey")],
    unlock: [post("/swarm/unlock", { UnlockKey: "x" })],
    "unlock without body": [http("POST", "/swarm/unlock", "")],
    "init again": [post("/swarm/init", { ListenAddr: "0.0.0.0:2377" })],
    "init again without listen address": [post("/swarm/init", {})],
    "join while in one": [
      post("/swarm/join", { ListenAddr: "0.0.0.0:2377", RemoteAddrs: ["1.2.3.4"], JoinToken: "x" }),
    ],
    "leave of the last manager": [post("/swarm/leave")],
    "update that changes nothing": tell({}),
    "update labels": tell({ Labels: { a: "b" } }),
    "update history": tell({ Orchestration: { TaskHistoryRetentionLimit: 7 } }),
    "update without orchestration": tell({ Orchestration: {} }),
    "update without dispatcher": tell({ Dispatcher: undefined }),
    "update heartbeat 0": tell({ Dispatcher: { HeartbeatPeriod: 0 } }),
    "update heartbeat below 0": tell({ Dispatcher: { HeartbeatPeriod: -1 } }),
    "update without raft": tell({ Raft: undefined }),
    "update election tick": tell({ Raft: { ...SPEC.Raft, ElectionTick: 5 } }),
    "update heartbeat tick": tell({ Raft: { ...SPEC.Raft, HeartbeatTick: 20 } }),
    "update snapshot interval": tell({ Raft: { ...SPEC.Raft, SnapshotInterval: 77 } }),
    "update without CA": tell({ CAConfig: undefined }),
    "update expiry too short": tell({ CAConfig: { NodeCertExpiry: 1 } }),
    "update expiry 0": tell({ CAConfig: {} }),
    "update name": tell({ Name: "other" }),
    "update without name": tell({ Name: undefined }),
    "update task defaults": tell({ TaskDefaults: { LogDriver: { Name: "json-file" } } }),
    "update rotating a token": [version, update("&rotateWorkerToken=true"), shown],
    "update rotating both": [version, update("&rotateWorkerToken=1&rotateManagerToken=1")],
    "update with a bad flag": [version, update("&rotateWorkerToken=maybe")],
    "update with a bad flag 2": [version, update("&rotateManagerToken=maybe")],
    "update with a bad flag 3": [version, update("&rotateManagerUnlockKey=maybe")],
    "update out of sequence": [post("/swarm/update?version=1", SPEC)],
    "update without version": [post("/swarm/update", SPEC)],
    "update with a bad version": [post("/swarm/update?version=abc", SPEC)],
    "update with a version below 0": [post("/swarm/update?version=-1", SPEC)],
    "update without body": [version, http("POST", "/swarm/update?version=$v", "")],
    "update of the wrong type": [version, post("/swarm/update?version=$v", { Name: 5 })],
    "update with a list": [version, post("/swarm/update?version=$v", [])],
    "update with an unknown field": tell({ Nonsense: { a: 1 } }),
    "update with null parts": tell({ Labels: null, TaskDefaults: null }),
    "unknown path": [get("/swarm/nosuch")],
    "unknown method": [http("PUT", "/swarm"), http("DELETE", "/swarm")],
    "token rotation shows in join-token": [
      setup("docker swarm join-token -q worker", { save: "old" }),
      setup("docker swarm join-token --rotate -q worker", { save: "fresh" }),
      sh('test "$old" != "$fresh" && echo changed'),
      sh("docker swarm join-token -q worker"),
    ],
  }),
];

/** Last of one manager: a rotation goes on for a while, and sets ForceRotate. */
export const CA_CASES: readonly Case[] = table("swarm/ca", {
  "--rotate": [
    setup("docker swarm ca --rotate -q", { timeoutMs: 60_000 }),
    sh("docker swarm ca"),
    sh("docker node ls --format '{{.TLSStatus}}'", { until: /Ready/ }),
    get("/swarm", { volatile: /ForceRotate/ }),
  ],
  "--rotate with an expiry too short": "docker swarm ca --rotate --cert-expiry 1m -d",
  "--rotate with a certificate that is none": [
    sh("echo x > ca.pem; docker swarm ca --rotate -d --ca-cert ca.pem --ca-key ca.pem"),
  ],
  "--external-ca that is no cfssl":
    "docker swarm ca --rotate -d --external-ca protocol=nosuch,url=https://x",
  "signing certificate that is none": [
    version,
    update("", { CAConfig: { ...SPEC.CAConfig, SigningCACert: "x", SigningCAKey: "y" } }),
  ],
  "a spec that does not name the last forced rotation begins one": [
    version,
    update(""),
    setup("docker node ls --format '{{.TLSStatus}}'", { until: /Rotation/, timeoutMs: 10_000 }),
    sh("docker node ls --format '{{.TLSStatus}}'", { until: /Ready/, timeoutMs: 30_000 }),
    sh("docker info --format '{{.Swarm.Cluster.RootRotationInProgress}}'", { until: /false/ }),
  ],
});
