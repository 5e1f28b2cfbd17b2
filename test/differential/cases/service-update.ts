/** `docker service update`, `rollback`, and POST /services/{id}/update. */
import { type Case, create, del, get, http, post, setup, sh, spec, table } from "../case.ts";

/** A service with something of each kind, one update, and what it is then. */
const updated = (flags: string, before = "") => [
  setup(create(`--name s1 --replicas 0 ${before}`), { save: "svc" }),
  sh(`docker service update -d --no-resolve-image ${flags} s1`),
  sh("docker service inspect -f '{{json .Spec}}' s1"),
];
const secret = setup("printf x | docker secret create sec -", { save: "sec" });
const config = setup("printf x | docker config create con -", { save: "con" });
const network = (name: string) => setup(`docker network create -d overlay ${name}`, { save: name });
const version = get("/services/s1", { save: "v", pick: "Version.Index", setup: true });
const update = (set: Record<string, unknown>, query = "") =>
  post(`/services/s1/update?version=$v${query}`, spec("s1", set));
const made = post("/services/create", spec("s1"), { save: "svc", setup: true });
/** Without the part that the allocator and the updater write in their own time. */
const calm = { volatile: /^body\.(UpdateStatus|Endpoint)/ };

export const SERVICE_UPDATE_CASES: readonly Case[] = [
  ...table("service update", {
    nothing: updated(""),
    "--args": updated("--args 'a b'"),
    "--entrypoint": updated("--entrypoint 'sh -c'"),
    "--image": updated("--image lab:2"),
    "--force": updated("--force"),
    "--replicas": updated("--replicas 0"),
    "--env": updated("--env-add A=2 --env-rm B", "-e A=1 -e B=2"),
    "--env-rm of none": updated("--env-rm NOSUCH"),
    "--label": updated("--label-add a=2 --label-add c=3 --label-rm b", "-l a=1 -l b=2"),
    "--container-label": updated(
      "--container-label-add a=2 --container-label-rm b",
      "--container-label a=1 --container-label b=2",
    ),
    "--constraint": updated(
      "--constraint-add node.role==worker --constraint-rm node.role==manager",
      "--constraint node.role==manager",
    ),
    "--constraint-add, bad": updated("--constraint-add nonsense"),
    "--placement-pref": updated(
      "--placement-pref-add spread=node.labels.b --placement-pref-rm spread=node.labels.a",
      "--placement-pref spread=node.labels.a",
    ),
    "--mount": updated("--mount-add type=tmpfs,dst=/b --mount-rm /a", "--mount type=tmpfs,dst=/a"),
    "--publish": updated("--publish-add 8081:81 --publish-rm 80", "-p 8080:80"),
    "--publish-add of one that is there": updated("--publish-add 8080:80", "-p 8080:80"),
    "--publish-rm of none": updated("--publish-rm 99"),
    "--network": [
      network("neta"),
      network("netb"),
      ...updated("--network-add netb --network-rm neta", "--network neta"),
    ],
    "--network-add of none": updated("--network-add nosuch"),
    "--secret": [secret, ...updated("--secret-add source=sec,target=y")],
    "--secret-rm": [secret, ...updated("--secret-rm sec", "--secret sec")],
    "--secret-add of none": updated("--secret-add nosuch"),
    "--config": [config, ...updated("--config-add source=con,target=/y")],
    "--config-rm": [config, ...updated("--config-rm con", "--config con")],
    "--dns": updated(
      "--dns-add 10.99.0.2 --dns-rm 10.99.0.1 --dns-search-add b --dns-option-add c",
      "--dns 10.99.0.1",
    ),
    "--host": updated("--host-add b:10.99.0.2 --host-rm a:10.99.0.1", "--host a:10.99.0.1"),
    "--group": updated("--group-add b --group-rm a", "--group a"),
    "--sysctl": updated("--sysctl-add a.b=2 --sysctl-rm a.c", "--sysctl a.b=1 --sysctl a.c=1"),
    "--ulimit": updated("--ulimit-add nproc=5 --ulimit-rm nofile", "--ulimit nofile=1"),
    "--cap": updated("--cap-add CHOWN --cap-drop NET_RAW", "--cap-drop CHOWN"),
    "--generic-resource": updated(
      "--generic-resource-add b=2 --generic-resource-rm a",
      "--generic-resource a=1",
    ),
    "--limits": updated(
      "--limit-cpu 1 --limit-memory 0 --reserve-cpu 0.1 --limit-pids 5",
      "--limit-memory 50m",
    ),
    "--restart": updated(
      "--restart-condition none --restart-delay 1s --restart-max-attempts 2 --restart-window 3s",
    ),
    "--update flags": updated(
      "--update-parallelism 3 --update-delay 1s --update-order start-first --update-failure-action continue --update-monitor 2s --update-max-failure-ratio 0.1",
    ),
    "--rollback flags": updated(
      "--rollback-parallelism 3 --rollback-delay 1s --rollback-order start-first --rollback-failure-action continue --rollback-monitor 2s --rollback-max-failure-ratio 0.1",
    ),
    "--stop, --user, --workdir, --hostname": updated(
      "--stop-grace-period 1s --stop-signal SIGINT --user a --workdir /b --hostname c",
    ),
    "--tty, --read-only, --init": updated("--tty --read-only --init"),
    "--health": updated("--health-cmd x --health-interval 2s"),
    "--no-healthcheck": updated("--no-healthcheck", "--health-cmd x"),
    "--log": updated("--log-driver local --log-opt a=b", "--log-driver json-file"),
    "--endpoint-mode": updated("--endpoint-mode dnsrr"),
    "--endpoint-mode dnsrr with a port": updated("--endpoint-mode dnsrr", "-p 8080:80"),
    "--isolation, --credential-spec": updated("--isolation default"),
    "--replicas-max-per-node": updated("--replicas-max-per-node 3"),
    "--max-concurrent of no job": updated("--max-concurrent 3"),
    "--replicas of a global service": [
      setup(create("--name s1 --mode global --constraint node.labels.no==1"), { save: "svc" }),
      sh("docker service update -d --replicas 2 s1"),
    ],
    "a job": [
      setup(create("--name s1 --mode replicated-job --replicas 2 --constraint node.labels.no==1"), {
        save: "svc",
      }),
      sh("docker service update -d --replicas 4 --max-concurrent 1 s1"),
      sh("docker service inspect s1", { volatile: /^stdout\[\]\.(UpdateStatus|Endpoint)/ }),
      sh("docker service update -d --update-delay 1s s1"),
    ],
    none: [sh("docker service update -d nosuch"), sh("docker service update")],
    "unknown flag": "docker service update --nosuch s1",
    "--rollback": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup("docker service update -d --label-add a=b s1"),
      sh("docker service update -d --rollback s1"),
      sh("docker service inspect -f '{{json .Spec}}' s1"),
      sh("docker service inspect -f '{{json .PreviousSpec}}' s1"),
    ],
    "twice at once": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh(
        "docker service update -d --label-add a=1 s1 && docker service update -d --label-add b=1 s1 && docker service update -d --label-rm a s1",
      ),
      sh("docker service inspect -f '{{json .Spec.Labels}}' s1"),
    ],
  }),
  ...table("service rollback", {
    "without a previous spec": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service rollback -d s1"),
    ],
    "with one": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup("docker service update -d --image lab:2 --no-resolve-image s1"),
      sh("docker service rollback -d s1"),
      sh("docker service inspect -f '{{json .Spec}} ' s1"),
      sh("docker service rollback -d s1"),
      sh("docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' s1"),
    ],
    "of none": [sh("docker service rollback nosuch"), sh("docker service rollback")],
    "and --force": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup("docker service update -d --force s1"),
      sh("docker service rollback -d s1"),
      sh("docker service inspect -f '{{.Spec.TaskTemplate.ForceUpdate}}' s1"),
    ],
  }),
  ...table("service/update-api", {
    "answers with warnings": [
      made,
      version,
      update({ Labels: { a: "b" } }),
      get("/services/s1", calm),
    ],
    "keeps the previous spec": [
      made,
      version,
      update({ container: { Image: "lab:2" } }),
      get("/services/s1?insertDefaults=true", calm),
    ],
    "out of sequence": [made, post("/services/s1/update?version=1", spec("s1"))],
    "with the version before another update": [
      made,
      version,
      update({ Labels: { a: "1" } }),
      update({ Labels: { a: "2" } }),
    ],
    "with a version of the future": [
      made,
      post("/services/s1/update?version=999999999", spec("s1")),
    ],
    "bad version": [
      made,
      post("/services/s1/update?version=x", spec("s1")),
      post("/services/s1/update", spec("s1")),
      post("/services/s1/update?version=-1", spec("s1")),
    ],
    "of none": [post("/services/nosuch/update?version=1", spec("s1"))],
    "without body": [made, version, http("POST", "/services/s1/update?version=$v", "")],
    "empty body": [made, version, post("/services/s1/update?version=$v", {})],
    "another name": [made, version, post("/services/s1/update?version=$v", spec("s2"))],
    "without name": [
      made,
      version,
      post("/services/s1/update?version=$v", { ...spec("s1"), Name: undefined }),
    ],
    "another mode": [made, version, update({ Mode: { Global: {} } })],
    "without mode": [
      made,
      version,
      update({ Mode: undefined, template: { Placement: { Constraints: ["node.labels.no==1"] } } }),
      get("/services/s1", calm),
    ],
    "to a job": [made, version, update({ Mode: { ReplicatedJob: {} } })],
    "rollback=previous without one": [made, version, update({}, "&rollback=previous")],
    "rollback=previous": [
      made,
      version,
      update({ Labels: { a: "b" } }),
      version,
      post("/services/s1/update?version=$v&rollback=previous", {}),
      get("/services/s1", {
        volatile: /^body\.(UpdateStatus\.(State|CompletedAt|Message)|Endpoint)/,
      }),
    ],
    "rollback=none": [made, version, update({ Labels: { a: "b" } }, "&rollback=none")],
    "rollback=nosuch": [made, version, update({}, "&rollback=nosuch")],
    "registryAuthFrom=previous-spec without one": [
      made,
      version,
      update({}, "&registryAuthFrom=previous-spec"),
    ],
    "registryAuthFrom=nosuch": [made, version, update({}, "&registryAuthFrom=nosuch")],
    "registryAuthFrom=spec": [
      made,
      version,
      update({ Labels: { a: "b" } }, "&registryAuthFrom=spec"),
    ],
    "by id": [made, version, post("/services/$svc/update?version=$v", spec("s1"))],
    "port taken by itself": [
      post(
        "/services/create",
        spec("s1", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
        { save: "svc", setup: true },
      ),
      get("/services/s1", { until: /VirtualIPs/, setup: true }),
      version,
      update({ EndpointSpec: { Ports: [{ TargetPort: 81, PublishedPort: 8080 }] } }),
    ],
    "port taken by another": [
      made,
      post(
        "/services/create",
        spec("s2", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
        { save: "other", setup: true },
      ),
      version,
      update({ EndpointSpec: { Ports: [{ TargetPort: 81, PublishedPort: 8080 }] } }),
    ],
    "bad constraint": [made, version, update({ template: { Placement: { Constraints: ["x"] } } })],
    "image gone": [made, version, update({ container: { Image: "" } })],
    "after delete": [made, version, del("/services/s1"), update({})],
  }),
];
