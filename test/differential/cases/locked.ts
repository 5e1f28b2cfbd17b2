/** A manager that was started again while its cluster is locked: `$key` opens it. */
import { type Case, get, post, setup, sh, table } from "../case.ts";

export const LOCKED_CASES: readonly Case[] = [
  ...table("locked", {
    info: [
      sh("docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'"),
      sh("docker info 2>&1 | grep -A1 Swarm: | head -1"),
    ],
    "what is refused": [
      sh("docker node ls"),
      sh("docker service ls"),
      sh("docker swarm join-token worker"),
      sh("docker swarm unlock-key"),
      sh("docker swarm init"),
      sh("docker swarm join --token SWMTKN-1-a-b 192.168.77.1:2377"),
      sh("docker swarm leave"),
      get("/swarm"),
      get("/swarm/unlockkey"),
      get("/nodes"),
      get("/services"),
    ],
    "a key that is wrong": [
      sh("echo SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA | docker swarm unlock"),
      sh("echo nonsense | docker swarm unlock"),
      sh("echo | docker swarm unlock"),
      post("/swarm/unlock", {}),
      post("/swarm/unlock", { UnlockKey: "" }),
      post("/swarm/unlock", { UnlockKey: 5 }),
    ],
    "what needs no cluster": [
      sh("docker ps -q"),
      sh("docker network ls --filter name=none --format '{{.Name}}'"),
      get("/_ping"),
    ],
    unlock: [
      sh("echo $key | docker swarm unlock", { timeoutMs: 30_000 }),
      setup("docker node ls --format '{{.Status}}'", { until: /Ready/, timeoutMs: 30_000 }),
      sh("docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'"),
      sh("docker swarm unlock-key -q"),
      sh("echo $key | docker swarm unlock"),
      sh("docker swarm update --autolock=false"),
      sh("docker swarm unlock-key"),
    ],
  }),
];
