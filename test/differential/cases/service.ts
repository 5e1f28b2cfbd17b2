/** `docker service create`, `ls`, `inspect`, `ps`, `rm`, `scale`, `logs`: each flag. */
import { type Case, create, get, setup, sh, table } from "../case.ts";

/** Created with these flags and shown as stored. */
const made = (flags: string, rest = "") => [
  sh(create(`--name s1 --replicas 0 ${flags}`, rest), { save: "svc" }),
  sh("docker service inspect s1"),
];
const predefined = (name: string) => [
  sh(create(`--name s1 --replicas 0 --network ${name}`), { save: "svc" }),
  sh("docker service inspect s1", { volatile: /Endpoint/ }),
];
const global = (flags: string) => [
  sh(create(`--name s1 --constraint node.labels.no==1 ${flags}`), { save: "svc" }),
  sh("docker service inspect s1"),
];
/** With addresses, which take a moment. */
const attached = (flags: string) => [
  sh(create(`--name s1 --replicas 0 ${flags}`), { save: "svc" }),
  sh("docker service inspect s1", { until: /VirtualIPs/ }),
];
/** Without its own name: for refusals. */
const tried = (flags: string) => create(`--name s1 --replicas 0 ${flags}`);
const secret = setup("printf x | docker secret create sec -", { save: "sec" });
const config = setup("printf x | docker config create con -", { save: "con" });
const network = setup("docker network create -d overlay net", { save: "net" });
const pretty = (flags: string) => [
  setup(create(`--name s1 --replicas 0 ${flags}`), { save: "svc" }),
  // Ports are given out a moment after the service is made, in stock too.
  sh("docker service inspect --pretty s1", flags.includes("-p ") ? { until: /PublishedPort/ } : {}),
];

