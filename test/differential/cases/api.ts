/** The API as such: versions, headers, ping, info, events; and calls that are the engine's alone. */
import { type Case, del, filters, get, http, post, setup, sh, spec, table } from "../case.ts";

const VERSIONS = ["1.24", "1.25", "1.29", "1.30", "1.37", "1.38", "1.39", "1.40", "1.41"];
const events = (given: unknown) =>
  get(`/events?since=$t&until=$u&${filters(given)}`, {
    volatile: /Attributes\.(?:leader|reachability)/,
  });
/** What was done before has been told by then. */
const clock = (save: string) => setup("sleep 0.3; date +%s.%N", { save });

export const API_CASES: readonly Case[] = [
  ...VERSIONS.map(
    (version): Case => ({
      name: `api/version: ${version}`,
      steps: [
        "services",
        "nodes",
        "swarm",
        "tasks",
        "networks?filters=%7B%22name%22%3A%5B%22ingress%22%5D%7D",
        "secrets",
        "configs",
      ].map((path) => get(`/v${version}/${path}`)),
    }),
  ),
  ...table("api/version", {
    "too new": [get("/v1.42/services"), get("/v1.99/nodes"), get("/v2.0/swarm")],
    "too new for the engine's calls": [get("/v1.99/containers/json")],
    "too old": [get("/v1.11/services")],
    "older than ours": [get("/v1.23/services"), get("/v1.12/nodes")],
    "no number": [
      get("/vx/services"),
      get("/v/services"),
      get("/v1.41.0/services"),
      get("/v1/services"),
    ],
    "CLI with an old version": [
      sh("DOCKER_API_VERSION=1.24 docker service ls"),
      sh("DOCKER_API_VERSION=1.30 docker node ls --format '{{.Hostname}}'"),
      sh("DOCKER_API_VERSION=1.40 docker service ls"),
    ],
    "CLI with one too new": "DOCKER_API_VERSION=1.99 docker service ls",
    "CLI flags newer than the version": [
      sh(
        "DOCKER_API_VERSION=1.40 docker service create -d --no-resolve-image --cap-add NET_ADMIN --name old lab:latest",
      ),
      sh(
        "DOCKER_API_VERSION=1.39 docker service create -d --no-resolve-image --replicas-max-per-node 1 lab:latest",
      ),
    ],
    "fields of later versions are dropped": [
      post(
        "/v1.39/services/create",
        spec("old", {
          container: { Sysctls: { "net.ipv4.ip_forward": "1" }, CapabilityAdd: ["CAP_SYS_ADMIN"] },
          template: { Placement: { MaxReplicas: 2 }, Resources: { Limits: { Pids: 7 } } },
        }),
      ),
      get("/services/old"),
    ],
    "fields of 1.41 in 1.40": [
      post(
        "/v1.40/services/create",
        spec("old", {
          container: {
            CapabilityAdd: ["CAP_SYS_ADMIN"],
            CapabilityDrop: ["CAP_CHOWN"],
            Ulimits: [{ Name: "nofile", Hard: 10, Soft: 5 }],
            Sysctls: { "net.ipv4.ip_forward": "1" },
          },
          template: { Placement: { MaxReplicas: 2 }, Resources: { Limits: { Pids: 7 } } },
        }),
      ),
      get("/services/old"),
    ],
    "jobs in 1.40": [
      post(
        "/v1.40/services/create",
        spec("old", { Mode: { ReplicatedJob: { MaxConcurrent: 1 } } }),
      ),
      get(`/services?${filters({ name: ["old"] })}`),
    ],
    "status=true before 1.41": [
      post("/services/create", spec("old")),
      get("/v1.40/services?status=true"),
      get("/services?status=true"),
    ],
  }),
  ...table("api/engine", {
    ping: [get("/_ping"), http("HEAD", "/_ping"), get("/v1.30/_ping")],
    version: [get("/version", { volatile: /Components|Details|KernelVersion/ })],
    "version of the server":
      "docker version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}'",
    "info without the swarm": [
      get("/info", { volatile: /^body\.(?!Name|NCPU|OSType|Architecture|ServerVersion)/ }),
    ],
    "info of the swarm": [get("/info", { volatile: /^body\.(?!Swarm)/ })],
    containers: [get("/containers/json")],
    "container that is none": [get("/containers/nosuch/json"), del("/containers/nosuch")],
    images: [sh("docker images --format '{{.Repository}}:{{.Tag}}' | sort")],
    "unknown path": [get("/nosuch"), get("/v1.41/nosuch")],
    "unknown path, POST": [post("/nosuch", {})],
    root: [get("/")],
    run: "docker run --rm --network none lab:latest echo hello",
    "run with input": "echo hello | docker run --rm -i --network none lab:latest cat",
    "run with a code": "docker run --rm --network none lab:latest sh -c 'exit 3'",
    "distribution of an image that is none":
      "docker manifest inspect 127.0.0.1:1/x 2>&1 | head -1 | cut -c1-20",
    ps: "docker ps --filter name=nosuch",
    volume: [sh("docker volume create v1"), sh("docker volume ls -q"), sh("docker volume rm v1")],
  }),
  ...table("api/paths", {
    "trailing slash": [
      get("/services/"),
      get("/nodes/"),
      get("/secrets/"),
      get("/tasks/"),
      get(`/networks/?${filters({ name: ["ingress"] })}`),
    ],
    "double slash": [get("/services//x")],
    "percent in a name": [get("/services/%2e%2e"), get("/services/a%20b"), get("/services/%zz")],
    "name with a slash in it": [get("/services/a%2Fb")],
    "unknown method on a list": [
      http("PUT", "/services"),
      http("PATCH", "/nodes"),
      del("/services"),
    ],
    "unknown method on an object": [
      http("PUT", "/services/x"),
      post("/services/x", {}),
      post("/secrets/x", {}),
    ],
    "unknown part below an object": [get("/services/x/y"), get("/tasks/x/y"), get("/secrets/x/y")],
    "create with GET": [get("/services/create"), get("/secrets/create"), get("/configs/create")],
    "HEAD of a list": [http("HEAD", "/services"), http("HEAD", "/nodes/x")],
    OPTIONS: [http("OPTIONS", "/services")],
    "very long name": [get(`/services/${"x".repeat(3000)}`)],
    "not ASCII": [get("/services/%C3%A9")],
    dots: [get("/services/."), get("/services/..x")],
  }),
  ...table("api/events", {
    "service created, updated, removed": [
      clock("t"),
      post("/services/create", spec("ev"), { save: "svc" }),
      get("/services/ev", { save: "v", pick: "Version.Index", setup: true }),
      post(
        "/services/ev/update?version=$v",
        spec("ev", { Labels: { a: "b" }, container: { Image: "lab:2" } }),
      ),
      del("/services/ev"),
      clock("u"),
      events({ type: ["service"] }),
      events({ type: ["service"], event: ["update"] }),
      events({ service: ["ev"] }),
      events({ service: ["$svc"] }),
      events({ scope: ["swarm"], type: ["service"] }),
      events({ type: ["node"] }),
      events({ scope: ["local"] }),
      sh(
        "docker events --since $t --until $u --filter type=service --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}}'",
      ),
    ],
    replicas: [
      post("/services/create", spec("evr", { Mode: { Replicated: { Replicas: 0 } } }), {
        save: "svc",
      }),
      clock("t"),
      sh("docker service scale -d evr=1"),
      sh("docker service scale -d evr=0"),
      clock("u"),
      events({ type: ["service"] }),
    ],
    "secret and config": [
      clock("t"),
      post("/secrets/create", { Name: "cfgev", Data: "eA==" }, { save: "sec" }),
      post("/configs/create", { Name: "cfgev", Data: "eA==" }, { save: "con" }),
      get("/secrets/cfgev", { save: "v", pick: "Version.Index", setup: true }),
      post("/secrets/cfgev/update?version=$v", { Name: "cfgev", Labels: { a: "b" } }),
      del("/secrets/cfgev"),
      del("/configs/cfgev"),
      clock("u"),
      events({ type: ["secret", "config"] }),
      events({ type: ["secret"] }),
      events({ config: ["cfgev"] }),
      events({ label: ["name=cfgev"] }),
    ],
    network: [
      clock("t"),
      sh("docker network create -d overlay ev", { save: "net" }),
      sh("docker network rm ev"),
      clock("u"),
      events({ type: ["network"], scope: ["swarm"] }),
      events({ network: ["ev"] }),
    ],
    "node availability and labels": [
      clock("t"),
      sh("docker node update --availability pause h1"),
      sh("docker node update --availability active h1"),
      sh("docker node update --label-add e=1 h1"),
      sh("docker node update --label-rm e h1"),
      clock("u"),
      events({ type: ["node"] }),
      events({ node: ["$node"] }),
      events({ event: ["update"], type: ["node"] }),
    ],
    "unknown filter": [get(`/events?since=1&until=2&${filters({ nosuch: ["x"] })}`)],
    "unknown type": [get(`/events?since=1&until=2&${filters({ type: ["nosuch"] })}`)],
    "bad scope": [get(`/events?since=1&until=2&${filters({ scope: ["nosuch"] })}`)],
    "bad since": [get("/events?since=soon&until=2")],
    "bad until": [get("/events?since=1&until=soon")],
    "until before since": [get("/events?since=5&until=2")],
    "bad filters": [get("/events?since=1&until=2&filters=%7B")],
  }),
];
