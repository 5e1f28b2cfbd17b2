/** What a task's container is given, seen from inside it and by inspection; and commands that wait for tasks. */
import { type Case, create, setup, sh, table } from "../case.ts";

/** One task that runs; `$box` is its container. */
const running = (flags: string, rest = "") => [
  setup(create(`--name s1 --stop-grace-period 1s ${flags}`, rest), { save: "svc" }),
  setup("docker service ls --format '{{.Replicas}}'", { until: /1\/1/ }),
  setup("docker ps -q --no-trunc --filter label=com.docker.swarm.service.id=$svc", { save: "box" }),
];
const quick = (flags: string, rest = "") => [
  setup(
    create(
      `--name s1 --stop-grace-period 1s --update-monitor 300ms --rollback-monitor 300ms ${flags}`,
      rest,
    ),
    { save: "svc" },
  ),
  setup("docker service ls --format '{{.Replicas}}'", { until: /1\/1/ }),
];
const inside = (line: string) => sh(`docker exec $box ${line}`);
const waits = (line: string) => sh(line, { timeoutMs: 40_000 });

export const INSIDE_CASES: readonly Case[] = [
  ...table("inside", {
    "secrets and configs": [
      ...["in-s", "in-o", "in-a"].map((name) =>
        setup(`printf hidden | docker secret create ${name} -`, { save: "sec" }),
      ),
      ...["in-c", "in-d"].map((name) =>
        setup(`printf shown | docker config create ${name} -`, { save: "con" }),
      ),
      ...running(
        "--secret in-s --secret source=in-o,target=other,uid=5,gid=6,mode=0400 --secret source=in-a,target=/abs/s --config in-c --config source=in-d,target=/etc/in/c,uid=7,mode=0640",
      ),
      inside(
        "sh -c 'for F in /run/secrets/* /abs/s /in-c /etc/in/c; do stat -c \"%n %a %u %g %s\" $F; done'",
      ),
      inside("cat /run/secrets/in-s /run/secrets/other /in-c"),
      inside("sh -c 'echo x > /run/secrets/in-s'"),
      inside("sh -c 'grep -c secrets /proc/mounts'"),
      sh("docker inspect -f '{{len .Mounts}}' $box"),
    ],
    templates: [
      setup(
        "printf '{{ env \"A\" }} {{ .Service.Name }} {{ .Task.Slot }}' | docker config create --template-driver golang in-t -",
        { save: "con" },
      ),
      ...running(
        "--hostname 'h-{{.Task.Slot}}-{{.Node.Hostname}}' -e 'A={{.Service.Name}}' -e 'B={{.Node.Platform.OS}}' --config in-t --mount 'type=volume,src=v-{{.Task.Slot}},dst=/d-{{.Service.Name}}'",
      ),
      inside("hostname"),
      inside("sh -c 'echo $A $B'"),
      inside("cat /in-t"),
      sh(
        "docker inspect -f '{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{.Destination}} {{.Driver}} {{.RW}}{{end}}{{end}}' $box",
      ),
    ],
    "every option": [
      ...running(
        "--cap-add NET_ADMIN --cap-drop CHOWN --dns 10.99.0.1 --dns-option ndots:2 --dns-search a.example --host db:10.99.0.5 --group 7 --health-cmd true --health-interval 1s --health-retries 2 --limit-cpu 0.5 --limit-memory 60m --limit-pids 50 --log-driver json-file --log-opt max-size=1m --mount type=volume,src=in-v,dst=/v,volume-label=a=b,volume-nocopy --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700 --mount type=bind,src=/tmp,dst=/b,ro --read-only --stop-signal SIGINT --sysctl net.ipv4.ip_unprivileged_port_start=0 -t --ulimit nofile=100:200 -u 1000 -w /tmp --container-label x=y -e A=1",
        "sleep 600",
      ),
      sh("docker inspect -f '{{json .HostConfig}}' $box"),
      sh("docker inspect -f '{{json .Config}}' $box"),
      inside("cat /etc/resolv.conf"),
      inside(
        "sh -c 'grep db /etc/hosts; id; pwd; grep files /proc/1/limits; ls -ld /t | cut -c1-10; cat /proc/sys/net/ipv4/ip_unprivileged_port_start'",
      ),
      sh("docker volume inspect -f '{{json .Labels}} {{.Driver}}' in-v"),
      sh("docker inspect -f '{{.State.Health.Status}}' $box", { until: /healthy/ }),
    ],
    "environment and process": [
      ...running("-e A=1 -e B= --entrypoint 'sh -c'", "'echo $A; exec serve'"),
      inside("env"),
      inside("cat /proc/1/comm"),
      sh(
        "docker inspect -f '{{json .Path}} {{json .Args}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}' $box",
      ),
    ],
    networks: [
      setup("docker network create -d overlay in-n", { save: "net" }),
      ...running("--network name=in-n,alias=www --hostname inner"),
      inside("sh -c 'nslookup s1 | grep -c Name'"),
      inside("sh -c 'nslookup www | grep -c Name'"),
      inside("sh -c 'nslookup tasks.s1 | grep -c Name'"),
      inside("sh -c 'nslookup nosuch.example >/dev/null 2>&1; echo $?'"),
      inside("sh -c 'ip -o -4 addr show | grep -c eth0'"),
      inside("sh -c 'cat /sys/class/net/eth0/mtu'"),
      sh(
        "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPPrefixLen}}{{end}}' $box",
      ),
    ],
    "network host": [
      ...running("--network host"),
      inside("sh -c 'ip -o link show eth0 | wc -l'"),
      sh("docker inspect -f '{{.HostConfig.NetworkMode}}' $box"),
      inside("hostname"),
    ],
  }),
  ...table("waiting", {
    "service update": [
      ...quick(""),
      waits("docker service update -q --env-add A=1 s1"),
      waits("docker service update --env-add A=2 s1 | tail -1"),
      sh("docker service ls --format '{{.Replicas}}'"),
      sh("docker service inspect -f '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}' s1"),
    ],
    "service update that fails": [
      ...quick("--restart-delay 1s"),
      waits("docker service update -q --args false s1"),
    ],
    "service update that is rolled back": [
      ...quick("--restart-delay 1s --update-failure-action rollback"),
      waits("docker service update -q --args false s1"),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Args}}' s1"),
    ],
    "service rollback": [
      ...quick(""),
      waits("docker service update -q --env-add A=1 s1"),
      waits("docker service rollback -q s1"),
      waits("docker service rollback s1 | tail -1"),
    ],
    "service scale": [
      ...quick(""),
      waits("docker service scale s1=2 | tail -1"),
      sh("docker service ls --format '{{.Replicas}}'"),
      waits("docker service scale s1=0 | tail -1"),
    ],
    "service create": [
      waits(
        "docker service create -q --no-resolve-image --name s2 --mode global --stop-grace-period 1s lab:latest | wc -c",
      ),
      waits(
        "docker service create --no-resolve-image --name s3 --stop-grace-period 1s --replicas 1 lab:latest | tail -1 | sed 's/verify: Service [a-z0-9]*/verify: Service ID/'",
      ),
    ],
    "service create with 0 replicas": [
      waits(
        "docker service create -q --no-resolve-image --name s2 --replicas 0 lab:latest | wc -c",
      ),
    ],
    "stack deploy": [
      waits(
        'printf \'version: "3.8"\\nservices: {web: {image: "lab:latest", stop_grace_period: 1s}}\\n\' | docker stack deploy --resolve-image never --detach=false -q -c - ws 2>&1 | sort',
      ),
      sh("docker stack services ws --format '{{.Replicas}}'"),
      waits("docker stack rm --detach=false ws 2>&1 | sort"),
      sh("docker stack ls -q 2>/dev/null; docker service ls -q"),
    ],
    "service logs, followed": [
      setup(
        create(
          "--name s1 --stop-grace-period 1s",
          "sh -c 'for N in 1 2 3; do echo line$N; done; serve'",
        ),
        { save: "svc" },
      ),
      setup("docker service logs --raw s1 2>&1", { until: /line3/ }),
      sh("timeout 2 docker service logs -f --raw s1 2>/dev/null; echo $?"),
      sh("timeout 2 docker service logs -f --raw --tail 1 s1 2>/dev/null"),
      sh("docker service logs --raw --since 1h s1 2>/dev/null"),
      sh("docker service logs --raw --since 0s s1 2>/dev/null | wc -l"),
      sh("docker service logs --raw --tail 0 s1 2>/dev/null | wc -l"),
      sh("docker service logs --no-trunc --no-resolve s1 2>/dev/null | sed 's/^[^|]*/T /'"),
      sh("docker service logs --raw $(docker service ps -q --no-trunc s1) 2>/dev/null"),
    ],
  }),
];
