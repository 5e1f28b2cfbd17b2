/** `docker stack` with several files, from standard input, and with keys that few compose files have. */
import { type Case, get, setup, sh, table } from "../case.ts";

const UP =
  "docker stack deploy --resolve-image never $(docker stack deploy --help | grep -q -- --detach && echo --detach=true)";
const sorted = (line: string) => sh(`${line} 2>&1 | sort`);
const head = 'version: "3.8"\n';
const spec = (name: string) => sh(`docker service inspect -f '{{json .Spec}}' ${name}`);
const still = "deploy: {replicas: 0}";

const FILES = {
  "a.yml": `${head}services:
  web: {image: "lab:latest", environment: {A: "1", B: "1"}, ${still}, networks: [front]}
networks: {front: {}}
`,
  "b.yml": `${head}services:
  web: {environment: {B: "2", C: "3"}, labels: {x: y}, command: ["serve", "-x"]}
  db: {image: "lab:\${TAG:-latest}", ${still}}
`,
  "all.yml": `${head}services:
  all:
    image: lab:latest
    cap_add: [NET_ADMIN]
    cap_drop: [CHOWN]
    command: serve 'a b'
    entrypoint: ["sh", "-c"]
    dns: 10.99.0.1
    dns_search: [a.example]
    domainname: ignored.example
    env_file: ./vars
    environment: [A=1, B, "C="]
    extra_hosts: ["db:10.99.0.5"]
    healthcheck: {test: "true", interval: 10s, timeout: 1s, retries: 2, start_period: 3s}
    hostname: hh
    init: true
    isolation: default
    labels: [x=y, z]
    logging: {driver: json-file, options: {max-size: 1m}}
    read_only: true
    stdin_open: true
    stop_grace_period: 1m30s
    stop_signal: SIGUSR1
    sysctls: {net.core.somaxconn: 1024}
    tmpfs: /run/x
    tty: true
    ulimits: {nproc: 65535, nofile: {soft: 100, hard: 200}}
    user: "1000"
    working_dir: /w
    ports: ["8101:81/udp", "8100:80"]
    volumes:
      - /tmp:/host:ro
      - {type: bind, source: ./rel, target: /rel, bind: {propagation: rshared}}
      - {type: volume, source: named, target: /named, volume: {nocopy: true}}
      - anon:/anon
      - /onlytarget
    deploy:
      replicas: 0
      endpoint_mode: vip
      labels: [dl=1]
      placement:
        constraints: ["node.role == manager"]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      resources:
        limits: {cpus: "0.50", memory: 50M}
        reservations: {cpus: "0.25", memory: 20M, generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}
      restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 120s}
      rollback_config: {parallelism: 0, delay: 1s, failure_action: continue, monitor: 2s, max_failure_ratio: 0.1, order: start-first}
      update_config: {parallelism: 2, delay: 3s, failure_action: rollback, monitor: 4s, max_failure_ratio: 0.2, order: stop-first}
volumes:
  named: {driver: local, driver_opts: {type: tmpfs, device: tmpfs}, labels: {v: "1"}}
  anon: {name: "other-name"}
`,
  vars: "FROM_FILE=1\n# comment\nA=9\n",
  "nets.yml": `${head}services:
  web:
    image: lab:latest
    ${still}
    networks:
      front: {aliases: [www, web2]}
      back: {}
networks:
  front: {driver: overlay, attachable: true, driver_opts: {a: b}, labels: {n: "1"}, name: real-front}
  back: {internal: true, ipam: {driver: default, config: [{subnet: 10.99.90.0/24}]}}
`,
  "data.yml": `${head}services:
  web:
    image: lab:latest
    ${still}
    secrets: [s1, {source: s2, target: /abs, uid: "5", gid: "6", mode: 0440}]
    configs: [c1, {source: c2, target: /etc/c2}]
secrets:
  s1: {file: ./vars, labels: {q: "1"}}
  s2: {file: ./vars, name: renamed-s2}
configs:
  c1: {file: ./vars, template_driver: golang}
  c2: {external: true, name: ext-config}
`,
  "jobs.yml": `version: "3.9"\nservices:
  once: {image: "lab:latest", command: "true", deploy: {mode: replicated-job, replicas: 2, placement: {constraints: ["node.labels.no==1"]}}}
  all: {image: "lab:latest", deploy: {mode: global-job, placement: {constraints: ["node.labels.no==1"]}}}
`,
  "v2.yml": 'version: "2.4"\nservices: {web: {image: "lab:latest"}}\n',
  "noversion.yml": `services: {web: {image: "lab:latest", ${still}, oom_score_adj: 100}}\n`,
  "ext.yml": `${head}services: {web: {image: "lab:latest", extends: {service: x}}}\n`,
  "link.yml": `${head}services: {web: {image: "lab:latest", ${still}, links: [x], depends_on: [y], container_name: z, build: ., restart: always, expose: ["5"], security_opt: [a], pid: host, network_mode: bridge}, y: {image: "lab:latest", ${still}}}\n`,
};
const withFiles = (cases: Case[]): Case[] => cases.map((one) => ({ files: FILES, ...one }));

