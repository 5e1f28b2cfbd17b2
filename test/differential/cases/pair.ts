/** A manager (h1) and a worker (h2): what the worker refuses, what managers do with it. */
import { type Case, create, get, http, post, setup, sh, table } from "../case.ts";

const onWorker = { host: 2 };

export const PAIR_CASES: readonly Case[] = [
  ...table("worker/cli", {
    "node ls": [sh("docker node ls", onWorker)],
    "service ls": [sh("docker service ls", onWorker)],
    "service create": [sh("docker service create -d --no-resolve-image lab:latest", onWorker)],
    "secret ls": [sh("docker secret ls", onWorker)],
    "swarm join-token": [sh("docker swarm join-token worker", onWorker)],
    "swarm init": [sh("docker swarm init", onWorker)],
    "swarm ca": [sh("docker swarm ca", onWorker)],
    "swarm unlock-key": [sh("docker swarm unlock-key", onWorker)],
    "stack ls": [sh("docker stack ls", onWorker)],
    info: [sh("docker info --format '{{json .Swarm}}'", onWorker)],
    "overlay network": [sh("docker network create -d overlay n", onWorker)],
    "node ps": [sh("docker node ps", onWorker)],
    "join again": [sh("docker swarm join --token SWMTKN-1-a-b 192.168.77.1:2377", onWorker)],
    "network ls": [sh("docker network ls --filter name=nosuch", onWorker)],
  }),
  ...table("worker/api", {
    refusals: [
      "/swarm",
      "/nodes",
      "/nodes/x",
      "/services",
      "/services/x",
      "/tasks",
      "/secrets",
      "/configs",
    ].map((path) => get(path, onWorker)),
    posts: [
      "/services/create",
      "/secrets/create",
      "/swarm/update?version=1",
      "/nodes/x/update?version=1",
    ].map((path) => post(path, {}, onWorker)),
    unlock: [post("/swarm/unlock", { UnlockKey: "x" }, onWorker)],
    ping: [get("/_ping", onWorker)],
    logs: [get("/services/x/logs?stdout=1", onWorker)],
  }),
  ...table("pair/node", {
    ls: [
      sh("docker node ls"),
      sh("docker node ls --filter role=worker -q"),
      sh("docker node ls --format '{{.Hostname}} {{.ManagerStatus}} {{.Self}}'"),
    ],
    list: [get("/nodes")],
    "inspect the worker": [
      sh("docker node inspect h2"),
      sh("docker node inspect --pretty h2 | grep -v -e Memory -e CPUs"),
    ],
    "rm while it is up": [sh("docker node rm h2")],
    "demote a worker": [sh("docker node demote h2")],
    "ps of two": [sh("docker node ps --filter name=nosuch h1 h2")],
    "update several at once": [
      sh("docker node update --label-add a=b h2"),
      sh("docker node inspect -f '{{json .Spec.Labels}}' h2"),
      sh("docker node update --label-rm a h2"),
    ],
    "service on the worker only": [
      setup(create("--name s1 --constraint node.hostname==h2 --stop-grace-period 1s"), {
        save: "svc",
      }),
      sh("docker service ps --format '{{.Name}} {{.Node}} {{.DesiredState}}' s1", { until: /h2/ }),
      sh("docker service ls", { until: /1\/1/ }),
      sh("docker node ps --format '{{.Name}} {{.Node}}' h2"),
    ],
    "global service": [
      setup(create("--name s1 --mode global --stop-grace-period 1s"), { save: "svc" }),
      sh("docker service ls", { until: /2\/2/ }),
      sh("docker service ps --format '{{.Image}} {{.Node}} {{.DesiredState}}' s1 | sort"),
    ],
    "no suitable node, two reasons": [
      setup("docker node update --availability pause h2"),
      setup(create("--name s1 --constraint node.labels.no==1"), { save: "svc" }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}}' s1"),
      setup("docker node update --availability active h2"),
    ],
    spread: [
      setup(create("--name s1 --replicas 4 --stop-grace-period 1s"), { save: "svc" }),
      setup("docker service ls", { until: /4\/4/ }),
      sh("docker service ps --format '{{.Node}}' s1 | sort | uniq -c"),
    ],
    "drain moves tasks": [
      setup(create("--name s1 --replicas 2 --stop-grace-period 1s"), { save: "svc" }),
      setup("docker service ls", { until: /2\/2/ }),
      setup("docker node update --availability drain h2"),
      sh(
        "docker service ps --filter desired-state=running --format '{{.Node}} {{.DesiredState}}' s1",
        { until: /^h1 Running\nh1 Running\s*$/ },
      ),
      setup("docker node update --availability active h2"),
    ],
    "update by the API of a worker": [
      http("POST", "/nodes/$worker/update?version=1", { Role: "worker", Availability: "active" }),
    ],
  }),
];
