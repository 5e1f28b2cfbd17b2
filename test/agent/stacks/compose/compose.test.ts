/** Refusals and warnings: place, key, value and what to do. */
import { expect, test } from "bun:test";
import { compose, fileOf, problemsOf } from "./compose-of.ts";

/** The lines begin at line 4, column 5. */
test.each([
  ["imagee: x", "a.yml:4:5: services.web.imagee: there is no such key: did you mean image?"],
  ["hostnam: x", "a.yml:4:5: services.web.hostnam: there is no such key: did you mean hostname?"],
  [
    "qqqqqqqq: x",
    "a.yml:4:5: services.web.qqqqqqqq: there is no such key: remove it, or name it x-…",
  ],
  ["extends: b", "a.yml:4:5: services.web.extends: use an anchor"],
  ["hostname: [a]", "a.yml:4:15: services.web.hostname: it must be a text"],
  ["labels: a", 'services.web.labels is "a": it must be a map: `key: value`'],
  ["ports: 80", 'services.web.ports is "80": it must be a list: `- value`'],
  [
    "ports: ['80:x']",
    'a.yml:4:13: services.web.ports[0] is "80:x": it must be [published:]target[/protocol]',
  ],
  ["ports: ['80-81:90-92']", "each a port or a range such as 8000-8010 of the same length"],
  ["ports: ['80:80/icmp']", "services.web.ports[0].protocol"],
  [
    "ports: [{target: 70000}]",
    'a.yml:4:22: services.web.ports[0].target is "70000": it must be a whole number from 1 to 65535',
  ],
  ["ports: [{published: 80}]", "services.web.ports[0]: its target is missing: add it"],
  [
    "ports: [{target: 80, mode: hst}]",
    'services.web.ports[0].mode is "hst": it must be ingress or host',
  ],
  [
    "ports: ['1-60000:1-60000']",
    'services.web.ports[0] is "1-60000:1-60000": it must be [published:]target',
  ],
  [
    "volumes: ['data:/d']",
    'services.web.volumes[0].source is "data": there is no volume of this name: add `data:` to the top-level volumes',
  ],
  [
    "volumes: ['./a:/d']",
    'services.web.volumes[0].source is "./a": the node knows no such path: make it absolute',
  ],
  ["volumes: ['/a:/d:wrong']", "the option wrong is not known: use ro, rw, nocopy, z or Z"],
  ["volumes: [{type: bind, target: /d}]", "a bind has a source: add the path on the node"],
  [
    "volumes: [{type: tmpfs, target: /d, volume: {nocopy: true}}]",
    "it is of type tmpfs and has options of volume: remove them",
  ],
  [
    "volumes: [{type: cluster, source: a, target: /d}]",
    "there are no cluster volumes (CSI): use a volume driver",
  ],
  ["networks: [a]", "services.web.networks.a: there is no network of this name"],
  [
    "networks: [default]\nnetwork_mode: host",
    'a.yml:5:19: services.web.network_mode is "host": a service has networks or a network mode',
  ],
  ["network_mode: service:db", "tasks of two services may be on different nodes"],
  ["volumes_from: [db]", "or name a container of the node by container:<name>"],
  [
    "secrets: [a]",
    'services.web.secrets[0].source is "a": there is none of this name: add `a:` to the top-level secrets',
  ],
  [
    "env_file: no.env",
    'services.web.env_file.path is "no.env": there is no such file, or its contents were not sent',
  ],
  ["command: it's", 'services.web.command is "it\'s": a quote is not closed'],
  [
    "stop_grace_period: 10",
    'services.web.stop_grace_period is "10": it must be a duration with its unit, such as 1m30s',
  ],
  ["shm_size: 5zb", 'services.web.shm_size is "5zb": it must be a size such as 50m or 1gb'],
  ["tty: maybe", 'services.web.tty is "maybe": use true or false'],
  [
    "restart: never",
    'services.web.restart is "never": it must be "no", always, unless-stopped or on-failure[:attempts]',
  ],
  ["healthcheck: {test: [a]}", "it must begin with NONE, CMD or CMD-SHELL"],
  ["healthcheck: {test: a, disable: true}", "it has a test and is disabled: remove one of them"],
  ["deploy: {mode: many}", "it must be replicated or global or replicated-job or global-job"],
  [
    "deploy: {mode: global, replicas: 2}",
    'services.web.deploy.replicas is "2": a global service has a task on each node: remove it',
  ],
  ["deploy: {replicas: two}", "it must be a whole number of at least 0"],
  [
    "deploy: {resources: {limits: {cpu: 1}}}",
    "services.web.deploy.resources.limits.cpu: there is no such key: did you mean cpus?",
  ],
  [
    "deploy: {resources: {limits: {cpus: 0.0000000001}}}",
    "it must be a number of CPUs such as 0.5",
  ],
  ["deploy: {update_config: {max_failure_ratio: 2}}", "it must be a number from 0 to 1"],
  ["pid: container", 'services.web.pid is "container": it must be host or container:<name>'],
  ["devices: [dev/a]", "it must be /dev/host[:/dev/container][:rwm]"],
  ["pull_policy: build", "nodes build no images"],
  [
    "ulimits: {a: {soft: 1}}",
    "services.web.ulimits.a: it must be a number, or a map with soft and hard",
  ],
])("%s is refused", (lines, problem) => {
  expect(problemsOf(fileOf(lines)).join("\n")).toContain(problem);
});

