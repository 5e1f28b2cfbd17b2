/**
 * A registry with credentials, to which the CLI has logged in (`$reg/app:1` is there, `$reg/app:none` is
 * not); the engine itself has neither image nor credentials.
 */
import { type Case, filters, get, setup, sh, table } from "../case.ts";

const make = (flags: string, image: string) =>
  `docker service create -d --restart-condition none --stop-grace-period 1s ${flags} $reg/${image}`;
const image = (name: string) =>
  sh(`docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' ${name}`);
const failure = (name: string) =>
  sh(`docker service ps --no-trunc --format '{{.CurrentState}} {{.Error}}' ${name}`, {
    until: /Rejected/,
  });
const forget = setup("docker rmi -f $(docker images -q $reg/app) 2>/dev/null || true");

export const REGISTRY_CASES: readonly Case[] = [
  ...table("registry", {
    "with credentials, by digest": [
      sh(make("--name r1 --with-registry-auth", "app:1"), { save: "svc" }),
      image("r1"),
      setup("docker service ps r1 --format '{{.CurrentState}}'", { until: /^Running/ }),
      get("/services/r1"),
      get(`/tasks?${filters({ service: ["r1"] })}`, { volatile: /Status|CreatedAt|UpdatedAt/ }),
      sh("docker service update -d --image $reg/app:1 --with-registry-auth --env-add a=b r1"),
      image("r1"),
    ],
    "without credentials": [
      forget,
      sh(make("--name r2", "app:1"), { save: "svc" }),
      image("r2"),
      failure("r2"),
    ],
    "without asking the registry": [
      sh(make("--name r3 --no-resolve-image --with-registry-auth", "app:1"), { save: "svc" }),
      image("r3"),
      setup("docker service ps r3 --format '{{.CurrentState}}'", { until: /^Running/ }),
    ],
    "a tag that is none": [
      sh(make("--name r4 --with-registry-auth", "app:none"), { save: "svc" }),
      image("r4"),
      failure("r4"),
    ],
    "a name that is none": [
      sh(make("--name r5 --with-registry-auth", "nosuch:1"), { save: "svc" }),
      image("r5"),
      failure("r5"),
    ],
    "a registry that is none": [
      sh("docker service create -d --restart-condition none --name r6 192.168.77.254:5999/app:1", {
        save: "svc",
      }),
      image("r6"),
      failure("r6"),
    ],
    "a manifest through the engine": [
      sh("docker pull -q $reg/app:1"),
      sh("docker pull -q $reg/app:none"),
      get("/distribution/$reg/app:1/json"),
      get("/distribution/$reg/app:none/json"),
    ],
    "an update that takes the credentials of before": [
      forget,
      setup(make("--name r7 --with-registry-auth", "app:1"), { save: "svc" }),
      setup("docker service ps r7 --format '{{.CurrentState}}'", { until: /^Running/ }),
      sh("docker service update -d --env-add a=b r7"),
      sh("docker service ps r7 --filter desired-state=running --format '{{.CurrentState}}'", {
        until: /^Running/,
      }),
    ],
  }),
];
