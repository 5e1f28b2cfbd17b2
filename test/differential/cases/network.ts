/** `docker network` of overlay networks, and /networks. */
import { type Case, create, del, filters, get, http, post, setup, sh, table } from "../case.ts";

const make = (set: Record<string, unknown>) =>
  post("/networks/create", { Name: "n1", Driver: "overlay", ...set });
/** Stock has a network first, and its addresses a moment later. */
const allocated = sh("docker network inspect n1", {
  until: /Subnet/,
  ignored: true,
  timeoutMs: 2_000,
});
const shown = (set: Record<string, unknown>) => [
  { ...make(set), save: "net" },
  allocated,
  get("/networks/n1"),
  get("/networks/n1?scope=swarm"),
];
const overlay = (flags: string, name = "n1") => `docker network create -d overlay ${flags} ${name}`;
const inspected = (flags: string) => [
  sh(overlay(flags), { save: "net" }),
  allocated,
  sh("docker network inspect n1"),
];

export const NETWORK_CASES: readonly Case[] = [
  ...table("network/cli", {
    create: inspected(""),
    "create attachable": inspected("--attachable"),
    "create internal": inspected("--internal"),
    "create with a label": inspected("--label a=b --label c"),
    "create with a subnet": inspected("--subnet 10.99.0.0/24"),
    "create with a gateway": inspected("--subnet 10.99.0.0/24 --gateway 10.99.0.9"),
    "create with an MTU": inspected("--opt com.docker.network.driver.mtu=1300"),
    "create with scope": inspected("--scope swarm"),
    "create with scope local": [sh(overlay("--scope local"))],
    "create with a bad subnet": overlay("--subnet nonsense"),
    "create with a gateway outside of its subnet": overlay(
      "--subnet 10.99.0.0/24 --gateway 10.98.0.1",
    ),
    "create with a gateway and no subnet": overlay("--gateway 10.99.0.1"),
    "create with overlapping subnets": overlay("--subnet 10.99.0.0/24 --subnet 10.99.0.0/25"),
    "create with a taken subnet": [
      setup(overlay("--subnet 10.99.0.0/24")),
      sh(overlay("--subnet 10.99.0.0/24", "n2")),
      sh(overlay("--subnet 10.99.0.128/25", "n2")),
    ],
    "create with ip range": overlay("--subnet 10.99.0.0/24 --ip-range 10.99.0.0/25"),
    "create with a bad ip range": overlay("--subnet 10.99.0.0/24 --ip-range nonsense"),
    "create twice": [setup(overlay("")), sh(overlay(""))],
    "create with the name of a local network": [
      setup("docker network create -d bridge n1"),
      sh(overlay("")),
      sh("docker network rm n1"),
    ],
    "create local with the name of an overlay": [
      setup(overlay("")),
      sh("docker network create -d bridge n1"),
    ],
    "create with a predefined name": [
      sh(overlay("", "bridge")),
      sh(overlay("", "host")),
      sh(overlay("", "none")),
      sh(overlay("", "default")),
    ],
    "create with a bad name": [
      sh(overlay("", "'a b'")),
      sh(overlay("", "a/b")),
      sh(overlay("", "é")),
    ],
    "create without name": "docker network create -d overlay",
    "create another ingress": overlay("--ingress"),
    "create an attachable ingress": overlay("--ingress --attachable"),
    "create with an unknown driver": "docker network create -d nosuch n1",
    "create config-only": overlay("--config-only"),
    "create with aux address": overlay("--subnet 10.99.0.0/24 --aux-address a=10.99.0.7"),
    "predefined label": overlay("--label com.docker.swarm.predefined=1"),
    ls: [
      setup(overlay("--label a=b")),
      setup(overlay("", "n2")),
      setup("docker network ls", { until: /n1[\s\S]*n2|n2[\s\S]*n1/ }),
      ...[
        "name=n",
        "name=n1",
        "name=^n2$",
        "name=nosuch",
        "label=a",
        "label=a=b",
        "label=a=c",
        "driver=overlay",
        "scope=swarm",
      ].map((filter) =>
        sh(
          `docker network ls --filter ${filter} --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort`,
        ),
      ),
      sh("docker network ls --filter name=n --filter scope=local -q"),
      sh("docker network ls --filter type=builtin --format '{{.Name}}' | sort"),
      sh("docker network ls --filter nosuch=x"),
      sh("docker network ls --filter scope=nosuch"),
      sh("docker network ls --filter type=nosuch"),
      sh("docker network ls --filter name=n1"),
      sh("docker network ls --filter name=n1 -q --no-trunc"),
      sh("docker network ls --filter name=n1 --format '{{json .}}'"),
    ],
    inspect: [
      setup(overlay("--attachable"), { save: "net" }),
      allocated,
      sh("docker network inspect $net"),
      sh("docker network inspect -v n1"),
      sh("docker network inspect -f '{{.Name}} {{.Scope}} {{.Attachable}}' n1"),
      sh("docker network inspect n1 nosuch"),
    ],
    "inspect of none": [sh("docker network inspect nosuch"), sh("docker network inspect")],
    "inspect ingress":
      "docker network inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{.Ingress}} {{.Internal}} {{.Attachable}}' ingress",
    "inspect bridge":
      "docker network inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' bridge host none",
    rm: [
      setup(overlay(""), { save: "net" }),
      sh("docker network rm n1"),
      sh("docker network ls -q --filter name=n1"),
    ],
    "rm several": [
      setup(overlay("")),
      setup(overlay("", "n2")),
      sh("docker network rm n1 nosuch n2"),
    ],
    "rm of none": [
      sh("docker network rm nosuch"),
      sh("docker network rm -f nosuch"),
      sh("docker network rm"),
    ],
    "rm of a builtin": [sh("docker network rm bridge"), sh("docker network rm host")],
    "rm of one in use": [
      setup(overlay(""), { save: "net" }),
      setup(create("--name user --replicas 0 --network n1"), { save: "svc" }),
      sh("docker network rm n1"),
      setup("docker service rm user"),
      sh("docker network rm n1"),
    ],
    "connect to an overlay that is none": "docker network connect nosuch x",
    "connect a container that is none": [
      setup(overlay("--attachable")),
      sh("docker network connect nosuch nosuch"),
    ],
    "run on an overlay that is not attachable": [
      setup(overlay(""), { save: "net" }),
      sh("docker run --rm --network n1 lab:latest true"),
    ],
    "prune of unused": [sh("docker network create -d bridge p1"), sh("docker network prune -f")],
  }),
  ...table("network/attach", {
    // Its removal is not asked for: shoal holds the address for a minute after the container's end.
    "docker run": [
      setup(overlay("--attachable", "att1")),
      sh("docker run --rm --network att1 lab:latest sh -c 'ip addr show eth0 | grep -o inet'"),
    ],
  }),
  ...table("network/api", {
    create: shown({}),
    "create with everything": shown({
      Attachable: true,
      Internal: true,
      Labels: { a: "b" },
      Options: { "com.docker.network.driver.mtu": "1400" },
      IPAM: { Driver: "default", Config: [{ Subnet: "10.99.1.0/24", Gateway: "10.99.1.1" }] },
    }),
    "create check duplicate": shown({ CheckDuplicate: true }),
    "create with scope only": [
      post("/networks/create", { Name: "n1", Scope: "swarm" }),
      get("/networks/n1"),
    ],
    "create without name": [post("/networks/create", { Driver: "overlay" })],
    "create with an empty name": [make({ Name: "" })],
    "create with a name as number": [make({ Name: 5 })],
    "create without body": [http("POST", "/networks/create", "")],
    "create not JSON": [post("/networks/create", "{")],
    "create of the wrong type": [
      make({ Internal: "yes" }),
      make({ Labels: ["a"] }),
      make({ IPAM: [] }),
    ],
    "create with nulls": shown({ IPAM: null, Options: null, Labels: null }),
    "create with IPv6": [make({ EnableIPv6: true })],
    "create encrypted": shown({ Options: { encrypted: "" } }),
    "create with a VXLAN number": shown({
      Options: { "com.docker.network.driver.overlay.vxlanid_list": "5001" },
    }),
    "create with two subnets": shown({
      IPAM: { Config: [{ Subnet: "10.99.1.0/24" }, { Subnet: "10.99.2.0/24" }] },
    }),
    "create with a subnet of one address": [
      make({ IPAM: { Config: [{ Subnet: "10.99.1.0/32" }] } }),
    ],
    "create with host bits in the subnet": shown({
      IPAM: { Config: [{ Subnet: "10.99.1.7/24" }] },
    }),
    "create with an empty config": shown({ IPAM: { Config: [{}] } }),
    "create ingress": [make({ Ingress: true })],
    "create bridge": [
      post("/networks/create", { Name: "b1", Driver: "bridge" }),
      get("/networks/b1?scope=local", { volatile: /Subnet|Gateway/ }),
    ],
    "create with config from": [make({ ConfigFrom: { Network: "nosuch" } })],
    "create macvlan for the swarm": [
      post("/networks/create", { Name: "n1", Driver: "macvlan", Scope: "swarm" }),
    ],
    "inspect scopes": [
      make({}),
      allocated,
      get("/networks/n1?scope=swarm"),
      get("/networks/n1?scope=local"),
      get("/networks/n1?scope=nosuch"),
      get("/networks/bridge?scope=swarm"),
      get("/networks/host?scope=local", { volatile: /Containers/ }),
    ],
    "inspect verbose": [
      make({}),
      allocated,
      get("/networks/n1?verbose=true"),
      get("/networks/n1?verbose=nonsense"),
    ],
    "inspect of none": [get("/networks/nosuch"), get("/networks/nosuch?scope=swarm")],
    "inspect by prefix": [{ ...make({}), save: "net" }, allocated, get("/networks/$net")],
    delete: [make({}), del("/networks/n1"), del("/networks/n1")],
    "delete ingress in use": [
      setup(create("--name user --replicas 0 -p 8085:80"), { save: "svc" }),
      get("/services/user", { until: /VirtualIPs/ }),
      del("/networks/ingress"),
    ],
    filters: [
      make({ Labels: { a: "b" } }),
      allocated,
      ...[
        { name: ["n1"] },
        { name: { n1: true } },
        { id: ["nosuch"] },
        { label: ["a=b"] },
        { driver: ["nosuch"] },
        { scope: ["global"] },
        { name: ["n1"], type: ["custom"] },
        { name: ["n1"], type: ["builtin"] },
        { name: ["n1"], dangling: ["true"] },
        { name: ["n1"], dangling: ["false"] },
        { dangling: ["nonsense"] },
        { nosuch: ["x"] },
      ].map((given) => get(`/networks?${filters(given)}`)),
      get("/networks?filters=nonsense"),
    ],
  }),
];