test.each([
  [
    "services:\n  a: {build: .}\n",
    "a.yml:2:6: services.a: it has `build` and no `image`: build the image, push it",
  ],
  ["services:\n  a: {}\n", "services.a: its image is missing: add `image`"],
  ["services: {}\n", "services: there is no service: add one below `services:`"],
  ["version: '3'\n", "there is no service: add one below `services:`"],
  ["services:\n  a: nginx\n", 'services.a is "nginx": it must be a map with an image'],
  [
    "service:\n  a: {image: x}\n",
    "a.yml:1:1: service: there is no such key: did you mean services?",
  ],
  ["include: [x]\n", "include: name the files one after the other"],
  ["services:\n  a b: {image: x}\n", "services.a b: a service's name is of letters, digits, . _ -"],
])("the file %j is refused", (text, problem) => {
  expect(problemsOf(text).join("\n")).toContain(problem);
});

test("problems of all files are told, in their order, at most 20", () => {
  const first = fileOf("tty: maybe\nports: ['x']");
  const second = "services:\n  web:\n    shm_size: x\n";
  expect(problemsOf([first, second]).map((line) => line.split(" ")[0])).toEqual([
    "a.yml:4:10:",
    "a.yml:5:13:",
    "b.yml:3:15:",
  ]);
  const many = fileOf(Array.from({ length: 30 }, (_, i) => `zzzzzzz${i}: 1`).join("\n"));
  expect(problemsOf(many)).toHaveLength(20);
  expect(problemsOf(many).at(-1)).toBe("… and 11 more problems: solve these first");
  const services = Array.from({ length: 501 }, (_, i) => `  a${i}: {image: x}`).join("\n");
  expect(problemsOf(`services:\n${services}`)[0]).toContain(
    "there are more than 500: split the stack",
  );
});

test.each([
  [
    "container_name: x",
    "a.yml:4:5: services.web.container_name: ignored: a container has its task's name",
  ],
  ["build: .", "services.web.build: ignored: images are built before a stack is deployed"],
  ["profiles: [a]", "services.web.profiles: ignored: every service of the files is deployed"],
  ["ports: ['127.0.0.1:80:80']", "services.web.ports[0]: the address 127.0.0.1 is ignored"],
  [
    "environment: {V: 1.10}",
    "services.web.environment.V: 1.10 is the number 1.1: put it in quotes",
  ],
  [
    "networks: {default: {ipv6_address: '::1'}}",
    "services.web.networks.default.ipv6_address: ignored",
  ],
])("%s is a warning", (lines, warning) => {
  expect(compose(fileOf(lines)).warnings.join("\n")).toContain(warning);
});

test("a name that is the stack's, extensions and version are taken without a word", () => {
  const top = "name: s\nversion: '3'\nx-a: [1]\n";
  expect(compose(fileOf("x-b: 1\ndeploy: {x-c: 2}", top)).warnings).toEqual([]);
  expect(compose(fileOf("", "name: other\n")).warnings).toEqual([
    "a.yml:5:1: name: ignored: the stack is s, as it was deployed",
  ]);
});

test("services and what they need are ordered by name", () => {
  const { model } = compose("services:\n  z: {image: x}\n  a: {image: x}\n");
  expect(model.services.map(({ Name }) => Name)).toEqual(["s_a", "s_z"]);
});
