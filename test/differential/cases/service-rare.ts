/** Flags and spellings of `docker service` that few use: what is stored, refused and printed. */
import { type Case, create, filters, get, post, setup, sh, spec, table } from "../case.ts";

const made = (flags: string, rest = "") => [
  sh(create(`--name s1 --replicas 0 ${flags}`, rest), { save: "svc" }),
  sh("docker service inspect s1"),
];
const tried = (flags: string) => create(`--name s1 --replicas 0 ${flags}`);
const updated = (flags: string, before = "") => [
  setup(create(`--name s1 --replicas 0 ${before}`), { save: "svc" }),
  sh(`docker service update -d --no-resolve-image ${flags} s1`),
  sh("docker service inspect -f '{{json .Spec}}' s1"),
];
/** A refused update leaves the spec as it was. */
const refused = updated;
const secrets = ["sa", "sb"].map((name) =>
  setup(`printf ${name} | docker secret create ${name} -`, { save: name }),
);
const configs = ["ca", "cb"].map((name) =>
  setup(`printf ${name} | docker config create ${name} -`, { save: name }),
);
const network = (name: string) => setup(`docker network create -d overlay ${name}`, { save: name });
/** In the order given, which lists of objects are compared without. */
const order = (path: string, field: string) =>
  sh(`docker service inspect -f '{{range ${path}}}{{${field}}} {{end}}' s1`);

