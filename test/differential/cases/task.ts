/** /tasks, `docker service ps` and `docker node ps` of tasks that run, and what becomes of them. */
import { type Case, create, filters, get, setup, sh, table } from "../case.ts";

/** One running task; `$task` is its id. */
const running = [
  setup(create("--name s1 --stop-grace-period 1s -l a=b --container-label c=d"), { save: "svc" }),
  get("/tasks", { until: /"State":"running"/, setup: true, save: "task", pick: "0.ID" }),
];
const list = (given: unknown) => get(`/tasks?${filters(given)}`);
const ended = (name: string, flags: string, rest: string) => [
  setup(create(`--name ${name} --stop-grace-period 1s ${flags}`, rest), { save: "svc" }),
];

export const TASK_CASES: readonly Case[] = [
  ...table("task/api", {
    "list and inspect": [
      ...running,
      get("/tasks"),
      get("/tasks/$task"),
      get("/v1.40/tasks/$task"),
      sh("docker inspect --type task $task"),
      ...[
        { service: ["s1"] },
        { service: ["$svc"] },
        { service: ["nosuch"] },
        { node: ["h1"] },
        { node: ["$node"] },
        { node: ["nosuch"] },
        { name: ["s1"] },
        { name: ["s1.1"] },
        { name: ["nosuch"] },
        { label: ["a=b"] },
        { label: ["c=d"] },
        { label: ["a"] },
        { id: ["$task"] },
        { id: ["nosuch"] },
        { "desired-state": ["running"] },
        { "desired-state": ["shutdown"] },
        { "desired-state": ["accepted"] },
        { "desired-state": ["nosuch"] },
        { "desired-state": ["RUNNING"] },
        { "_up-to-date": ["true"] },
        { "_up-to-date": ["false"] },
        { "_up-to-date": ["nonsense"] },
        { runtime: ["container"] },
        { runtime: ["plugin"] },
        { nosuch: ["x"] },
        {},
      ].map(list),
      get("/tasks?filters=nonsense"),
      sh("docker service ps s1"),
      sh("docker service ps --no-resolve s1"),
      sh("docker node ps"),
      sh("docker node ps --filter desired-state=running -q h1"),
      sh(
        "docker node ps --filter name=s1 --format '{{.Name}} {{.Image}} {{.Node}} {{.DesiredState}}'",
      ),
      sh("docker node ps --filter label=a=b --format '{{.Name}}'"),
      sh(
        "docker ps --filter label=com.docker.swarm.service.name=s1 --format '{{.Names}} {{.Image}} {{.Command}}'",
      ),
      sh(
        "docker ps -q --filter label=com.docker.swarm.service.name=s1 | xargs docker inspect -f '{{json .Config.Labels}}'",
      ),
    ],
    "of none": [get("/tasks/nosuch"), sh("docker inspect --type task nosuch")],
    "with ports and a network": [
      setup("docker network create -d overlay net", { save: "net" }),
      setup(
        create(
          "--name s1 --network net -p published=8099,target=80,mode=host --stop-grace-period 1s",
        ),
        { save: "svc" },
      ),
      get(`/tasks?${filters({ service: ["s1"] })}`, {
        until: /"State":"(running|rejected|failed)"/,
        volatile: /Status|Volumes/,
      }),
      get("/services", { until: /VirtualIPs/ }),
    ],
    "status of a service": [
      ...running,
      sh("docker service ls", { until: /1\/1/ }),
      get("/services?status=true"),
    ],
  }),
  ...table("task/life", {
    "a task that fails": [
      ...ended("s1", "--restart-condition none", "sh -c 'exit 3'"),
      sh("docker service ps --no-trunc --format '{{.Name}} {{.DesiredState}} {{.Error}}' s1", {
        until: /Shutdown.*non-zero/,
      }),
      get(`/tasks?${filters({ service: ["s1"] })}`),
      get("/services?status=true"),
    ],
    "a task that completes": [
      ...ended("s1", "--restart-condition on-failure", "true"),
      sh(
        "docker service ps --no-trunc --format '{{.Name}} {{.DesiredState}} {{.CurrentState}} {{.Error}}' s1",
        { until: /Shutdown Complete/ },
      ),
      get(`/tasks?${filters({ service: ["s1"] })}`),
    ],
    "a command that is none": [
      ...ended("s1", "--restart-condition none", "/nosuch"),
      sh(
        "docker service ps --no-trunc --format '{{.Name}} {{.DesiredState}} {{.CurrentState}}' s1",
        { until: /Shutdown (Failed|Rejected)/ },
      ),
    ],
    "an image that is none": [
      setup(
        "docker service create -d --no-resolve-image --name s1 --restart-condition none nosuch:latest",
        { save: "svc" },
      ),
      sh(
        "docker service ps --no-trunc --format '{{.Name}} {{.DesiredState}} {{.CurrentState}} {{.Error}}' s1",
        { until: /Shutdown Rejected/ },
      ),
    ],
    "a bind source that is none": [
      ...ended("s1", "--restart-condition none --mount type=bind,src=/nosuch,dst=/a", "serve"),
      sh(
        "docker service ps --no-trunc --format '{{.Name}} {{.DesiredState}} {{.CurrentState}} {{.Error}}' s1",
        { until: /Shutdown (Rejected|Failed)/ },
      ),
    ],
    "pause of the node keeps what runs": [
      ...running,
      setup("docker node update --availability pause h1"),
      sh("docker service ls --format '{{.Replicas}}'"),
      setup("docker node update --availability active h1"),
    ],
    "drain of the node": [
      ...running,
      setup("docker node update --availability drain h1"),
      sh("docker service ls --format '{{.Replicas}}'", { until: /0\/1/ }),
      setup("docker node update --availability active h1"),
    ],
    "scale down removes": [
      setup(create("--name s1 --replicas 2 --stop-grace-period 1s"), { save: "svc" }),
      setup("docker service ls", { until: /2\/2/ }),
      setup("docker service scale -d s1=0"),
      sh("docker service ps -q s1 | wc -l", { until: /^0/ }),
    ],
    "rolling update": [
      setup(create("--name s1 --stop-grace-period 1s --update-monitor 1s"), { save: "svc" }),
      setup("docker service ls", { until: /1\/1/ }),
      sh("docker service update -d --no-resolve-image --image lab:2 s1"),
      sh("docker service inspect -f '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}' s1", {
        until: /^completed/,
        timeoutMs: 30_000,
      }),
      sh("docker service ps --format '{{.Name}} {{.Image}} {{.Node}} {{.DesiredState}}' s1"),
      sh("docker service inspect --pretty s1"),
      sh("docker service rollback -d s1"),
      sh("docker service inspect -f '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}' s1", {
        until: /^rollback_completed/,
        timeoutMs: 30_000,
      }),
    ],
    "a failing update is paused": [
      setup(create("--name s1 --stop-grace-period 1s --update-monitor 1s --restart-delay 1s"), {
        save: "svc",
      }),
      setup("docker service ls", { until: /1\/1/ }),
      setup("docker service update -d --no-resolve-image --args false s1"),
      sh("docker service inspect -f '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}' s1", {
        until: /^paused/,
        timeoutMs: 30_000,
      }),
    ],
    "a failing update is rolled back": [
      setup(
        create(
          "--name s1 --stop-grace-period 1s --update-monitor 1s --rollback-monitor 1s --restart-delay 1s --update-failure-action rollback",
        ),
        { save: "svc" },
      ),
      setup("docker service ls", { until: /1\/1/ }),
      setup("docker service update -d --no-resolve-image --args false s1"),
      sh("docker service inspect -f '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}' s1", {
        until: /^rollback_completed/,
        timeoutMs: 30_000,
      }),
      sh("docker service inspect -f '{{json .Spec.TaskTemplate.ContainerSpec.Args}}' s1"),
    ],
  }),
];

/** Stock never forgets the tasks of a job: these come after the lists of all tasks. */
export const JOB_CASES: readonly Case[] = table("task/job", {
  "a job": [
    setup(create("--name s1 --mode replicated-job --replicas 2", "true"), { save: "svc" }),
    sh("docker service ls --format '{{.Replicas}}'", { until: /2\/2 completed/ }),
    get(`/tasks?${filters({ service: ["s1"] })}`),
    get("/services?status=true"),
  ],
});