export const SERVICE_CASES: readonly Case[] = [
  ...table("service create", {
    plain: made(""),
    "command and arguments": made("", "serve a 'b c'"),
    "-q": create("-q --name s1 --replicas 0"),
    "--args": made("--entrypoint 'sh -c'", "'echo a' b"),
    "--cap-add --cap-drop": made("--cap-add NET_ADMIN --cap-add ALL --cap-drop CHOWN"),
    "--config": [config, ...made("--config con")],
    "--config long": [config, ...made("--config source=con,target=/etc/x,uid=1,gid=2,mode=0400")],
    "--config of none": tried("--config nosuch"),
    "--constraint": made("--constraint node.role==manager --constraint 'node.labels.a != b'"),
    "--constraint, bad": tried("--constraint nonsense"),
    "--container-label": made("--container-label a=b --container-label c"),
    "--credential-spec": tried("--credential-spec file://x --isolation process"),
    "--credential-spec, bad": tried("--credential-spec nonsense"),
    "--dns": made("--dns 10.99.0.1 --dns-option ndots:2 --dns-search example.org"),
    "--dns, bad": tried("--dns nonsense"),
    "--endpoint-mode": made("--endpoint-mode dnsrr"),
    "--endpoint-mode, bad": tried("--endpoint-mode nosuch"),
    "--env": made("-e A=1 -e B -e C="),
    "--env-file": [
      sh("printf 'X=1\\n# no\\nY=2\\n' > f; " + tried("--env-file f"), { save: "svc" }),
      sh("docker service inspect s1"),
    ],
    "--generic-resource": made("--generic-resource GPU=2"),
    "--generic-resource, bad": [
      sh(tried("--generic-resource nonsense")),
      sh(tried("--generic-resource a=b")),
    ],
    "--group": made("--group a --group 5"),
    "--health": made(
      "--health-cmd 'true' --health-interval 5s --health-timeout 2s --health-retries 3 --health-start-period 1s",
    ),
    "--health, too short": tried("--health-cmd true --health-interval 1us"),
    "--no-healthcheck": made("--no-healthcheck"),
    "--no-healthcheck and --health-cmd": tried("--no-healthcheck --health-cmd true"),
    "--health-start-interval": tried("--health-cmd true --health-start-interval 1s"),
    "--host": made("--host a:10.99.0.1 --host b:10.99.0.2"),
    "--hostname": made("--hostname 'h-{{.Task.Slot}}'"),
    "--init": made("--init"),
    "--isolation": made("--isolation default"),
    "--label": made("-l a=b -l c"),
    "--limits": made("--limit-cpu 0.5 --limit-memory 50m --limit-pids 100"),
    "--limit-cpu, too small": tried("--limit-cpu 0.0001"),
    "--limit-memory, too small": tried("--limit-memory 1m"),
    "--reserve": made("--reserve-cpu 0.25 --reserve-memory 20m"),
    "--reserve-memory, bad": tried("--reserve-memory nonsense"),
    "--log-driver": made("--log-driver json-file --log-opt max-size=1m --log-opt max-file=2"),
    "--log-opt alone": made("--log-opt max-size=1m"),
    "--max-concurrent": tried("--max-concurrent 2"),
    "--mode global": global("--mode global"),
    "--mode global with --replicas": create("--name s1 --mode global --replicas 2"),
    "--mode replicated-job": global("--mode replicated-job --replicas 3 --max-concurrent 2"),
    "--mode global-job": global("--mode global-job"),
    "--mode job with update flags": create("--name s1 --mode replicated-job --update-delay 1s"),
    "--mode, bad": tried("--mode nosuch"),
    "--mount": made(
      "--mount type=bind,src=/tmp,dst=/a,ro,bind-propagation=rslave --mount type=volume,src=v,dst=/b,volume-nocopy,volume-driver=local,volume-opt=a=b,volume-label=c=d --mount type=tmpfs,dst=/c,tmpfs-size=1m,tmpfs-mode=0700",
    ),
    "--mount without type": made("--mount src=v,dst=/b"),
    "--mount, twice one target": tried("--mount type=tmpfs,dst=/a --mount type=tmpfs,dst=/a"),
    "--mount, bad": [
      sh(tried("--mount nonsense")),
      sh(tried("--mount type=nosuch,dst=/a")),
      sh(tried("--mount type=bind,dst=/a")),
    ],
    "--mount bind without recursion": made("--mount type=bind,src=/tmp,dst=/a,bind-nonrecursive"),
    "--network": [network, ...attached("--network net")],
    "--network with alias": [
      network,
      ...attached("--network name=net,alias=a,alias=b,driver-opt=x=y"),
    ],
    "--network host": predefined("host"),
    "--network bridge": predefined("bridge"),
    "--network of none": tried("--network nosuch"),
    "--network of two": [
      network,
      setup("docker network create -d overlay net2", { save: "net2" }),
      ...attached("--network net --network net2"),
    ],
    "--network local": [setup("docker network create -d bridge loc"), sh(tried("--network loc"))],
    "--network ingress": tried("--network ingress"),
    "--oom-score-adj": tried("--oom-score-adj 5"),
    "--placement-pref": made("--placement-pref spread=node.labels.zone"),
    "--placement-pref, bad": tried("--placement-pref nonsense"),
    "--publish": [
      sh(tried("-p 8080:80 -p 8081:81/udp"), { save: "svc" }),
      get("/services/s1", { until: /VirtualIPs/ }),
      sh("docker service ls --format '{{.Ports}}'"),
    ],
    "--publish range": [
      sh(tried("-p 8080-8082:80-82"), { save: "svc" }),
      get("/services/s1", { until: /VirtualIPs/ }),
      sh("docker service ls --format '{{.Ports}}'"),
    ],
    "--publish without number": [
      sh(tried("-p 80"), { save: "svc" }),
      get("/services/s1", { until: /"PublishedPort":3/ }),
      sh("docker service ls --format '{{.Ports}}'"),
    ],
    "--publish long": [
      sh(tried("-p published=8080,target=80,protocol=udp,mode=host"), { save: "svc" }),
      get("/services/s1", { until: /"Endpoint":\{"Spec":\{"/ }),
    ],
    "--publish, bad": [
      sh(tried("-p nonsense")),
      sh(tried("-p 127.0.0.1:80:80")),
      sh(tried("-p 99999:80")),
      sh(tried("-p published=1,target=2,mode=nosuch")),
    ],
    "--publish, taken": [
      setup(create("--name other --replicas 0 -p 8080:80"), { save: "other" }),
      sh(tried("-p 8080:80")),
    ],
    "--publish, twice": tried("-p 8080:80 -p 8080:81"),
    "--read-only": made("--read-only"),
    "--replicas, bad": [
      sh(create("--name s1 --replicas -1")),
      sh(create("--name s1 --replicas x")),
    ],
    "--replicas-max-per-node": made("--replicas-max-per-node 2"),
    "--restart": made(
      "--restart-condition on-failure --restart-delay 2s --restart-max-attempts 3 --restart-window 1m",
    ),
    "--restart-condition alone": made("--restart-condition none"),
    "--restart-condition, bad": tried("--restart-condition nosuch"),
    "--rollback flags": made(
      "--rollback-parallelism 2 --rollback-delay 1s --rollback-failure-action continue --rollback-max-failure-ratio 0.5 --rollback-monitor 2s --rollback-order start-first",
    ),
    "--rollback-failure-action, bad": tried("--rollback-failure-action rollback"),
    "--secret": [secret, ...made("--secret sec")],
    "--secret long": [secret, ...made("--secret source=sec,target=x,uid=1,gid=2,mode=0400")],
    "--secret of none": tried("--secret nosuch"),
    "--secret twice": [secret, sh(tried("--secret sec --secret sec"))],
    "--stop": made("--stop-grace-period 3s --stop-signal SIGINT"),
    "--sysctl": made("--sysctl net.ipv4.ip_forward=1"),
    "--tty": made("-t"),
    "--ulimit": made("--ulimit nofile=10:20 --ulimit nproc=5"),
    "--ulimit, bad": tried("--ulimit nosuch=1"),
    "--update flags": made(
      "--update-parallelism 2 --update-delay 1s --update-failure-action rollback --update-max-failure-ratio 0.5 --update-monitor 2s --update-order start-first",
    ),
    "--update-parallelism 0": made("--update-parallelism 0"),
    "--update-failure-action, bad": tried("--update-failure-action nosuch"),
    "--update-order, bad": tried("--update-order nosuch"),
    "--update-max-failure-ratio, bad": tried("--update-max-failure-ratio 2"),
    "--user --workdir": made("-u 1000:1000 -w /tmp"),
    "--with-registry-auth": made("--with-registry-auth"),
    "--no-resolve-image is not given":
      "docker service create -d --name s1 --replicas 0 lab:latest | wc -c",
    "name, bad": [
      sh(create("--name 'a b'")),
      sh(create("--name a.b")),
      sh(create(`--name ${"a".repeat(64)}`)),
    ],
    "name, taken": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh(create("--name s1 --replicas 0")),
    ],
    "image, bad": [
      sh("docker service create -d --name s1 Lab"),
      sh("docker service create -d --name s1 ''"),
    ],
    "no image": "docker service create",
    "unknown flag": "docker service create --nosuch x",
    "waits until it runs": [
      sh(
        "docker service create --name s1 --no-resolve-image -q --replicas 1 --stop-grace-period 1s lab:latest",
        { save: "svc", timeoutMs: 40_000 },
      ),
      sh("docker service ls --format '{{.Name}} {{.Replicas}}'"),
    ],
  }),
  ...table("service inspect", {
    "--pretty": pretty(""),
    "--pretty, ports and mounts": pretty(
      "--mount type=tmpfs,dst=/a -p published=8080,target=80,mode=host --limit-cpu 1 --reserve-memory 10m",
    ),
    "--pretty, policies": pretty(
      "--update-delay 1s --rollback-parallelism 2 --restart-condition none --constraint node.role==worker -l a=b",
    ),
    "--pretty, networks": [network, ...pretty("--network net")],
    "--pretty, secrets and configs": [
      secret,
      config,
      ...pretty(
        "--secret sec --config con -e A=b --health-cmd true --cap-add CHOWN --sysctl a.b=c",
      ),
    ],
    "--format": [
      setup(create("--name s1 --replicas 0")),
      sh("docker service inspect -f '{{.Spec.Name}} {{.Spec.Mode.Replicated.Replicas}}' s1"),
    ],
    none: [sh("docker service inspect nosuch"), sh("docker service inspect")],
    "some and none": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service inspect -f '{{.Spec.Name}}' s1 nosuch"),
    ],
  }),
  ...table("service ls", {
    empty: "docker service ls",
    table: [
      setup(create("--name s1 --replicas 0 -l a=b"), { save: "svc" }),
      setup(create("--name s2 --mode global --constraint node.labels.no==1"), { save: "svc2" }),
      setup(create("--name s3 --mode replicated-job --replicas 2 --constraint node.labels.no==1"), {
        save: "svc3",
      }),
      setup(
        create("--name s4 --replicas 3 --replicas-max-per-node 2 --constraint node.labels.no==1"),
        { save: "svc4" },
      ),
      sh("docker service ls"),
      sh("docker service ls -q"),
      sh("docker service ls --format '{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}'"),
      sh("docker service ls --format '{{json .}}'"),
      sh("docker service ls --filter name=s"),
      sh("docker service ls --filter name=s1 -q"),
      sh("docker service ls --filter mode=global"),
      sh("docker service ls --filter mode=replicated-job"),
      sh("docker service ls --filter label=a"),
      sh("docker service ls --filter label=a=x"),
      sh("docker service ls --filter id=$svc"),
      sh("docker service ls --filter nosuch=x"),
      sh("docker service ls --filter mode=nosuch"),
      sh("DOCKER_API_VERSION=1.40 docker service ls"),
    ],
  }),
  ...table("service rm", {
    one: [
      setup(create("--name s1 --replicas 0")),
      sh("docker service rm s1"),
      sh("docker service ls -q"),
    ],
    several: [
      setup(create("--name s1 --replicas 0")),
      setup(create("--name s2 --replicas 0")),
      sh("docker service rm s1 nosuch s2"),
    ],
    none: [sh("docker service rm nosuch"), sh("docker service rm")],
    "by id": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      sh("docker service rm $svc"),
    ],
    "remove as alias": [setup(create("--name s1 --replicas 0")), sh("docker service remove s1")],
  }),
  ...table("service scale", {
    "up and down": [
      setup(create("--name s1 --replicas 0 --constraint node.labels.no==1"), { save: "svc" }),
      sh("docker service scale -d s1=3"),
      sh("docker service ls --format '{{.Replicas}}'"),
      sh("docker service scale -d s1=0"),
      sh("docker service ls --format '{{.Replicas}}'"),
    ],
    several: [
      setup(create("--name s1 --replicas 0")),
      setup(create("--name s2 --replicas 0")),
      sh("docker service scale -d s1=0 s2=0"),
    ],
    none: [sh("docker service scale -d nosuch=1"), sh("docker service scale")],
    bad: [
      setup(create("--name s1 --replicas 0")),
      sh("docker service scale s1"),
      sh("docker service scale s1=x"),
      sh("docker service scale s1=-1"),
      sh("docker service scale -d s1=99999999999999999999"),
    ],
    global: [
      setup(create("--name s1 --mode global --constraint node.labels.no==1")),
      sh("docker service scale -d s1=2"),
    ],
    job: [
      setup(create("--name s1 --mode replicated-job --replicas 1 --constraint node.labels.no==1"), {
        save: "svc",
      }),
      sh("docker service scale -d s1=3"),
      sh("docker service inspect -f '{{json .Spec.Mode}}' s1"),
    ],
    "many times at once": [
      setup(create("--name s1 --replicas 0 --constraint node.labels.no==1"), { save: "svc" }),
      sh("for N in 1 2 3 4 5; do docker service scale -d s1=$N; done"),
    ],
  }),
  ...table("service ps", {
    "of a pending task": [
      setup(create("--name s1 --constraint node.labels.no==1"), { save: "svc" }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc s1"),
      sh("docker service ps s1"),
      sh("docker service ps --no-resolve s1"),
      sh("docker service ps -q s1 | wc -l"),
      sh(
        "docker service ps --format '{{.Name}} {{.Image}} {{.Node}} {{.DesiredState}} {{.Error}}' s1",
      ),
      sh("docker service ps --format '{{json .}}' s1"),
      sh("docker service ps --filter desired-state=running s1"),
      sh("docker service ps --filter desired-state=shutdown s1"),
      sh("docker service ps --filter desired-state=nosuch s1"),
      sh("docker service ps --filter name=s1.1 s1"),
      sh("docker service ps --filter node=h1 s1"),
      sh("docker service ps --filter node=self s1"),
      sh("docker service ps --filter nosuch=x s1"),
      sh("docker service ps s1 nosuch"),
    ],
    none: [sh("docker service ps nosuch"), sh("docker service ps")],
    "pending for its reservations": [
      setup(create("--name s1 --reserve-memory 900g"), { save: "svc" }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}} {{.CurrentState}}' s1"),
    ],
    "pending for a plugin": [
      setup(create("--name s1 --mount type=volume,src=v,dst=/v,volume-driver=nosuch"), {
        save: "svc",
      }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}}' s1"),
    ],
    "pending for its platform": [
      setup("docker node update --availability pause h1"),
      setup(create("--name s1"), { save: "svc" }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}}' s1"),
      setup("docker node update --availability active h1"),
    ],
    "pending for max replicas": [
      setup(create("--name s1 --replicas 2 --replicas-max-per-node 1 --stop-grace-period 1s"), {
        save: "svc",
      }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}}' s1 | sort | tail -1"),
    ],
    "pending for generic resources": [
      setup(create("--name s1 --generic-resource GPU=1"), { save: "svc" }),
      setup("docker service ps s1", { until: /no suitable node/ }),
      sh("docker service ps --no-trunc --format '{{.Error}}' s1"),
    ],
  }),
  ...table("service logs", {
    "of none": [sh("docker service logs nosuch"), sh("docker service logs")],
    "of no task": [setup(create("--name s1 --replicas 0")), sh("docker service logs s1")],
    "bad options": [
      setup(create("--name s1 --replicas 0"), { save: "svc" }),
      get("/services/s1/logs"),
      get("/services/s1/logs?stdout=0&stderr=0"),
      get("/services/s1/logs?stdout=1&tail=x"),
      get("/services/s1/logs?stdout=1&since=x"),
      get("/tasks/nosuch/logs?stdout=1"),
    ],
    "of a task": [
      setup(
        "docker service create -q --no-resolve-image --name s1 --restart-condition none --stop-grace-period 1s lab:latest sh -c 'echo one; echo two; echo three; serve'",
        { save: "svc", timeoutMs: 40_000 },
      ),
      sh("docker service logs --raw s1 2>/dev/null", { until: /three/ }),
      sh("docker service logs --raw --tail 1 s1 2>/dev/null"),
      sh("docker service logs s1 2>&1 | sort | sed 's/^[^ ]*/T/'"),
      sh("docker service logs --no-task-ids --no-trunc s1 2>&1 >/dev/null"),
      sh("docker service logs -t --raw s1 2>/dev/null"),
      sh("docker service logs --details --raw s1 2>/dev/null", { volatile: /stdout/ }),
    ],
  }),
];