export const SERVICE_RARE_CASES: readonly Case[] = [
  ...table("service create, rare", {
    "long names of short flags": made(
      "--label a=b --env A=1 --user 5 --workdir /x --tty --publish 8085:80 --quiet",
    ),
    "--entrypoint with arguments": made("--entrypoint '/bin/sh -c \"echo a\"'", "x"),
    "--env from the client": [
      sh(`FROM_HERE=yes ${tried("-e FROM_HERE -e NOT_HERE")}`, { save: "svc" }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Env}}' s1"),
    ],
    "--env and --env-file": [
      sh(`printf 'A=1\\nB=2\\n' > f; ${tried("--env-file f -e A=3")}`, { save: "svc" }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Env}}' s1"),
    ],
    "--env-file of none": tried("--env-file nosuch"),
    "--env without a name": tried("-e =x"),
    "--label without a name": [sh(tried("-l =x")), sh(tried("-l a -l b=c=d"))],
    "--cap-add of all, and privileged words": [
      ...made("--cap-add all --cap-drop NET_RAW"),
      sh(create("--name s2 --replicas 0 --cap-add nosuch"), { save: "svc2" }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.CapabilityAdd}}' s2"),
    ],
    "--cap-add and --cap-drop of the same": made("--cap-add CHOWN --cap-drop CHOWN"),
    "--cap-drop ALL with --cap-add": made("--cap-drop ALL --cap-add NET_BIND_SERVICE"),
    "--config with a bad mode": [...configs, sh(tried("--config source=ca,target=/x,mode=rw"))],
    "--config twice to two targets": [
      ...configs,
      ...made("--config source=ca,target=/a --config source=ca,target=/b --config cb"),
    ],
    "--config to one target": [
      ...configs,
      sh(tried("--config source=ca,target=/a --config source=cb,target=/a")),
    ],
    "--secret twice to two targets": [
      ...secrets,
      ...made("--secret source=sa,target=a --secret source=sa,target=/b --secret sb"),
    ],
    "--secret without a target": [...secrets, ...made("--secret source=sa,target=")],
    "--secret with an unknown key": [...secrets, sh(tried("--secret source=sa,nosuch=1"))],
    "--credential-spec of a config": [
      ...configs,
      sh(tried("--credential-spec config://ca"), { save: "svc" }),
      sh("docker service inspect s1"),
    ],
    "--credential-spec of a registry": made("--credential-spec registry://x"),
    "--credential-spec of a file": made("--credential-spec file://x.json"),
    "--dns of IPv6": made("--dns fd00::1 --dns 10.99.0.1"),
    "--dns-option, --dns-search alone": made("--dns-option a --dns-search b --dns-search ."),
    "--generic-resource of two kinds": [
      ...made("--generic-resource FPGA=1 --generic-resource GPU=2"),
      sh(create("--name s2 --replicas 0 --generic-resource GPU=1 --generic-resource GPU=2")),
      sh(create("--name s3 --replicas 0 --generic-resource GPU=0"), { save: "svc3" }),
      sh(create("--name s4 --replicas 0 --generic-resource GPU=-1"), { save: "svc4" }),
    ],
    "--health-cmd with quotes": made("--health-cmd 'test \"$A\" = b' --health-retries 0"),
    "--health-retries below 0": tried("--health-cmd true --health-retries=-1"),
    "--health-interval alone": made("--health-interval 5s"),
    "--health-interval 0": made("--health-cmd true --health-interval 0s"),
    "--host of IPv6": made("--host a:fd00::1"),
    "--host, bad": [sh(tried("--host nonsense")), sh(tried("--host a:nonsense"))],
    "--hostname, odd": made("--hostname 'A_b.c'"),
    "--init=false": made("--init=false"),
    "--isolation, bad": [sh(tried("--isolation nosuch"), { save: "svc" })],
    "--isolation hyperv": made("--isolation hyperv"),
    "--limit-pids below 0": tried("--limit-pids=-1"),
    "--limit below --reserve": made("--limit-memory 10m --reserve-memory 20m"),
    "--limit-cpu below 0": tried("--limit-cpu=-1"),
    "--limit-cpu with many digits": [
      sh(tried("--limit-cpu 0.1234567891")),
      sh(tried("--limit-cpu x")),
    ],
    "--limit-memory with units": made("--limit-memory 1.5g --reserve-memory 20480k"),
    "--log-driver none": made("--log-driver none"),
    "--log-opt without value": [...made("--log-driver json-file --log-opt nosuch")],
    "--max-concurrent with job": [
      sh(
        create("--name s1 --mode replicated-job --max-concurrent 2 --constraint node.labels.no==1"),
        { save: "svc" },
      ),
      sh("docker service inspect -f '{{json .Spec.Mode}}' s1"),
    ],
    "--max-concurrent 0": [
      sh(
        create(
          "--name s1 --mode replicated-job --replicas 2 --max-concurrent 0 --constraint node.labels.no==1",
        ),
        { save: "svc" },
      ),
      sh("docker service inspect -f '{{json .Spec.Mode}}' s1"),
    ],
    "--mode global-job with --replicas": create(
      "--name s1 --mode global-job --replicas 2 --constraint node.labels.no==1",
    ),
    "--mode global-job with --max-concurrent": create(
      "--name s1 --mode global-job --max-concurrent 2 --constraint node.labels.no==1",
    ),
    "--mode global-job with restart condition any": create(
      "--name s1 --mode global-job --restart-condition any --constraint node.labels.no==1",
    ),
    "--mode replicated-job with update flags, all": [
      "--update-parallelism 2",
      "--update-order start-first",
      "--rollback-delay 1s",
      "--rollback-failure-action pause",
    ].map((flag) => sh(create(`--name s1 --mode replicated-job ${flag}`))),
    "--mode replicated-job, dnsrr": create(
      "--name s1 --mode replicated-job --endpoint-mode dnsrr --constraint node.labels.no==1",
    ),
    "--mount readonly spellings": [
      ...made(
        "--mount type=volume,src=a,dst=/a,readonly --mount type=volume,src=b,target=/b,ro=true --mount type=volume,source=c,destination=/c,readonly=false",
      ),
      order(".Spec.TaskTemplate.ContainerSpec.Mounts", ".Target"),
    ],
    "--mount type=bind with options of others": [
      sh(tried("--mount type=bind,src=/a,dst=/b,volume-nocopy=true")),
      sh(tried("--mount type=volume,src=a,dst=/b,bind-propagation=shared")),
      sh(tried("--mount type=tmpfs,dst=/b,volume-nocopy")),
      sh(tried("--mount type=tmpfs,src=a,dst=/b")),
    ],
    "--mount type=bind of a relative source": [
      sh(`${tried("--mount type=bind,src=.,dst=/b")} | wc -c`),
      sh(tried("--mount type=bind,src=/a,dst=b")),
    ],
    "--mount of all propagations": made(
      ["private", "rprivate", "shared", "rshared", "slave", "rslave"]
        .map((name) => `--mount type=bind,src=/tmp,dst=/${name},bind-propagation=${name}`)
        .join(" "),
    ),
    "--mount consistency": [
      sh(tried("--mount type=bind,src=/tmp,dst=/a,consistency=delegated"), { save: "svc" }),
    ],
    "--mount type=cluster": tried("--mount type=cluster,src=a,dst=/b"),
    "--mount type=image": tried("--mount type=image,src=a,dst=/b"),
    "--mount type=npipe": tried("--mount type=npipe,src=a,dst=/b"),
    "--mount bind-recursive": [
      sh(tried("--mount type=bind,src=/tmp,dst=/a,bind-recursive=disabled"), { save: "svc" }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Mounts}}' s1"),
    ],
    "--mount of a volume without a name": made("--mount type=volume,dst=/b"),
    "--mount of the root": tried("--mount type=tmpfs,dst=/"),
    "--network twice": [network("na"), sh(tried("--network na --network na"))],
    "--network by id": [
      network("na"),
      sh(tried("--network $na"), { save: "svc" }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.Networks}}' s1"),
    ],
    "--network of two": [
      network("na"),
      network("nb"),
      // Ordered by their ids, which are random.
      sh(tried("--network nb --network na"), { save: "svc" }),
      sh("docker service inspect -f '{{len .Spec.TaskTemplate.Networks}}' s1"),
    ],
    "--network with an alias that is none": [
      network("na"),
      sh(tried("--network name=na,alias="), { save: "svc" }),
      sh(tried("--network name=na,nosuch=1")),
      sh(tried("--network alias=a")),
    ],
    "--network none": [sh(tried("--network none"), { save: "svc" })],
    "--placement-pref of two": [
      ...made(
        "--placement-pref spread=node.labels.b --placement-pref spread=node.labels.a --placement-pref spread=engine.labels.c",
      ),
      order(".Spec.TaskTemplate.Placement.Preferences", ".Spread.SpreadDescriptor"),
    ],
    "--placement-pref of another kind": tried("--placement-pref pack=node.labels.a"),
    "--constraint in all spellings": made(
      "--constraint 'node.platform.os == linux' --constraint node.id!=x --constraint node.ip==10.99.0.1 --constraint engine.labels.a==b --constraint NODE.ROLE==Manager",
    ),
    "--publish in order": [
      sh(tried("-p 8083:83 -p 8081:81/udp -p 8082:82/sctp -p 8081:85/tcp"), { save: "svc" }),
      get("/services/s1", { until: /VirtualIPs/ }),
      order(".Spec.EndpointSpec.Ports", ".TargetPort"),
      order(".Endpoint.Ports", ".TargetPort"),
      sh("docker service ls --format '{{.Ports}}'"),
      sh("docker service inspect --pretty s1"),
    ],
    "--publish of more ranges": [
      sh(tried("-p 8080-8082:80")),
      sh(tried("-p 8080-8081:80-83")),
      sh(tried("-p 8080-8081:80-81/udp"), { save: "svc" }),
      sh("docker service ls --format '{{.Ports}}'"),
    ],
    "--publish long, with what is left out": [
      sh(tried("-p target=80"), { save: "svc" }),
      sh(tried("-p published=80")),
      sh(tried("-p published=80,target=x")),
      sh(tried("-p target=80,nosuch=1")),
      sh(tried("-p target=80,protocol=icmp")),
    ],
    "--publish of host mode, twice": [
      sh(tried("-p published=8080,target=80,mode=host -p published=8080,target=81,mode=host")),
      sh(
        tried(
          "-p published=8080,target=80,mode=host -p published=8080,target=80,mode=host,protocol=udp",
        ),
        { save: "svc" },
      ),
    ],
    "--publish of host mode without a number": [
      sh(tried("-p target=80,mode=host"), { save: "svc" }),
      get("/services/s1", { until: /"Endpoint":\{"Spec":\{"/ }),
      sh("docker service ls --format '{{.Ports}}'"),
    ],
    "--replicas 0 and --replicas-max-per-node": made("--replicas-max-per-node 0"),
    "--replicas-max-per-node of a global service": create(
      "--name s1 --mode global --replicas-max-per-node 2 --constraint node.labels.no==1",
    ),
    "--restart-delay below 0": tried("--restart-delay=-1s"),
    "--restart-max-attempts alone": made("--restart-max-attempts 3"),
    "--restart-window alone": made("--restart-window 30s"),
    "--restart-delay 0": made("--restart-delay 0s"),
    "--stop-grace-period 0": made("--stop-grace-period 0s"),
    "--stop-grace-period below 0": tried("--stop-grace-period=-1s"),
    "--stop-signal, odd": made("--stop-signal 9"),
    "--sysctl of two, odd": [sh(tried("--sysctl nonsense"), { save: "svc" })],
    "--ulimit in order": [
      ...made("--ulimit nproc=5:6 --ulimit nofile=1 --ulimit core=-1"),
      order(".Spec.TaskTemplate.ContainerSpec.Ulimits", ".Name"),
    ],
    "--ulimit soft above hard": tried("--ulimit nofile=20:10"),
    "--update-delay below 0": tried("--update-delay=-1s"),
    "--update-monitor below 0": tried("--update-monitor=-1s"),
    "--update-max-failure-ratio alone": made("--update-max-failure-ratio 0.25"),
    "--update-order alone": made("--update-order start-first"),
    "--update-failure-action alone": made("--update-failure-action continue"),
    "--rollback-order alone": made("--rollback-order start-first"),
    "--rollback-max-failure-ratio, bad": [
      sh(tried("--rollback-max-failure-ratio 1.1")),
      sh(tried("--rollback-max-failure-ratio=-0.1")),
      sh(tried("--rollback-order nosuch")),
    ],
    "--user of a template": made("--user '{{.Service.Name}}'"),
    "templates everywhere": made(
      "--hostname '{{.Node.Hostname}}-{{.Task.Slot}}' -e 'A={{.Service.Labels.x}}' -l x=y --mount 'type=volume,src={{.Task.Name}},dst=/{{.Service.Name}}' --container-label 'b={{.Node.ID}}'",
    ),
    "template in a mount, bad": tried("--mount 'type=volume,src={{.Nosuch}},dst=/a'"),
    "an image with a digest": [
      sh(
        `docker service create -d --no-resolve-image --name s1 --replicas 0 lab@sha256:${"b".repeat(64)}`,
        { save: "svc" },
      ),
      sh("docker service ls --format '{{.Image}}'"),
      sh("docker service inspect --pretty s1 | grep Image"),
    ],
    "an image with tag and digest": [
      sh(
        `docker service create -d --no-resolve-image --name s1 --replicas 0 reg.example/a/lab:1@sha256:${"b".repeat(64)}`,
        { save: "svc" },
      ),
      sh("docker service ls --format '{{.Image}}'"),
      sh("docker service ls"),
    ],
    "an image, odd": [
      "LAB:latest",
      "lab:",
      "lab:latest:x",
      "-lab",
      "lab@sha256:abc",
      "a/b/c/d:e",
      "localhost/x",
      "a..b/x",
    ].map((image, index) =>
      sh(
        `docker service create -d --no-resolve-image --name o${index} --replicas 0 -- ${image} | wc -c`,
      ),
    ),
  }),
  ...table("service update, rare", {
    "--args of nothing": updated("--args ''", ""),
    "--args with quotes": updated("--args '\"a b\" c'"),
    "--cap-add of one that is dropped": updated(
      "--cap-add CHOWN",
      "--cap-drop CHOWN --cap-drop NET_RAW",
    ),
    "--cap-drop of one that is added": updated(
      "--cap-drop CHOWN",
      "--cap-add CHOWN --cap-add NET_RAW",
    ),
    "--cap-add ALL": updated("--cap-add ALL", "--cap-add CHOWN"),
    "--config-add twice": [
      ...configs,
      ...updated(
        "--config-add source=ca,target=/b --config-add cb",
        "--config source=ca,target=/a",
      ),
    ],
    "--config-add of one target": [
      ...configs,
      ...refused("--config-add source=cb,target=/a", "--config source=ca,target=/a"),
    ],
    "--config-rm of none": [...configs, ...updated("--config-rm cb", "--config ca")],
    "--config-rm and --config-add": [
      ...configs,
      ...updated("--config-rm ca --config-add source=cb,target=/a", "--config source=ca,target=/a"),
    ],
    "--secret-rm of none": [...secrets, ...updated("--secret-rm sb", "--secret sa")],
    "--secret-rm and --secret-add": [
      ...secrets,
      ...updated("--secret-rm sa --secret-add source=sb,target=sa", "--secret sa"),
    ],
    "--constraint-rm of none": updated("--constraint-rm node.role==worker"),
    "--container-label-rm of none": updated("--container-label-rm x", "--container-label a=b"),
    "--credential-spec, --isolation": updated("--credential-spec file://x --isolation process"),
    "--dns-option-rm --dns-search-rm": updated(
      "--dns-option-rm a --dns-search-rm b --dns-rm 10.99.0.1",
      "--dns 10.99.0.1 --dns-option a --dns-option c --dns-search b",
    ),
    "--dns-rm of none": updated("--dns-rm 10.99.0.9"),
    "--endpoint-mode and back": [
      ...updated("--endpoint-mode dnsrr"),
      sh("docker service update -d --endpoint-mode vip s1"),
      sh("docker service inspect -f '{{json .Spec.EndpointSpec}}' s1"),
    ],
    "--entrypoint of nothing": updated("--entrypoint ''", "--entrypoint 'sh -c'"),
    "--env in order": updated("--env-add A=9 --env-rm B", "-e B=2 -e A=1"),
    "--env-add from the client": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("HERE=1 docker service update -d --env-add HERE s1"),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Env}}' s1"),
    ],
    "--force twice": [
      ...updated("--force"),
      sh("docker service update -d --force s1"),
      sh("docker service inspect -f '{{.Spec.TaskTemplate.ForceUpdate}}' s1"),
    ],
    "--generic-resource-rm of none": refused("--generic-resource-rm x", "--generic-resource a=1"),
    "--generic-resource-add of one that is there": updated(
      "--generic-resource-add a=3",
      "--generic-resource a=1",
    ),
    "--generic-resource-rm of the last": updated(
      "--generic-resource-rm a",
      "--generic-resource a=1",
    ),
    "--group-rm of none": updated("--group-rm x", "--group a"),
    "--health parts": updated(
      "--health-timeout 3s --health-retries 5 --health-start-period 2s",
      "--health-cmd x",
    ),
    "--health-cmd of nothing": updated("--health-cmd ''", "--health-cmd x"),
    "--health-cmd after --no-healthcheck": updated("--health-cmd y", "--no-healthcheck"),
    "--no-healthcheck and --health-cmd": refused("--no-healthcheck --health-cmd y"),
    "--host-rm by name": updated(
      "--host-rm a",
      "--host a:10.99.0.1 --host a:10.99.0.2 --host b:10.99.0.1",
    ),
    "--host-add twice": updated("--host-add a:10.99.0.3", "--host a:10.99.0.1"),
    "--hostname of nothing": updated("--hostname ''", "--hostname a"),
    "--image, bad": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service update -d --image LAB s1"),
      sh("docker service update -d --no-resolve-image --image '' s1"),
    ],
    "--image, asked of the registry": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service update -d --image lab:3 s1"),
      sh("docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' s1"),
    ],
    "--init=false": updated("--init=false", "--init"),
    "--label-rm of none": updated("--label-rm x", "-l a=b"),
    "--label-add without a value": updated("--label-add a --label-add b=", "-l a=b"),
    "--limit-cpu 0": updated("--limit-cpu 0 --reserve-cpu 0", "--limit-cpu 1 --reserve-cpu 0.5"),
    "--limit-pids 0": updated("--limit-pids 0", "--limit-pids 5"),
    "--limit-memory too small": refused("--limit-memory 1m"),
    "--log-driver of nothing": updated("--log-driver ''", "--log-driver json-file"),
    "--log-opt alone": updated("--log-opt a=b", "--log-driver json-file --log-opt c=d"),
    "--mount-add of one target": updated(
      "--mount-add type=tmpfs,dst=/a,tmpfs-size=5m",
      "--mount type=tmpfs,dst=/a",
    ),
    "--mount-add in order": updated(
      "--mount-add type=tmpfs,dst=/a --mount-rm /c --mount-add type=tmpfs,dst=/0",
      "--mount type=tmpfs,dst=/c --mount type=tmpfs,dst=/b",
    ),
    "--mount-rm of none": updated("--mount-rm /x", "--mount type=tmpfs,dst=/a"),
    "--network-add with alias": [network("na"), ...updated("--network-add name=na,alias=x")],
    "--network-add of one that is there": [
      network("na"),
      ...refused("--network-add na", "--network na"),
    ],
    "--network-rm of none": [
      network("na"),
      ...refused("--network-rm na"),
      sh("docker service update -d --network-rm nosuch s1"),
    ],
    "--network-rm of the last": [network("na"), ...updated("--network-rm na", "--network na")],
    "--network-add host": [
      sh(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service update -d --network-add host s1"),
      sh("docker service inspect -f '{{len .Spec.TaskTemplate.Networks}}' s1"),
    ],
    "--placement-pref-rm of none": updated(
      "--placement-pref-rm spread=node.labels.x",
      "--placement-pref spread=node.labels.a",
    ),
    "--publish-rm by long form": updated(
      "--publish-rm published=8080,target=80",
      "-p 8080:80 -p 8081:81",
    ),
    "--publish-rm with a protocol": updated("--publish-rm 80/udp", "-p 8080:80/udp -p 8080:80/tcp"),
    "--publish-rm of a range": updated("--publish-rm 80-81", "-p 8080:80"),
    "--publish-add of a changed one": updated(
      "--publish-add published=8080,target=81",
      "-p 8080:80",
    ),
    "--publish-add, taken by another": [
      setup(create("--name other --replicas 0 -p 8080:80"), { save: "other" }),
      ...refused("--publish-add 8080:80"),
    ],
    "--publish-add of host mode": updated(
      "--publish-add published=8080,target=80,mode=host",
      "-p 8081:81",
    ),
    "--read-only=false": updated("--read-only=false --tty=false", "--read-only --tty"),
    "--replicas below 0": refused("--replicas=-1"),
    "--replicas-max-per-node 0": updated("--replicas-max-per-node 0", "--replicas-max-per-node 2"),
    "--reserve": updated("--reserve-memory 30m --reserve-cpu 0.2", "--generic-resource a=1"),
    "--restart-condition, bad": refused("--restart-condition nosuch"),
    "--restart one by one": updated("--restart-delay 0s", "--restart-condition on-failure"),
    "--rollback with other flags": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup("docker service update -d --label-add a=b s1"),
      sh("docker service update -d --rollback --label-add x=y s1"),
      sh("docker service inspect -f '{{json .Spec.Labels}}' s1"),
    ],
    "--rollback without one": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service update -d --rollback s1"),
    ],
    "--rollback -q, and rollback -q": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup("docker service update -d --label-add a=b s1"),
      sh("docker service update -q -d --rollback s1"),
      sh("docker service rollback -q -d s1"),
    ],
    "--stop-grace-period 0": updated("--stop-grace-period 0s", "--stop-grace-period 5s"),
    "--sysctl-rm of none": updated("--sysctl-rm x --sysctl-add y=1", "--sysctl a.b=1"),
    "--ulimit-rm of none": updated("--ulimit-rm nproc", "--ulimit nofile=1"),
    "--ulimit-add of one that is there": updated("--ulimit-add nofile=5:6", "--ulimit nofile=1"),
    "--update-parallelism 0": updated("--update-parallelism 0", "--update-delay 2s"),
    "--update-order": updated("--update-order start-first"),
    "--update-failure-action, bad": refused("--update-failure-action nosuch"),
    "--update-max-failure-ratio, bad": refused("--update-max-failure-ratio 2"),
    "--user of nothing": updated("--user ''", "--user a"),
    "--with-registry-auth": updated("--with-registry-auth"),
    "--workdir of nothing": updated("--workdir ''", "--workdir /a"),
    "two services": "docker service update -d --label-add a=b s1 s2",
    "by the beginning of its id": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service update -d --label-add a=b $(docker service ls -q)"),
    ],
  }),
  ...table("service words", {
    "ls alias, and its order": [
      ...["b10", "a", "b2", "B", "c"].map((name, index) =>
        setup(create(`--name ${name} --replicas 0`), { save: `it${"abcde"[index]}` }),
      ),
      sh("docker service list --format '{{.Name}}'"),
      sh("docker service ls --format '{{.Name}}'"),
      sh("docker service ls --quiet | wc -l"),
      sh("docker service ls --filter name=b --format '{{.Name}}'"),
      sh("docker service ls --filter name=b --filter name=c --format '{{.Name}}'"),
      sh("docker service ls --filter id=nosuch --format '{{.Name}}'"),
      sh("docker service ls --filter mode=replicated --filter label=x --format '{{.Name}}'"),
      sh("docker service ls --format '{{.Nosuch}}'"),
      sh("docker service ls --format '{{.ID'"),
      sh("docker service ls --format 'table {{.Name}}\\t{{.Replicas}}'"),
      sh("docker service ls --format json"),
      sh("docker service ls extra"),
    ],
    "inspect of several": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup(create("--name s2 --replicas 0"), { save: "svc2" }),
      sh("docker service inspect -f '{{.Spec.Name}}' s2 s1"),
      sh("docker service inspect -f '{{.Spec.Name}}' nosuch s1 alsonot"),
      sh("docker service inspect --pretty nosuch s1"),
      sh("docker service inspect -f '{{.Nosuch}}' s1"),
      sh("docker service inspect --format '{{json .Endpoint}}' s1"),
      sh("docker inspect -f '{{.Spec.Name}}' s1"),
      sh("docker inspect --type service -f '{{.Spec.Name}}' s1"),
      sh("docker inspect --type service nosuch"),
      sh("docker inspect nosuch"),
      sh("docker inspect --type node -f '{{.Description.Hostname}}' h1"),
    ],
    "the beginning of an id": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service inspect -f '{{.Spec.Name}}' $(docker service ls -q | cut -c1-6)"),
      sh("docker service ps $(docker service ls -q | cut -c1-6)"),
      sh("docker service ps --filter id=x s1"),
      sh("docker service logs $(docker service ls -q | cut -c1-6)"),
      sh("docker service scale -d $(docker service ls -q | cut -c1-8)=0 | sed 's/^[^ ]*/ID/'"),
      sh("docker service rm $(docker service ls -q | cut -c1-6) | wc -c"),
    ],
    "a name that is another one's id": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      setup(create("--name $svc --replicas 0 -l a=b"), { save: "svc2" }),
      sh("docker service inspect -f '{{json .Spec.Labels}}' $svc"),
    ],
    "ps of several": [
      setup(create("--name s1 --replicas 2 --constraint node.labels.no==1"), { save: "svc" }),
      setup(create("--name s2 --constraint node.labels.no==1"), { save: "svc2" }),
      setup("docker service ps s1 s2", {
        until: /no suitable[\s\S]*no suitable[\s\S]*no suitable/,
      }),
      sh("docker service ps --format '{{.Name}}' s2 s1"),
      sh("docker service ps --format '{{.Name}}' nosuch s1"),
      sh("docker service ps --format '{{.Name}} {{.Ports}} {{.Image}}' --no-resolve s1", {
        volatile: /stdout/,
      }),
      sh("docker service ps --filter name=s1.2 --format '{{.Name}}' s1 s2"),
      sh("docker service ps --filter name=s1 --format '{{.Name}}' s1 s2"),
      sh("docker service ps --filter name=$svc.1 --format '{{.Name}}' s1"),
      sh("docker service ps --filter node=nosuch s1"),
      sh(
        "docker service ps --filter desired-state=running --filter desired-state=shutdown --format '{{.Name}}' s1",
      ),
      sh("docker service ps -q --no-trunc s1 | wc -c"),
      sh("docker service ps -q s1 | wc -c"),
      sh("docker service ps --quiet --format x s1 | wc -l"),
      sh("docker service ps --format json s2"),
    ],
    "logs, flags": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service logs --tail x s1"),
      sh("docker service logs --tail -1 s1"),
      sh("docker service logs --since x s1"),
      sh("docker service logs --since 5m --timestamps --details --no-resolve s1"),
      sh("docker service logs s1 s2"),
      get("/services/s1/logs?stdout=1&tail=-5"),
      get("/services/s1/logs?stdout=1&since=-5"),
      get("/services/s1/logs?stdout=true&until=5"),
      get("/services/s1/logs?stdout=nonsense"),
      get("/services/s1/logs?stderr=1&follow=0&details=1&timestamps=1&tail=0"),
      get("/services/s1/logs?stdout=1&tail="),
      get("/services/s1/logs?stdout=1&tail=all"),
      get("/v1.24/services/s1/logs?stdout=1"),
      get("/v1.28/services/s1/logs?stdout=1"),
    ],
    "scale, words": [
      setup(create("--name s1 --replicas 0 --constraint node.labels.no==1"), { save: "svc" }),
      sh("docker service scale -d s1=1 nosuch=2"),
      sh("docker service scale -d s1=1 s1=2"),
      sh("docker service scale -d s1="),
      sh("docker service scale -d =1"),
      sh("docker service scale -d s1=1.5"),
      sh("docker service scale --detach=true s1=0"),
    ],
    "wrong flags": [
      sh("docker service rm --force s1"),
      sh("docker service create --replicas x lab"),
      sh("docker service create --limit-memory x lab"),
      sh("docker service update --update-delay x s1"),
      sh("docker service nosuch"),
      sh("docker service"),
    ],
  }),
  ...table("service/filters, rare", {
    "ids by their beginning": [
      post("/services/create", spec("s1"), { save: "svc" }),
      sh(
        `curl -s --unix-socket \${DOCKER_HOST#unix://} "http://d/services?$(printf 'filters=%%7B%%22id%%22%%3A%%5B%%22%s%%22%%5D%%7D' $(docker service ls -q | cut -c1-5))" | grep -o '"Name":"s1"'`,
      ),
      get(`/services?${filters({ id: ["$svc", "nosuch"] })}`),
      get(`/services?${filters({ name: [""] })}`),
      get(`/services?${filters({ label: [""] })}`),
      get(`/services?${filters({ label: ["=x"] })}`),
      get(`/services?${filters({ label: { a: true, b: false } })}`),
      get(`/services?${filters({ name: {} })}`),
      get(`/services?${filters({ name: [] })}`),
      get(`/services?${filters({ mode: ["Replicated"] })}`),
      get(`/services?${filters({ mode: ["replicated", "global"] })}`),
      get(`/services?${filters({ mode: ["replicatedjob"] })}`),
      get(`/services?${filters({ runtime: ["container", "plugin"] })}`),
    ],
  }),
];
