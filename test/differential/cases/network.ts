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

/**
 * Each case has names and a subnet of its own: what is left of one is in no other's way. The lab's kernel
 * has one macvlan network a parent, and no parents but eth0, so only one case makes one.
 */
const configured = (name: string, octet: number, driver = "bridge") => [
  setup(
    `docker network create --config-only --subnet 10.99.${octet}.0/24 --gateway 10.99.${octet}.1 ${driver === "macvlan" ? "-o parent=eth0" : ""} ${name}-cfg`,
  ),
  setup(
    `docker network create -d ${driver} --scope swarm --attachable --config-from ${name}-cfg ${name}`,
  ),
];
const localApi = (set: Record<string, unknown>) => [
  post("/networks/create", { Name: "l0", Driver: "macvlan", Scope: "swarm", ...set }),
];
const fromConfig = (flags: string) =>
  `docker network create -d macvlan --scope swarm --config-from l0-cfg ${flags} l0`;
/** Of the engine's own: they differ from run to run. */
const engineFacts = /Containers|Created|EndpointID|MacAddress|Peers/;

/** Networks that each node makes with a driver of its engine. */
const LOCAL_CASES: readonly Case[] = [
  ...table("network/local", {
    "config-only": [
      sh("docker network create --config-only --subnet 10.99.40.0/24 -o parent=eth0 l1-cfg", {
        volatile: /stdout/,
      }),
      sh("docker network inspect l1-cfg", { volatile: engineFacts }),
      sh("docker network create --config-only --scope swarm l1-bad"),
      sh("docker network create --config-only --attachable l1-bad"),
      sh("docker network create --config-only --config-from l1-cfg l1-bad"),
      sh("docker network prune -f | grep -c l1-cfg"),
      sh("docker network ls --filter name=l1-cfg --format '{{.Name}} {{.Driver}} {{.Scope}}'"),
      sh("docker network rm l1-cfg"),
    ],
    "create and show": [
      ...configured("l2", 41, "macvlan"),
      sh("docker network inspect l2"),
      sh(
        "docker network ls --filter name=l2 --filter scope=swarm --format '{{.Name}} {{.Driver}} {{.Scope}}'",
      ),
      sh("docker network ls --filter driver=macvlan --format '{{.Name}}'"),
      get("/networks/l2?scope=swarm"),
      sh("docker network rm l2"),
      sh("docker network rm l2-cfg"),
    ],
    "create what cannot be": [
      sh(fromConfig("--subnet 10.99.42.0/24")),
      sh(fromConfig("-o parent=eth0")),
      sh(fromConfig("--label a=b")),
      sh(fromConfig("--ipv6")),
      sh(fromConfig("--config-only")),
      sh(fromConfig("--ingress")),
      sh("docker network create -d macvlan --scope swarm --config-from x bridge"),
    ],
    "create through the API": [
      ...localApi({ Driver: "" }),
      ...localApi({ ConfigFrom: { Network: "x" }, EnableIPv6: true }),
      ...localApi({ ConfigFrom: { Network: "x" }, Options: { parent: "eth0" } }),
      ...localApi({ ConfigFrom: { Network: "x" }, ConfigOnly: true }),
      ...localApi({ Ingress: true }),
    ],
    "a service on it": [
      ...configured("l3", 43, "macvlan"),
      setup(create("--name l3-web --network l3"), { save: "svc" }),
      setup("docker service ps l3-web --format '{{.CurrentState}}'", { until: /^Running/ }),
      sh("docker network inspect l3", { volatile: engineFacts }),
      get("/networks/l3", { volatile: engineFacts }),
      get("/services/l3-web"),
      get(`/tasks?${filters({ service: ["l3-web"] })}`, { volatile: /Status|CreatedAt|UpdatedAt/ }),
      sh("docker exec $(docker ps -q -f name=l3-web) nslookup l3-web | grep -A1 Name:"),
      sh("docker exec $(docker ps -q -f name=l3-web) nslookup tasks.l3-web | grep -A1 Name:"),
      sh("docker network rm l3"),
      sh("docker network rm l3-cfg"),
      setup("docker service rm l3-web"),
    ],
    "a service on it by round robin": [
      ...configured("l4", 44, "macvlan"),
      setup(create("--name l4-web --replicas 0 --network l4 --endpoint-mode dnsrr"), {
        save: "svc",
      }),
      get("/services/l4-web"),
    ],
    "a service without the configuration": [
      setup("docker network create -d macvlan --scope swarm --config-from l5-none l5"),
      setup(create("--name l5-web --network l5 --restart-condition none"), { save: "svc" }),
      sh("docker service ps l5-web --no-trunc --format '{{.CurrentState}} {{.Error}}'", {
        until: /Rejected/,
      }),
    ],
    "a container on it": [
      ...configured("l6", 45),
      sh(
        "docker run --rm --network l6 lab:latest sh -c 'ip -4 -o addr show eth0 | grep -o 10.99.45.2/24'",
      ),
      sh(
        "docker run --rm --network l6 --ip 10.99.45.77 lab:latest sh -c 'ip -4 -o addr show eth0 | grep -o 10.99.45.77/24'",
      ),
    ],
    "a container on one that is not attachable": [
      setup("docker network create -d macvlan --scope swarm --config-from l7-none l7"),
      sh("docker run --rm --network l7 lab:latest true"),
    ],
    "a bridge for a service": [
      setup("docker network create -d bridge --scope swarm l8"),
      sh("docker network inspect l8"),
      setup(create("--name l8-web --network l8"), { save: "svc" }),
      setup("docker service ps l8-web --format '{{.CurrentState}}'", { until: /^Running/ }),
      get("/networks/l8", { volatile: /Containers|Created|Subnet|Gateway/ }),
      get("/services/l8-web"),
    ],
    "with a subnet and no configuration": [
      sh("docker network create -d macvlan --scope swarm --subnet 10.99.46.0/24 l9"),
    ],
  }),
];

export const NETWORK_CASES: readonly Case[] = [
  ...LOCAL_CASES,
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
