import { describe, expect, test } from "bun:test";
import {
  type ContainerInput,
  containerPlan,
  imageReference,
  stopGraceSeconds,
} from "../../../agent/reconciler/container-spec.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { Config, Secret } from "../../../core/objects/secret.ts";
import type { Task } from "../../../core/objects/task.ts";
import { aNetwork, aSecret, aSettings, aTask } from "./wanted.ts";

const alpha = aNetwork("neta", { name: "alpha" });
const beta = aNetwork("netb", { name: "beta", subnet: "10.77.2.0/24", gateway: "10.77.2.1" });
const aaInternal = aNetwork("netc", { name: "aa", internal: true, gateway: "10.77.3.1" });
const host = aNetwork("neth", { name: "host", driver: "host", predefined: true });

function input(task: Task, given: { networks?: Network[]; objects?: (Secret & Config)[] } = {}) {
  const byId = <T extends { id: string }>(list: T[]) =>
    new Map(list.map((item) => [item.id, item]));
  return {
    task,
    settings: aSettings(),
    platform: { architecture: "x86_64", os: "linux" },
    networks: byId(given.networks ?? [alpha, beta, aaInternal, host]),
    secrets: byId(given.objects ?? []),
    configs: byId(given.objects ?? []),
    dockerNetworkName: (network) => network.spec.Name,
    filesDir: "/run/shoal/tasks/t1",
  } satisfies ContainerInput;
}
const SYSTEM_LABELS = {
  "com.docker.swarm.node.id": "node1",
  "com.docker.swarm.service.id": "service1",
  "com.docker.swarm.service.name": "web",
  "com.docker.swarm.task": "",
  "com.docker.swarm.task.id": "t1",
  "com.docker.swarm.task.name": "web.1.t1",
  "shoal.cluster.id": "cluster1",
  "shoal.task.id": "t1",
};
const leg = (networkId: string, address: string) => ({ networkId, address, aliases: ["web"] });

