/** The end: the worker leaves, is removed, and the last manager goes. */
import { type Case, get, setup, sh } from "../case.ts";

const onWorker = { host: 2 };

export const LEAVE_CASES: readonly Case[] = [
  {
    name: "leave: a worker",
    steps: [
      sh("docker swarm leave", onWorker),
      sh("docker info --format '{{json .Swarm}}'", onWorker),
    ],
  },
  {
    name: "leave: the worker is down then",
    steps: [
      setup("docker node ls --format '{{.Hostname}} {{.Status}}'", {
        until: /h2 Down/,
        timeoutMs: 40_000,
      }),
      sh("docker node ls"),
      sh("docker node promote h2"),
      sh("docker node demote h2"),
      sh("docker node rm h2"),
      sh("docker node ls --format '{{.Hostname}}'"),
    ],
  },
  {
    name: "leave: the last manager, not by force",
    steps: [sh("docker swarm leave"), get("/swarm")],
  },
  {
    name: "leave: the last manager, by force",
    steps: [
      sh("docker swarm leave --force"),
      sh("docker info --format '{{json .Swarm}}'"),
      sh("docker node ls"),
      sh("docker swarm leave --force"),
    ],
  },
  {
    name: "leave: init again, locked",
    steps: [
      sh("docker swarm init --advertise-addr 192.168.77.1 --autolock", { timeoutMs: 30_000 }),
      sh("docker swarm unlock-key -q"),
      sh("docker swarm leave"),
      sh("docker swarm leave -f"),
    ],
  },
  {
    name: "leave: init again, with every flag",
    steps: [
      sh(
        "docker swarm init --advertise-addr 192.168.77.1:2377 --listen-addr 0.0.0.0:2377 --data-path-addr 192.168.77.1 --data-path-port 5789 --availability drain --default-addr-pool 10.99.0.0/16 --default-addr-pool-mask-length 26 --task-history-limit 3 --dispatcher-heartbeat 3s --cert-expiry 24h --max-snapshots 2 --snapshot-interval 500 | tail -n +2",
        { timeoutMs: 30_000 },
      ),
      get("/swarm"),
      setup("docker node ls --format '{{.Status}}'", { until: /Ready/ }),
      sh("docker node ls"),
      sh("docker network create -d overlay n1", { save: "net" }),
      sh("docker network inspect -f '{{json .IPAM.Config}}' ingress n1"),
      sh("docker swarm leave -f"),
    ],
  },
];
