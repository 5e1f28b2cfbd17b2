/** The engine's own commands beside the swarm's tasks: on their containers, networks and volumes. */
import { type Case, create, filters, get, post, setup, sh, table } from "../case.ts";

/** One task that runs; `$box` is its container. */
const running = (flags = "", rest = "") => [
  setup(create(`--name s1 --stop-grace-period 1s --restart-delay 1s ${flags}`, rest), {
    save: "svc",
  }),
  setup("docker service ls --format '{{.Replicas}}'", { until: /1\/1/ }),
  setup("docker ps -q --no-trunc --filter label=com.docker.swarm.service.id=$svc", { save: "box" }),
];
const network = (name: string, flags = "") =>
  setup(`docker network create -d overlay ${flags} ${name}`, { save: name });
const replaced = sh("docker service ps --format '{{.Name}} {{.DesiredState}}' s1 | sort", {
  until: /Running[\s\S]*Shutdown/,
});
const again = setup("docker service ls --format '{{.Replicas}}'", { until: /1\/1/ });

export const BESIDE_CASES: readonly Case[] = [
  ...table("beside/container", {
    "ps and its filters": [
      ...running("--container-label a=b"),
      sh(
        "docker ps --filter label=com.docker.swarm.service.id=$svc --format '{{.Names}} {{.Image}} {{.Command}} {{.Ports}} {{.Networks}} {{.Mounts}}'",
      ),
      sh("docker ps --filter is-task=true --filter label=a=b --format '{{.Names}}'"),
      sh("docker ps --filter is-task=false --filter label=a=b --format '{{.Names}}'"),
      sh("docker ps --filter label=a=b --filter name=^s1 --format '{{.Image}}'"),
      sh("docker ps --filter label=a=b --format '{{.Label \"a\"}}'"),
      sh(
        "docker ps --filter label=com.docker.swarm.node.id=$node --filter label=a=b --format '{{.Image}}'",
      ),
    ],
    inspect: [
      ...running("-e A=1 --mount type=tmpfs,dst=/t --limit-memory 50m --hostname hh --user 5"),
      sh("docker inspect -f '{{json .HostConfig}}' $box"),
      sh("docker inspect -f '{{json .Config}}' $box"),
      sh(
        "docker inspect -f '{{json .Mounts}} {{.Name}} {{.Path}} {{json .Args}} {{.RestartCount}} {{.Driver}} {{.AppArmorProfile}}' $box",
      ),
      sh("docker inspect -f '{{json .State.Status}} {{.State.Running}} {{.State.ExitCode}}' $box"),
    ],
    "inspect, with a network and ports": [
      network("na3"),
      ...running(
        "--network na3 -p published=8095,target=80 -p published=8096,target=81,mode=host --hostname hh",
      ),
      sh("docker inspect -f '{{json .HostConfig}}' $box"),
      sh("docker inspect -f '{{json .Config.ExposedPorts}} {{json .NetworkSettings.Ports}}' $box"),
      sh(
        "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPPrefixLen}} {{json $v.IPAMConfig}} {{json $v.Aliases}} {{json $v.Links}} {{json $v.DriverOpts}};{{end}}' $box",
      ),
      sh("docker port $box"),
      sh("docker ps --format '{{.Ports}} {{.Networks}}'"),
    ],
    "exec, top, logs, cp, diff": [
      ...running("", "sh -c 'echo hello; serve'"),
      sh("docker exec $box echo inside"),
      sh("docker exec $box sh -c 'exit 5'"),
      sh("docker exec -i $box cat < /etc/hostname | wc -l"),
      sh("docker exec -e A=b -w /tmp -u 0 $box sh -c 'echo $A; pwd'"),
      sh("docker logs $box", { until: /hello/ }),
      sh("docker logs -t --tail 1 $box"),
      sh("docker top $box -o pid,comm | awk '{print $2}'"),
      sh("docker stats --no-stream --format '{{.Name}}' $box"),
      sh("docker cp $box:/etc/hostname - | tar t"),
      sh("docker diff $box"),
      sh("docker exec nosuch true"),
      sh("docker exec $box cat /etc/resolv.conf /etc/hosts", { volatile: /stdout/ }),
      sh("docker exec $box hostname | wc -c"),
    ],
    "rm of a running one": [...running(), sh("docker rm $box")],
    "rm -f of a task's container": [
      ...running(),
      sh("docker rm -f $box"),
      replaced,
      sh(
        "docker service ps --filter desired-state=shutdown --no-trunc --format '{{.Error}} {{.CurrentState}}' s1",
      ),
      again,
    ],
    "kill of a task's container": [
      ...running(),
      sh("docker kill $box"),
      replaced,
      sh(
        "docker service ps --filter desired-state=shutdown --no-trunc --format '{{.Error}} {{.CurrentState}}' s1",
      ),
      again,
      sh("docker ps -a --filter id=$box --format '{{.Status}}'"),
      sh("docker wait $box"),
    ],
    "stop of a task's container": [
      ...running(),
      sh("docker stop -t 1 $box"),
      replaced,
      sh(
        "docker service ps --filter desired-state=shutdown --no-trunc --format '{{.CurrentState}}' s1",
      ),
      again,
    ],
    "restart and pause": [
      ...running(),
      sh("docker pause $box"),
      sh("docker ps --filter id=$box --format '{{.State}}'"),
      sh("docker unpause $box"),
      sh("docker service ps --format '{{.Name}} {{.CurrentState}}' s1"),
    ],
    "update of a task's container": [
      ...running(),
      sh("docker update --cpu-shares 512 $box"),
      sh("docker update --restart always $box"),
      sh("docker inspect -f '{{.HostConfig.CPUShares}} {{.HostConfig.RestartPolicy.Name}}' $box"),
    ],
    "commit of a task's container": [
      ...running(),
      sh("docker commit $box committed:1"),
      sh("docker rmi committed:1 | head -1"),
    ],
    "the image in use is not removed": [
      ...running(),
      sh("docker rmi lab:latest", { volatile: /stderr/ }),
    ],
  }),
  ...table("beside/network", {
    "a container on a service's network": [
      network("na13", "--attachable"),
      ...running("--network na13"),
      sh("docker run --rm --network na13 lab:latest nslookup s1 | grep -c Name"),
      sh("docker run --rm --network na13 lab:latest nslookup tasks.s1 | grep -c Name"),
      sh("docker run -d --name c1 --network na13 --network-alias extra lab:latest serve", {
        save: "cid",
      }),
      sh(
        "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPPrefixLen}} {{json $v.IPAMConfig}} {{json $v.DriverOpts}}{{end}}' c1",
      ),
      sh("docker inspect -f '{{.HostConfig.NetworkMode}}' c1"),
      sh("docker exec $box nslookup c1 | grep -c Name"),
      sh("docker exec $box nslookup extra | grep -c Name"),
      sh("docker network rm na13"),
      sh("docker rm -f c1"),
    ],
    "connect and disconnect": [
      network("na14", "--attachable"),
      setup("docker run -d --name c1 --network none lab:latest serve"),
      sh("docker network connect na14 c1"),
      setup("docker network disconnect none c1", { ignored: true }),
      sh("docker network connect --alias other na14 c1"),
      sh("docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' c1"),
      sh("docker network disconnect na14 c1"),
      sh("docker network disconnect na14 c1"),
      sh("docker network connect --ip 10.99.7.7 na14 nosuch"),
      sh("docker rm -f c1"),
    ],
    "connect of a bridge container": [
      network("na15", "--attachable"),
      setup("docker network create -d bridge br1"),
      setup("docker run -d --name c1 --network br1 lab:latest serve"),
      sh("docker network connect --alias other --driver-opt a=b na15 c1"),
      sh(
        "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{json $v.DriverOpts}} {{end}}' c1",
      ),
      // Not part of a name: the random end of a task's name may be one, too.
      sh("docker ps --filter name=^c1\\$ --format '{{.Networks}}' | tr , '\\n' | sort"),
      sh("docker ps --filter network=na15 --format '{{.Names}}'"),
      sh("docker exec c1 nslookup other | grep -c Name"),
      sh("docker network disconnect -f na15 c1"),
      sh("docker rm -f c1"),
      sh("docker network rm br1"),
    ],
    "run with an address": [
      network("na16", "--attachable --subnet 10.99.70.0/24"),
      sh(
        "docker run --rm --network na16 --ip 10.99.70.77 lab:latest sh -c 'ip -4 -o addr show eth0 | grep -o 10.99.70.77/24'",
      ),
      sh(
        "docker run --rm --network name=na16,ip=10.99.70.78,alias=x lab:latest sh -c 'ip -4 -o addr show eth0 | grep -o 10.99.70.78/24'",
      ),
    ],
    "create, then start": [
      network("na17", "--attachable"),
      sh("docker create --name c1 --network na17 lab:latest true", { save: "cid" }),
      sh(
        "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{json $v.IPAMConfig}} {{end}}' c1",
      ),
      sh("docker start c1"),
      sh("docker wait c1"),
      sh("docker start -a c1"),
      sh("docker rm c1"),
    ],
    "run on ingress": [sh("docker run --rm --network ingress lab:latest true")],
    "run on two": [
      network("na19", "--attachable"),
      network("nb19", "--attachable"),
      // The engine names the two in any order.
      sh(
        "docker run --rm --network na19 --network nb19 lab:latest sh -c 'ip -o -4 addr show | grep -c eth' 2>&1 | sed 's/nb19, na19/na19, nb19/'",
      ),
    ],
    "inspect with a task on it": [
      network("na20", "--attachable"),
      ...running("--network na20"),
      sh(
        "docker network inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{json .Labels}} {{len .IPAM.Config}}' na20",
      ),
      sh("docker network inspect -f '{{range .Containers}}{{.Name}} {{end}}' na20"),
      sh(
        "docker network inspect -v -f '{{range $k, $v := .Services}}{{$k}} {{len $v.Tasks}} {{json $v.Ports}}{{end}}' na20",
      ),
      sh("docker network inspect -f '{{len .Peers}}' na20"),
      get("/networks/na20", { volatile: /Containers|Created|Peers/ }),
      get("/networks/na20?verbose=1", {
        volatile: /Containers|Created|Peers|EndpointIP|LocalLBIndex/,
      }),
      sh(
        "docker network ls --filter name=na20 --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.IPv6}} {{.Labels}}'",
      ),
    ],
    "ls of local ones": [
      sh("docker network ls --filter driver=bridge --format '{{.Name}}' | sort"),
      sh("docker network ls --filter scope=local --format '{{.Name}}' | sort"),
      sh("docker network ls --filter scope=local --filter type=custom --format '{{.Name}}' | sort"),
      sh("docker network inspect docker_gwbridge -f '{{.Name}}'"),
    ],
    "ls of what a service uses": [
      network("na22"),
      ...running("--network na22"),
      sh("docker network ls --filter name=na22 --filter dangling=true --format '{{.Name}}'"),
      sh("docker network ls --filter name=na22 --filter dangling=false --format '{{.Name}}'"),
      sh("docker network ls --filter name=na22 --filter type=builtin --format '{{.Name}}'"),
      sh("docker network ls --filter name=na22 --filter type=custom --format '{{.Name}}'"),
    ],
  }),
  ...table("beside/prune", {
    "network prune": [
      network("pr-na"),
      network("pr-nb"),
      network("pr-nc", "--attachable"),
      setup("docker network create -d bridge br1"),
      ...running("--network pr-na"),
      sh("docker network prune -f | sort"),
      sh("docker network ls --format '{{.Name}} {{.Scope}}' | grep pr- | sort"),
      sh("docker network prune -f --filter label=nosuch"),
      sh("docker network prune -f --filter until=1h"),
    ],
    "network prune by label": [
      setup("docker network create -d overlay --label keep pl-a"),
      setup("docker network create -d overlay pl-b"),
      sh("docker network prune -f --filter label!=keep"),
      sh("docker network ls --format '{{.Name}}' | grep pl- | sort"),
      sh("docker network prune -f --filter label=keep"),
      sh("docker network ls --format '{{.Name}}' | grep pl- | sort"),
    ],
    "container prune": [
      ...running(),
      setup("docker kill $box"),
      setup("docker service ps s1 --format '{{.DesiredState}}'", { until: /Shutdown/ }),
      again,
      setup("docker container prune -f"),
      sh("docker service ps --format '{{.Name}} {{.DesiredState}}' s1 | sort"),
      sh("docker service ls --format '{{.Replicas}}'"),
    ],
    "volume prune": [
      ...running("--mount type=volume,src=vdata,dst=/v"),
      sh("docker volume ls -q"),
      sh("docker volume prune -f -a | head -1"),
      sh("docker volume inspect -f '{{.Name}} {{json .Labels}}' vdata"),
      sh("docker volume rm vdata | head -1"),
      setup("docker service rm s1"),
      setup("docker ps -aq --filter volume=vdata", { until: /^\s*$/ }),
      sh("docker volume rm vdata"),
    ],
    "system df": [
      ...running(),
      sh("docker system df --format '{{.Type}}'"),
      sh("docker system df | head -1"),
    ],
    "system prune": [
      network("pr-sa"),
      network("pr-sb"),
      ...running("--network pr-sa"),
      sh("docker system prune -f | head -3", { volatile: /stdout/ }),
      sh("docker network ls --format '{{.Name}}' | grep pr- | sort"),
      sh("docker service ls --format '{{.Replicas}}'"),
    ],
    "system info and events": [
      sh(
        "docker system info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.NodeAddr}}'",
      ),
      sh(
        "docker info --format '{{.LiveRestoreEnabled}} {{.Plugins.Network}} {{.Plugins.Log}} {{.DefaultRuntime}} {{json .Plugins.Volume}} {{json .GenericResources}}'",
        { volatile: /stdout/ },
      ),
      sh(
        "docker info 2>/dev/null | sed -n '/^ Swarm:/,/2377/p' | grep -v -e Expiry -e Pool -e Subnet -e Heartbeat",
      ),
    ],
  }),
  ...table("beside/api", {
    "containers of tasks": [
      ...running(),
      get(
        `/containers/json?${filters({ "is-task": ["true"], label: ["com.docker.swarm.service.id=$svc"] })}`,
        {
          volatile: /Created|Status|Labels/,
        },
      ),
      get("/containers/$box/json", {
        volatile: /Id|Created|State|Path|Root|Sandbox|Address|Graph|Host|Log|Labels|Driver/,
      }),
    ],
    "prune of networks": [
      network("na30"),
      post("/networks/prune"),
      post(`/networks/prune?${filters({ nosuch: ["x"] })}`),
      post(`/networks/prune?${filters("nonsense")}`),
      get(`/networks?${filters({ name: ["na30"] })}`),
    ],
  }),
];