describe("containerPlan()", () => {
  test("a bare task gets the default bridge, the task's name and labels, and no restart", () => {
    const task = aTask("t1");
    delete task.spec.ContainerSpec.Command;
    delete task.spec.ContainerSpec.StopGracePeriod;
    expect(containerPlan(input(task))).toEqual({
      name: "web.1.t1",
      body: {
        Image: "shoal-test:latest",
        Labels: SYSTEM_LABELS,
        StopTimeout: 10,
        HostConfig: { NetworkMode: "default", RestartPolicy: { Name: "no" }, Mounts: [] },
      },
      legs: [],
      files: [],
      volumes: [],
    });
  });

  test("a stateful service's task has its slot's name as hostname, unless the spec has another", () => {
    const task = { ...aTask("t1"), serviceLabels: { "shoal.stateful": "true" } };
    expect(containerPlan(input(task)).body.Hostname).toBe("web-1");
    const container = { ...task.spec.ContainerSpec, Hostname: "own" };
    const named = { ...task, spec: { ...task.spec, ContainerSpec: container } };
    expect(containerPlan(input(named)).body.Hostname).toBe("own");
    const EngineOptions = { UTSMode: "host" };
    const onHost = { ...task.spec.ContainerSpec, EngineOptions };
    const shared = { ...task, spec: { ...task.spec, ContainerSpec: onHost } };
    expect(containerPlan(input(shared)).body.Hostname).toBeUndefined();
  });

  test("every field of the spec finds its place", () => {
    const task = aTask("t1", {
      ports: [
        { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" },
        { Protocol: "udp", TargetPort: 53, PublishedPort: 0, PublishMode: "host" },
        { Protocol: "tcp", TargetPort: 81, PublishedPort: 8081, PublishMode: "ingress" },
      ],
      container: {
        Image: "nginx",
        Labels: { mine: "1", "com.docker.swarm.task.id": "forged" },
        Command: ["/entry"],
        Args: ["-v"],
        Hostname: "{{.Service.Name}}-{{.Task.Slot}}",
        Env: ["NODE={{.Node.Hostname}}"],
        Dir: "/srv",
        User: "7:8",
        Groups: ["9"],
        Privileges: {
          SELinuxContext: { User: "u", Type: "t" },
          Seccomp: { Mode: "custom", Profile: Buffer.from('{"a":1}').toString("base64") },
          AppArmor: { Mode: "disabled" },
          NoNewPrivileges: true,
        },
        Init: false,
        StopSignal: "SIGINT",
        TTY: true,
        OpenStdin: true,
        ReadOnly: true,
        Mounts: [
          { Type: "bind", Source: "/srv/{{.Task.Slot}}", Target: "/srv" },
          {
            Type: "volume",
            Source: "data-{{.Task.Slot}}",
            Target: "/data",
            VolumeOptions: {
              Labels: { of: "{{.Service.Name}}" },
              DriverConfig: { Name: "local", Options: { type: "tmpfs" } },
            },
          },
        ],
        StopGracePeriod: 1_500_000_000,
        Healthcheck: { Test: ["CMD", "true"], Interval: 5 },
        Hosts: ["10.0.0.1 db database"],
        DNSConfig: { Nameservers: ["9.9.9.9"], Search: ["lan"], Options: ["timeout:1"] },
        Isolation: "default",
        Sysctls: { "net.core.somaxconn": "1" },
        CapabilityAdd: ["CAP_NET_RAW"],
        CapabilityDrop: ["CAP_CHOWN"],
        Ulimits: [{ Name: "nofile", Hard: 2, Soft: 1 }],
        OomScoreAdj: 5,
      },
    });
    task.spec.Resources = { Limits: { NanoCPUs: 500_000_000, MemoryBytes: 64, Pids: 10 } };
    task.spec.LogDriver = { Name: "json-file", Options: { "max-size": "1m" } };
    const volumeMount = {
      Type: "volume",
      Source: "data-1",
      Target: "/data",
      VolumeOptions: {
        Labels: { of: "web" },
        DriverConfig: { Name: "local", Options: { type: "tmpfs" } },
      },
    };
    const plan = containerPlan(input(task));
    expect(plan.volumes).toEqual([
      { Name: "data-1", Driver: "local", DriverOpts: { type: "tmpfs" }, Labels: { of: "web" } },
    ]);
    expect(plan.body).toEqual({
      Image: "nginx:latest",
      Labels: { mine: "1", ...SYSTEM_LABELS },
      StopTimeout: 2,
      Entrypoint: ["/entry"],
      Cmd: ["-v"],
      Hostname: "web-1",
      Env: ["NODE=host1"],
      WorkingDir: "/srv",
      User: "7:8",
      StopSignal: "SIGINT",
      Tty: true,
      OpenStdin: true,
      Healthcheck: { Test: ["CMD", "true"], Interval: 5 },
      ExposedPorts: { "80/tcp": {}, "53/udp": {}, "81/tcp": {} },
      HostConfig: {
        NetworkMode: "default",
        RestartPolicy: { Name: "no" },
        Mounts: [{ Type: "bind", Source: "/srv/1", Target: "/srv" }, volumeMount],
        PortBindings: { "80/tcp": [{ HostPort: "8080" }], "53/udp": [{ HostPort: "" }] },
        Dns: ["9.9.9.9"],
        DnsSearch: ["lan"],
        DnsOptions: ["timeout:1"],
        ExtraHosts: ["db:10.0.0.1", "database:10.0.0.1"],
        GroupAdd: ["9"],
        SecurityOpt: [
          "label=user:u",
          "label=type:t",
          'seccomp={"a":1}',
          "apparmor=unconfined",
          "no-new-privileges=true",
        ],
        Init: false,
        ReadonlyRootfs: true,
        Isolation: "default",
        Sysctls: { "net.core.somaxconn": "1" },
        CapAdd: ["CAP_NET_RAW"],
        CapDrop: ["CAP_CHOWN"],
        Ulimits: [{ Name: "nofile", Hard: 2, Soft: 1 }],
        OomScoreAdj: 5,
        Memory: 64,
        NanoCpus: 500_000_000,
        PidsLimit: 10,
        LogConfig: { Type: "json-file", Config: { "max-size": "1m" } },
      },
    });
  });

  test("swap is on top of memory; options go on top of the body; a bind may make its source", () => {
    const made = {
      Type: "bind",
      Source: "/srv",
      Target: "/a",
      ReadOnly: true,
      BindOptions: { CreateMountpoint: true, Propagation: "rslave" },
    };
    const task = aTask("t1", {
      container: {
        Mounts: [made],
        Privileges: { CredentialSpec: { File: "spec.json" } },
        EngineOptions: {
          NetworkMode: "none",
          ShmSize: 1,
          VolumesFrom: ["keeper-{{.Task.Slot}}"],
          Tmpfs: { "/run/{{.Service.Name}}": "rw" },
        },
      },
    });
    task.spec.Resources = { Limits: { MemoryBytes: 64 }, SwapBytes: 36, MemorySwappiness: 5 };
    const on = (engineVersion: string) => {
      const given = input(task);
      return containerPlan({ ...given, platform: { ...given.platform, engineVersion } });
    };
    expect(on("20.10.24+dfsg1").body.HostConfig).toMatchObject({
      Binds: ["/srv:/a:ro,rslave"],
      Mounts: [],
      Memory: 64,
      MemorySwap: 100,
      MemorySwappiness: 5,
      NetworkMode: "none",
      ShmSize: 1,
      VolumesFrom: ["keeper-1"],
      Tmpfs: { "/run/web": "rw" },
      SecurityOpt: ["credentialspec=file://spec.json"],
    });
    expect(on("25.0.0").body.HostConfig.Mounts).toEqual([made]);
    made.BindOptions = { ...made.BindOptions, ReadOnlyForceRecursive: true } as never;
    expect(() => on("24.0.0")).toThrow("ReadOnlyForceRecursive of mount /a: it needs Docker");
  });

  test("the first non-internal overlay by name comes first and gives the only DNS server", () => {
    const networks = [leg("netc", "10.77.3.9"), leg("netb", "10.77.2.9"), leg("neta", "10.77.1.9")];
    const dns = { Nameservers: ["9.9.9.9"] };
    const plan = containerPlan(input(aTask("t1", { networks, container: { DNSConfig: dns } })));
    expect(plan.legs.map((item) => item.dockerNetwork)).toEqual(["alpha", "beta", "aa"]);
    expect(plan.body.HostConfig).toMatchObject({ NetworkMode: "alpha", Dns: ["10.77.1.1"] });
    // One leg at create, no aliases, a static address.
    expect(plan.body.NetworkingConfig).toEqual({
      EndpointsConfig: { alpha: { IPAMConfig: { IPv4Address: "10.77.1.9" } } },
    });
  });

  test("a leg on a network with IPv6 has both addresses", () => {
    const networks = [{ ...leg("neta", "10.77.1.9"), address6: "fd00:1::9" }];
    const plan = containerPlan(input(aTask("t1", { networks })));
    expect(plan.legs[0]?.endpoint).toEqual({
      IPAMConfig: { IPv4Address: "10.77.1.9", IPv6Address: "fd00:1::9" },
    });
  });

  test("a task with internal networks only asks the first one's gateway", () => {
    const plan = containerPlan(input(aTask("t1", { networks: [leg("netc", "10.77.3.9")] })));
    expect(plan.body.HostConfig.Dns).toEqual(["10.77.3.1"]);
  });

  test("the host network is a mode, not a leg", () => {
    const networks = [{ networkId: "neth", aliases: [] }];
    const plan = containerPlan(input(aTask("t1", { networks })));
    expect(plan.legs).toEqual([]);
    expect(plan.body.HostConfig.NetworkMode).toBe("host");
  });

  test("a leg of a local driver has names and no address; overlays still give DNS", () => {
    const local = { ...aNetwork("netm", { name: "mv", driver: "macvlan" }) };
    delete local.subnet;
    delete local.gateway;
    const macvlan = { networkId: "netm", aliases: ["db", "web"] };
    const alone = containerPlan(input(aTask("t1", { networks: [macvlan] }), { networks: [local] }));
    const Aliases = ["web", "tasks.web", "db"];
    expect(alone.legs).toEqual([{ networkId: "netm", dockerNetwork: "mv", endpoint: { Aliases } }]);
    expect(alone.body.HostConfig).not.toHaveProperty("Dns");
    const both = aTask("t1", { networks: [macvlan, leg("netz", "10.77.1.9")] });
    const zeta = aNetwork("netz", { name: "zeta" });
    const plan = containerPlan(input(both, { networks: [local, zeta] }));
    expect(plan.legs.map(({ dockerNetwork }) => dockerNetwork)).toEqual(["mv", "zeta"]);
    expect(plan.body.HostConfig.Dns).toEqual(["10.77.1.1"]);
  });

  test("with ingress ports the default route is by an overlay, or it is refused", () => {
    const ingress = aNetwork("neti", { name: "ingress" });
    const legs = (name: string, engineVersion: string) => {
      const local = aNetwork("netm", { name, driver: "macvlan" });
      const networks = [{ networkId: "netm", aliases: [] }, leg("neti", "10.77.1.9")];
      const ports = [
        { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
      ];
      const given = input(aTask("t1", { networks, ports }), { networks: [local, ingress] });
      const platform = { ...given.platform, engineVersion };
      return containerPlan({ ...given, platform }).legs.map(({ endpoint }) => endpoint);
    };
    const IPAMConfig = { IPv4Address: "10.77.1.9" };
    const Aliases = ["web", "tasks.web"];
    expect(legs("mv", "20.10.24")).toEqual([{ IPAMConfig }, { Aliases }]);
    expect(legs("br", "28.1.0")).toEqual([{ Aliases }, { IPAMConfig, GwPriority: 1 }]);
    expect(() => legs("br", "20.10.24")).toThrow('"br" comes before "ingress"');
  });

  test("ndots above 0 brings a resolv.conf of our own", () => {
    const networks = [leg("neta", "10.77.1.9")];
    const dns = { Options: ["ndots:2"], Search: ["lan"] };
    const plan = containerPlan(input(aTask("t1", { networks, container: { DNSConfig: dns } })));
    expect(new TextDecoder().decode(plan.files[0]?.content)).toBe(
      "nameserver 10.77.1.1\nsearch lan\noptions ndots:2\n",
    );
    expect(plan.body.HostConfig.Mounts).toEqual([
      {
        Type: "bind",
        Source: "/run/shoal/tasks/t1/resolv.conf",
        Target: "/etc/resolv.conf",
        ReadOnly: true,
      },
    ]);
  });

  test("secrets and configs become read-only files, templated when asked", () => {
    const tpl = aSecret("c1", "cfg", '{{.Service.Name}} {{secret "pass"}} {{env "A"}}');
    tpl.spec.Templating = { Name: "golang" };
    const file = (name: string) => ({ Name: name, UID: "1", GID: "2", Mode: 0o400 });
    const task = aTask("t1", {
      container: {
        Env: ["A=x"],
        Secrets: [{ File: file("pass"), SecretID: "s1", SecretName: "pass" }],
        Configs: [
          { File: file("/etc/app.conf"), ConfigID: "c1", ConfigName: "cfg" },
          { File: file("cfg"), ConfigID: "s1", ConfigName: "raw" },
          { Runtime: {}, ConfigID: "s1", ConfigName: "raw" },
        ],
      },
    });
    const plan = containerPlan(input(task, { objects: [aSecret("s1", "pass", "xyzzy"), tpl] }));
    expect(plan.body.HostConfig.Mounts.map((mount) => mount["Target"])).toEqual([
      "/run/secrets/pass",
      "/etc/app.conf",
      "/cfg",
    ]);
    expect(plan.files.map((item) => new TextDecoder().decode(item.content))).toEqual([
      "xyzzy",
      "web xyzzy x",
      "xyzzy",
    ]);
    expect(plan.files[0]).toMatchObject({ name: "secret-0", mode: 0o400, uid: 1, gid: 2 });
  });

  test.each([
    ["network", { networks: [leg("gone", "10.0.0.1")] }, "network gone is not known on this node"],
    [
      "address",
      { networks: [{ networkId: "neta", aliases: [] }] },
      "node is missing network attachments, ip addresses may be exhausted",
    ],
    [
      "secret",
      { container: { Secrets: [{ File: { Name: "a" }, SecretID: "x", SecretName: "pass" }] } },
      "secret reference pass not found",
    ],
  ])("what has not arrived yet is a failed precondition: %s", (_what, set, message) => {
    expect(() => containerPlan(input(aTask("t1", set)))).toThrow(
      expect.objectContaining({ code: "failed-precondition", message }),
    );
  });
});

test.each([
  ["nginx", "nginx:latest"],
  ["nginx:1", "nginx:1"],
  ["host:5000/nginx", "host:5000/nginx:latest"],
  ["nginx@sha256:ab", "nginx@sha256:ab"],
  [`sha256:${"a".repeat(64)}`, `sha256:${"a".repeat(64)}`],
])("imageReference() of %p is %p", (image, expected) => {
  expect(imageReference(image)).toBe(expected);
});

test("stopGraceSeconds() rounds up and defaults to ten", () => {
  expect(stopGraceSeconds({})).toBe(10);
  expect(stopGraceSeconds({ StopGracePeriod: 1 })).toBe(1);
  expect(stopGraceSeconds({ StopGracePeriod: 0 })).toBe(0);
});
