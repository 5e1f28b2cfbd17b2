/** A host that is in no swarm: what it refuses, what `swarm init` and `swarm join` check. */
import { type Case, del, get, http, post, sh, table } from "../case.ts";

const MANAGER_CALLS = [
  "GET /swarm",
  "GET /swarm/unlockkey",
  "GET /nodes",
  "GET /nodes/x",
  "GET /services",
  "GET /services/x",
  "GET /tasks",
  "GET /tasks/x",
  "GET /secrets",
  "GET /secrets/x",
  "GET /configs",
  "GET /configs/x",
  "DELETE /nodes/x",
  "DELETE /services/x",
  "DELETE /secrets/x",
  "DELETE /configs/x",
  "POST /swarm/update?version=1",
  "POST /nodes/x/update?version=1",
  "POST /services/create",
  "POST /services/x/update?version=1",
  "POST /secrets/create",
  "POST /secrets/x/update?version=1",
  "POST /configs/create",
  "POST /configs/x/update?version=1",
];

/** Where one side has taken what the other refuses. */
const away = sh("docker swarm leave --force", { ignored: true });

export const INACTIVE_CASES: readonly Case[] = [
  ...MANAGER_CALLS.map((call): Case => {
    const [method = "GET", path = "/"] = call.split(" ");
    const body = method === "POST" ? {} : undefined;
    return { name: `inactive/api: ${call}`, steps: [http(method, path, body)] };
  }),
  ...table("inactive/cli", {
    "node ls": "docker node ls",
    "node ps": "docker node ps",
    "node inspect self": "docker node inspect self",
    "node update": "docker node update --availability drain x",
    "service ls": "docker service ls",
    "service create": "docker service create -d --no-resolve-image lab:latest",
    "service ps": "docker service ps x",
    "service logs": "docker service logs x",
    "secret ls": "docker secret ls",
    "config ls": "docker config ls",
    "stack ls": "docker stack ls",
    "stack deploy":
      "printf 'version: \"3.8\"\\nservices: {a: {image: x}}\\n' | docker stack deploy -c - s",
    "swarm join-token": "docker swarm join-token worker",
    "swarm update": "docker swarm update --task-history-limit 3",
    "swarm unlock-key": "docker swarm unlock-key",
    "swarm unlock": "echo SWMKEY-1-abc | docker swarm unlock",
    "swarm ca": "docker swarm ca",
    "swarm leave": "docker swarm leave",
    "swarm leave --force": "docker swarm leave --force",
    "overlay network": "docker network create -d overlay n",
    info: "docker info --format '{{json .Swarm}}'",
    "system info of the swarm": "docker info 2>/dev/null | grep Swarm",
    "network ls": "docker network ls --filter scope=swarm",
  }),
  ...table("inactive/init", {
    "no body": [http("POST", "/swarm/init", "")],
    "not JSON": [post("/swarm/init", "{")],
    "a list": [post("/swarm/init", "[]")],
    "wrong type": [post("/swarm/init", { ListenAddr: 5 })],
    "no listen address": [post("/swarm/init", { ListenAddr: "" })],
    "listen address without port": [post("/swarm/init", { ListenAddr: "1.2.3.4:" })],
    "listen address that is no address": [
      post("/swarm/init", { ListenAddr: "nowhere:2377", AdvertiseAddr: "192.168.77.1" }),
    ],
    "advertise address that is no address": [
      post("/swarm/init", { ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "nowhere" }),
    ],
    "unspecified advertise address": [
      post("/swarm/init", { ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "0.0.0.0" }),
    ],
    "data path port too low": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DataPathPort: 1023,
      }),
    ],
    "data path port too high":
      "docker swarm init --advertise-addr 192.168.77.1 --data-path-port 49152",
    "bad pool": "docker swarm init --advertise-addr 192.168.77.1 --default-addr-pool 10.0.0.0",
    "pool that is no CIDR, API": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DefaultAddrPool: ["x"],
        SubnetSize: 24,
      }),
    ],
    "overlapping pools": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DefaultAddrPool: ["10.99.0.0/16", "10.99.1.0/24"],
        SubnetSize: 28,
      }),
      away,
    ],
    "subnet size too large": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DefaultAddrPool: ["10.99.0.0/16"],
        SubnetSize: 30,
      }),
    ],
    "subnet size 0 with a pool": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DefaultAddrPool: ["10.99.0.0/16"],
      }),
      away,
    ],
    "subnet larger than the pool": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        DefaultAddrPool: ["10.99.0.0/26"],
        SubnetSize: 24,
      }),
    ],
    "another name": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        Spec: { Name: "mine" },
      }),
    ],
    "expiry too short": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        Spec: { CAConfig: { NodeCertExpiry: 1_000_000_000 } },
      }),
      away,
    ],
    "availability that is none": [
      post("/swarm/init", {
        ListenAddr: "0.0.0.0:2377",
        AdvertiseAddr: "192.168.77.1",
        Availability: "sometimes",
      }),
    ],
    "availability flag": "docker swarm init --availability sometimes",
    "interface that is none": "docker swarm init --advertise-addr nosuch0",
    "data path address that is none":
      "docker swarm init --advertise-addr 192.168.77.1 --data-path-addr nosuch0",
    "heartbeat that is no time": "docker swarm init --dispatcher-heartbeat soon",
    "still in no swarm": [get("/info", { save: "x", volatile: /^body\.(?!Swarm)/ })],
  }),
  ...table("inactive/join", {
    "no body": [http("POST", "/swarm/join", "")],
    "no remote": [post("/swarm/join", { ListenAddr: "0.0.0.0:2377", JoinToken: "x" })],
    "no listen address": [
      post("/swarm/join", { RemoteAddrs: ["192.168.77.2:2377"], JoinToken: "x" }),
    ],
    "bad token": "docker swarm join --token nonsense 192.168.77.2:2377",
    "no token": "docker swarm join 192.168.77.2:2377",
    "no address": "docker swarm join --token x",
    "token of the wrong form": "docker swarm join --token SWMTKN-1-abc-def 192.168.77.2:2377",
  }),
  ...table("inactive/api", {
    unlock: [post("/swarm/unlock", { UnlockKey: "SWMKEY-1-abc" })],
    "unlock, no body": [http("POST", "/swarm/unlock", "")],
    leave: [post("/swarm/leave")],
    "leave by force": [post("/swarm/leave?force=1")],
    "overlay network": [post("/networks/create", { Name: "n", Driver: "overlay" })],
    "delete of a network that is none": [del("/networks/nosuch")],
    ping: [get("/_ping"), http("HEAD", "/_ping")],
    "events of the swarm": [
      get("/events?since=1&until=2&filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D"),
    ],
    logs: [get("/services/x/logs?stdout=1"), get("/tasks/x/logs?stdout=1")],
  }),
];
