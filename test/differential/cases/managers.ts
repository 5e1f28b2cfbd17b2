/** Two managers: what promoting, demoting and leaving say. Stock's raft needs a moment after each. */
import { type Case, get, http, setup, sh, table } from "../case.ts";

const onSecond = { host: 2 };
const slow = { timeoutMs: 30_000 };
/** Ready for what comes next: both are managers and see each other, or one is a worker again. */
const isManager = setup("docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'", {
  until: /h1 Ready Leader[\s\S]*h2 Ready Reachable/,
  ...slow,
});
const isWorker = setup("docker info --format '{{.Swarm.ControlAvailable}}'", {
  until: /^false/,
  ...onSecond,
  ...slow,
});
const answers = setup("docker node ls -q", { until: /\w+\n\w+/, ...onSecond, ...slow });

export const MANAGER_CASES: readonly Case[] = [
  ...table("managers", {
    promote: [
      sh("docker node promote h2"),
      isManager,
      answers,
      sh("docker node promote h2 h1"),
      sh("docker node ls"),
      sh("docker node ls --format '{{.Hostname}} {{.ManagerStatus}} {{.Self}}'", onSecond),
      sh("docker node ls --filter role=manager --format '{{.Hostname}}'"),
      sh("docker node inspect --format '{{json .ManagerStatus}}' h2"),
      sh("docker node inspect --format '{{.Spec.Role}} {{.Status.State}}' self", onSecond),
      sh(
        "docker info --format '{{.Swarm.Managers}} {{.Swarm.Nodes}} {{.Swarm.ControlAvailable}}'",
        {
          until: /^2 2 true/,
          ...onSecond,
        },
      ),
      get("/nodes"),
    ],
    "what a second manager answers": [
      sh("docker service ls", onSecond),
      sh("docker swarm join-token -q worker", onSecond),
      sh("docker network ls --filter driver=overlay --format '{{.Name}}'", onSecond),
      sh("docker service create -d --no-resolve-image --name s1 --replicas 0 lab:latest", {
        save: "svc",
        ...onSecond,
      }),
      sh("docker service inspect -f '{{.Spec.Name}}' s1"),
      sh("docker service rm s1", onSecond),
      sh("docker swarm init", onSecond),
      sh("docker swarm update --task-history-limit 4", onSecond),
      sh("docker info --format '{{.Swarm.Cluster.Spec.Orchestration.TaskHistoryRetentionLimit}}'"),
    ],
    "a manager is not removed": [
      sh("docker node rm h2"),
      sh("docker node rm --force h2"),
      sh("docker node rm h1", onSecond),
    ],
    "a manager does not leave unasked": [sh("docker swarm leave", onSecond)],
    "demote, by the API, with an old version": [
      http("POST", "/nodes/$worker/update?version=1", { Role: "worker", Availability: "active" }),
    ],
    demote: [
      sh("docker node demote h2"),
      isWorker,
      setup("docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'", {
        until: /h2 Ready\s*(\n|$)/,
        ...slow,
      }),
      sh("docker node ls"),
      sh("docker node ls", onSecond),
      sh("docker node demote h2"),
    ],
    // Stock does not take one in again so soon after it was demoted.
    "roles by update": [
      sh("docker node update --role worker h2"),
      sh("docker node update --role nosuch h2"),
      sh("docker node update --role worker h1"),
      sh("docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'", onSecond),
    ],
  }),
];