export const STACK_RARE_CASES: readonly Case[] = withFiles([
  ...table("stack/files", {
    "two files": [
      sorted(`${UP} -c a.yml -c b.yml st`),
      sh("docker stack services st --format '{{.Name}} {{.Image}}'"),
      spec("st_web"),
      spec("st_db"),
    ],
    "the long flag, and quiet": [
      sorted(`${UP} --compose-file a.yml --quiet st2`),
      sh("docker stack ls --format '{{.Name}} {{.Services}}'"),
      sorted("docker stack rm st2"),
    ],
    "a variable": [sorted(`TAG=7 ${UP} -c a.yml -c b.yml st3`), spec("st3_db")],
    "standard input": [sorted(`${UP} -c - st4 < a.yml`), spec("st4_web")],
    "config shows what would be": [
      sh("docker stack config --compose-file a.yml -c b.yml"),
      sh("docker stack config --skip-interpolation -c b.yml -c a.yml"),
      sh("docker stack config -c nosuch.yml"),
    ],
    "every key": [
      sorted(`mkdir -p rel; ${UP} -c all.yml all 2>&1 | sed "s,$PWD,HERE,g"`),
      sh(`docker service inspect -f '{{json .Spec}}' all_all | sed "s,$PWD,HERE,g"`),
      sh(`docker service inspect --pretty all_all | sed "s,$PWD,HERE,g"`),
      sh("docker stack services all"),
    ],
    networks: [
      sorted(`${UP} -c nets.yml nets`),
      spec("nets_web"),
      sh(
        "docker network inspect -f '{{.Name}} {{.Attachable}} {{.Internal}} {{json .Labels}} {{json .IPAM.Config}}' real-front nets_back",
        { until: /Subnet[\s\S]*Subnet/ },
      ),
      sorted("docker stack rm nets"),
    ],
    "secrets and configs": [
      setup("printf x | docker config create ext-config -", { save: "con" }),
      sorted(`${UP} -c data.yml dat`),
      spec("dat_web"),
      sh("docker secret ls --format '{{.Name}} {{.Labels}}'", { volatile: /stdout/ }),
      sh("docker config ls --filter label=com.docker.stack.namespace=dat --format '{{.Name}}'"),
      sorted(`${UP} -c data.yml dat`),
      sorted("docker stack rm dat"),
      sh("docker config ls --format '{{.Name}}'"),
    ],
    jobs: [
      sorted(`${UP} -c jobs.yml jobs`),
      spec("jobs_once"),
      spec("jobs_all"),
      sh("docker stack services jobs"),
    ],
    "version 2": [sh(`${UP} -c v2.yml st5`)],
    "no version": [
      sorted(`${UP} -c noversion.yml st6`),
      sh("docker stack ls --format '{{.Name}}'"),
    ],
    extends: [sh(`${UP} -c ext.yml st7`)],
    "what is ignored": [sorted(`${UP} -c link.yml st8`), spec("st8_web")],
  }),
  ...table("stack/words", {
    "rm of several": [
      setup(`${UP} -c a.yml ra && ${UP} -c a.yml rb`),
      sorted("docker stack rm ra nosuch rb"),
      sh("docker stack ls"),
      sh("docker stack rm"),
      sorted("docker stack down ra"),
    ],
    "ps and services, filters and formats": [
      setup(
        `sed 's/replicas: 0/replicas: 2, placement: {constraints: [node.labels.no==1]}/' a.yml > c.yml; ${UP} -c c.yml pf`,
      ),
      setup("docker stack ps pf", { until: /no suitable[\s\S]*no suitable/ }),
      sh("docker stack ps pf --format '{{.Name}} {{.Image}} {{.DesiredState}} {{.Error}}'"),
      sh("docker stack ps pf --no-trunc --no-resolve --format '{{.Error}}'"),
      sh("docker stack ps pf --filter name=pf_web.1 --format '{{.Name}}'"),
      sh("docker stack ps pf --filter node=h1"),
      sh("docker stack ps pf --filter desired-state=shutdown"),
      sh("docker stack ps pf --filter nosuch=x"),
      sh("docker stack ps pf --quiet | wc -l"),
      sh('docker stack ps pf --format json | head -1 | grep -o \'"Name":"[^"]*"\''),
      sh("docker stack services pf"),
      sh("docker stack services pf --quiet | wc -l"),
      sh("docker stack services pf --filter name=pf_web --format '{{.Name}}'"),
      sh("docker stack services pf --filter name=nosuch --format '{{.Name}}'"),
      sh("docker stack services pf --filter label=nosuch --format '{{.Name}}'"),
      sh(
        "docker stack services pf --filter mode=replicated --format '{{.Name}} {{.Replicas}} {{.Ports}}'",
      ),
      sh("docker stack services pf --filter id=nosuch"),
      sh("docker stack services pf --filter nosuch=x"),
      sh("docker stack services pf --format json"),
      sh("docker stack ls --format json"),
      sh("docker stack ls --format 'table {{.Name}}'"),
      sh("docker stack ls x"),
      sh("docker stack nosuch"),
    ],
    "deploy, words": [
      sh("docker stack deploy"),
      sh("docker stack deploy --resolve-image sometimes -c a.yml st"),
      sh(`${UP} -c a.yml ''`),
      sh("docker stack up --resolve-image never -c nosuch.yml st"),
      sh("docker stack deploy --prune -c a.yml"),
    ],
    "resolve-image": [
      setup("docker stack deploy --resolve-image always --detach=true -c a.yml ri"),
      sh(
        "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}} {{json .Spec.Labels}}' ri_web",
      ),
      setup("docker stack deploy --resolve-image changed --detach=true -c a.yml ri"),
      sh(
        "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}} {{.Spec.TaskTemplate.ForceUpdate}}' ri_web",
      ),
    ],
    "prune with data": [
      setup("printf x | docker config create ext-config -", { save: "con" }),
      setup(`${UP} -c data.yml pd`),
      sorted(`${UP} --prune -c a.yml pd`),
      sh("docker stack services pd --format '{{.Name}}'"),
      sh("docker secret ls --filter label=com.docker.stack.namespace=pd --format '{{.Name}}'"),
    ],
    "the same name in two stacks": [
      setup(`${UP} -c a.yml sa && ${UP} -c a.yml sb`),
      sh("docker service ls --filter label=com.docker.stack.namespace=sa --format '{{.Name}}'"),
      sh("docker network ls --filter label=com.docker.stack.namespace=sb --format '{{.Name}}'"),
      get(
        "/services?filters=%7B%22label%22%3A%7B%22com.docker.stack.namespace%3Dsa%22%3Atrue%7D%7D",
        {
          volatile: /Endpoint/,
        },
      ),
    ],
  }),
]);
