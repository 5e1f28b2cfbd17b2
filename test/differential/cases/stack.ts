/** `docker stack` of compose files, by the stock CLI. */
import { type Case, setup, sh, type Step, table } from "../case.ts";

const WEB = `version: "3.8"
services:
  web:
    image: lab:latest
    command: ["serve"]
    environment: {A: "1", B: two}
    deploy:
      replicas: 0
      labels: {l: "1"}
      resources:
        limits: {cpus: "0.5", memory: 50M}
      update_config: {parallelism: 2, order: start-first}
      restart_policy: {condition: on-failure, max_attempts: 3}
      placement:
        constraints: ["node.role==manager"]
    labels: {c: "2"}
    logging:
      options: {max-size: "1m"}
  job:
    image: lab:latest
    networks: [back]
    deploy: {mode: global, placement: {constraints: ["node.labels.no==1"]}}
    healthcheck: {test: ["CMD", "true"], interval: 5s}
    stop_grace_period: 2s
    ports: ["8090:80", {target: 81, published: 8091, mode: host}]
    volumes: ["data:/data:ro", {type: tmpfs, target: /t, tmpfs: {size: 1000000}}]
    configs: [{source: c, target: /c, mode: 0400}]
    secrets: [s]
networks:
  back: {driver: overlay, internal: true, labels: {tier: "1"}}
volumes:
  data: {labels: {v: "1"}}
configs:
  c: {file: ./c.txt}
secrets:
  s: {file: ./s.txt}
`;
const FILES = { "compose.yml": WEB, "c.txt": "config", "s.txt": "secret" };
const deploy = (flags = "") =>
  `docker stack deploy --resolve-image never --detach=true ${flags} -c compose.yml st`;
/** In the order of their names, whatever the CLI made of a map. */
const sorted = (line: string) => sh(`${line} 2>&1 | sort`);
/** Older CLIs do not know the flag, and do what it says. */
const DETACH = "$(docker stack deploy --help | grep -q -- --detach && echo --detach=true)";
const forAnyCli = (step: Step): Step =>
  step.kind === "sh" ? { ...step, line: step.line.replace("--detach=true", DETACH) } : step;
const withFiles = (cases: Case[]): Case[] =>
  cases.map((one) => ({ files: FILES, ...one, steps: one.steps.map(forAnyCli) }));

export const STACK_CASES: readonly Case[] = withFiles([
  ...table("stack", {
    "deploy and what it makes": [
      sorted(deploy()),
      sh("docker stack ls"),
      sh("docker stack ls --format '{{.Name}} {{.Services}}'"),
      sh("docker stack services st"),
      sh("docker stack services --format '{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}' st"),
      sh("docker stack services --filter name=st_web -q st | wc -l"),
      sh("docker service inspect -f '{{json .Spec}}' st_web st_job"),
      sh(
        "docker network inspect -f '{{json .Labels}} {{.Internal}} {{.Driver}}' st_back st_default",
      ),
      sh("docker secret inspect st_s"),
      sh("docker config inspect st_c"),
      sorted("docker stack rm st"),
      sh("docker stack ls"),
    ],
    "deploy again changes nothing": [
      setup(deploy()),
      sorted(deploy()),
      sh("docker service inspect -f '{{json .Spec}}' st_web"),
    ],
    "deploy of a change": [
      setup(deploy()),
      sh("sed 's/two/three/' compose.yml > b.yml"),
      sorted("docker stack deploy --resolve-image never --detach=true -c b.yml st"),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Env}}' st_web"),
    ],
    "deploy --prune": [
      setup(deploy()),
      sh(
        'printf \'version: "3.8"\\nservices: {web: {image: "lab:latest", deploy: {replicas: 0}}}\\n\' > b.yml',
      ),
      sorted("docker stack deploy --resolve-image never --detach=true --prune -c b.yml st"),
      sh("docker stack services --format '{{.Name}}' st"),
    ],
    "changed secret is refused": [
      setup(deploy()),
      sh(
        "echo other > s.txt; docker stack deploy --resolve-image never --detach=true -c compose.yml st 2>&1 | tail -1",
      ),
    ],
    "changed config is refused": [
      setup(deploy()),
      sh(
        "echo other > c.txt; docker stack deploy --resolve-image never --detach=true -c compose.yml st 2>&1 | tail -1",
      ),
    ],
    ps: [
      setup(deploy()),
      sh("docker stack ps st"),
      sh("docker stack ps -q st"),
      sh("docker stack ps --filter desired-state=running st"),
      sh("docker stack ps nosuch"),
    ],
    none: [
      sh("docker stack services nosuch"),
      sh("docker stack rm nosuch"),
      sh("docker stack ps nosuch"),
      sh("docker stack ls"),
    ],
    "external network that is none": [
      sh(
        "printf 'version: \"3.8\"\\nservices: {web: {image: x, networks: [n]}}\\nnetworks: {n: {external: true, name: nosuch-net}}\\n' > b.yml; docker stack deploy -c b.yml st",
      ),
    ],
    "external secret that is none": [
      sh(
        "printf 'version: \"3.8\"\\nservices: {web: {image: x, secrets: [n]}}\\nsecrets: {n: {external: true, name: nosuch-sec}}\\n' > b.yml; docker stack deploy -c b.yml st 2>&1 | tail -1",
      ),
    ],
    "external network of the swarm": [
      setup("docker network create -d overlay n", { save: "net" }),
      sh(
        'printf \'version: "3.8"\\nservices: {web: {image: "lab:latest", networks: [n], deploy: {replicas: 0}}}\\nnetworks: {n: {external: true}}\\n\' > b.yml; docker stack deploy --resolve-image never --detach=true -c b.yml st 2>&1 | sort',
      ),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.Networks}}' st_web"),
    ],
    "options that are ignored": [
      sh(
        'printf \'version: "3.8"\\nservices: {web: {image: "lab:latest", privileged: true, devices: ["/dev/null:/dev/null"], deploy: {replicas: 0}}}\\n\' > b.yml; docker stack deploy --resolve-image never --detach=true -c b.yml st 2>&1 | sort',
      ),
    ],
    "bad file": [
      sh("echo nonsense > b.yml; docker stack deploy -c b.yml st"),
      sh("docker stack deploy -c nosuch.yml st"),
      sh("docker stack deploy st"),
    ],
    "bad name":
      "docker stack deploy -c compose.yml 'a b' 2>&1 | tail -1 | grep -o 'name must be.*'",
    config: "docker stack config -c compose.yml | md5sum",
    jobs: [
      sh(
        'printf \'version: "3.8"\\nservices: {web: {image: "lab:latest", deploy: {mode: replicated-job, replicas: 2, placement: {constraints: ["node.labels.no==1"]}}}}\\n\' > b.yml; docker stack deploy --resolve-image never --detach=true -c b.yml st 2>&1 | sort',
      ),
      sh("docker stack services st"),
      sh("docker service inspect -f '{{json .Spec.Mode}}' st_web"),
    ],
  }),
]);
