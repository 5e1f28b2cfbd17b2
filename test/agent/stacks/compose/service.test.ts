/** Each key of a service: what is written, and what becomes of it. */
import { expect, test } from "bun:test";
import { KEY_SECTIONS } from "../../../../agent/stacks/compose/keys.ts";
import { resolveContainerOptions } from "../../../../agent/reconciler/container-options.ts";
import { compose, containerOf, fileOf, serviceOf } from "./compose-of.ts";

const LABELS = { "com.docker.stack.namespace": "s" };

/** Lines of the service, and fields of ContainerSpec. */
const CONTAINER: [string, Record<string, unknown>][] = [
  [
    "cap_add: [net_admin, SYS_TIME, CAP_NET_ADMIN]",
    { CapabilityAdd: ["CAP_NET_ADMIN", "CAP_SYS_TIME"] },
  ],
  ["cap_add: [NET_RAW]\ncap_drop: [all, NET_RAW]", { CapabilityDrop: ["ALL"] }],
  ["cap_drop: [kill]", { CapabilityDrop: ["CAP_KILL"] }],
  ["command: echo 'a b'", { Args: ["echo", "a b"] }],
  ["command: [echo, 1]", { Args: ["echo", "1"] }],
  ["entrypoint: /run me", { Command: ["/run", "me"] }],
  [
    "dns: 1.1.1.1\ndns_search: [a, b]\ndns_opt: [ndots:2]",
    { DNSConfig: { Nameservers: ["1.1.1.1"], Search: ["a", "b"], Options: ["ndots:2"] } },
  ],
  ["environment: {B: 2, A: x, C: }", { Env: ["A=x", "B=2", "C"] }],
  ["environment: [B=a=b, A]", { Env: ["A", "B=a=b"] }],
  ["extra_hosts: ['a:1.1.1.1', 'b=::1', 'c:[::2]']", { Hosts: ["1.1.1.1 a", "::1 b", "::2 c"] }],
  [
    "extra_hosts: {a: 1.1.1.1, b: [1.1.1.2, 1.1.1.3]}",
    { Hosts: ["1.1.1.1 a", "1.1.1.2 b", "1.1.1.3 b"] },
  ],
  ["group_add: [audio, 1000]", { Groups: ["audio", "1000"] }],
  [
    "healthcheck: {test: curl x, interval: 1m, retries: 2}",
    { Healthcheck: { Test: ["CMD-SHELL", "curl x"], Interval: 6e10, Retries: 2 } },
  ],
  [
    "healthcheck: {test: [CMD, a], timeout: 1s, start_period: 2s, start_interval: 3s}",
    { Healthcheck: { Test: ["CMD", "a"], Timeout: 1e9, StartPeriod: 2e9, StartInterval: 3e9 } },
  ],
  ["healthcheck: {disable: true}", { Healthcheck: { Test: ["NONE"] } }],
  ["hostname: '{{.Task.Name}}'", { Hostname: "{{.Task.Name}}" }],
  ["init: false", { Init: false }],
  ["isolation: hyperv", { Isolation: "hyperv" }],
  ["labels: [a=b, c]", { Labels: { a: "b", c: "", ...LABELS } }],
  ["oom_score_adj: -5", { OomScoreAdj: -5 }],
  ["read_only: true\ntty: 'yes'\nstdin_open: true", { ReadOnly: true, TTY: true, OpenStdin: true }],
  [
    "stop_grace_period: 90s\nstop_signal: SIGUSR1",
    { StopGracePeriod: 9e10, StopSignal: "SIGUSR1" },
  ],
  ["sysctls: [net.core.somaxconn=1]", { Sysctls: { "net.core.somaxconn": "1" } }],
  [
    "ulimits: {nproc: 5, core: {soft: 0, hard: -1}}",
    {
      Ulimits: [
        { Name: "core", Hard: -1, Soft: 0 },
        { Name: "nproc", Hard: 5, Soft: 5 },
      ],
    },
  ],
  ["user: 1000\nworking_dir: /w", { User: "1000", Dir: "/w" }],
];

test.each(CONTAINER)("in ContainerSpec: %s", (lines, expected) => {
  expect(containerOf(lines)).toMatchObject(expected);
});

test("a service with an image alone has what docker sends for it, and no more", () => {
  expect(serviceOf("")).toEqual({
    Name: "s_web",
    Labels: { ...LABELS, "com.docker.stack.image": "nginx" },
    TaskTemplate: {
      ContainerSpec: { Image: "nginx", Labels: LABELS, Privileges: {}, Isolation: "default" },
      Resources: {},
      Placement: {},
      Networks: [{ Target: "s_default", Aliases: ["web"] }],
      ForceUpdate: 0,
      Runtime: "container",
    },
    Mode: { Replicated: {} },
    EndpointSpec: {},
  });
});

/** Lines of the service, and fields of its spec or of TaskTemplate. */
const SPEC: [string, Record<string, unknown>][] = [
  [
    "deploy: {replicas: 3, labels: {a: 1}}",
    { Mode: { Replicated: { Replicas: 3 } }, Labels: { a: "1" } },
  ],
  ["scale: 2", { Mode: { Replicated: { Replicas: 2 } } }],
  ["deploy: {mode: global}", { Mode: { Global: {} } }],
  ["deploy: {mode: global-job}", { Mode: { GlobalJob: {} } }],
  [
    "deploy: {mode: replicated-job, replicas: 2}",
    { Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 2 } } },
  ],
  ["deploy: {endpoint_mode: DNSRR}", { EndpointSpec: { Mode: "dnsrr" } }],
  [
    "deploy: {update_config: {order: start-first, delay: 1s, monitor: 2s, max_failure_ratio: 0.5, failure_action: rollback}}",
    {
      UpdateConfig: {
        Parallelism: 1,
        Delay: 1e9,
        Monitor: 2e9,
        MaxFailureRatio: 0.5,
        FailureAction: "rollback",
        Order: "start-first",
      },
    },
  ],
  [
    "deploy: {rollback_config: {parallelism: 0}}",
    { RollbackConfig: { Parallelism: 0, MaxFailureRatio: 0 } },
  ],
  [
    "ports: ['8080:80', '53:53/udp', 443]",
    {
      EndpointSpec: {
        Ports: [
          { Protocol: "tcp", TargetPort: 443, PublishMode: "ingress" },
          { Protocol: "udp", TargetPort: 53, PublishedPort: 53, PublishMode: "ingress" },
          { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
        ],
      },
    },
  ],
  [
    "ports: ['8000-8001:90-91']",
    {
      EndpointSpec: {
        Ports: [
          { TargetPort: 90, PublishedPort: 8000 },
          { TargetPort: 91, PublishedPort: 8001 },
        ],
      },
    },
  ],
  [
    "ports: ['8000-8001:90']",
    {
      EndpointSpec: {
        Ports: [
          { TargetPort: 90, PublishedPort: 8000 },
          { TargetPort: 90, PublishedPort: 8001 },
        ],
      },
    },
  ],
  [
    "ports: [{target: 80, published: '81', mode: host, protocol: TCP}]",
    {
      EndpointSpec: {
        Ports: [{ TargetPort: 80, PublishedPort: 81, PublishMode: "host", Protocol: "tcp" }],
      },
    },
  ],
  [
    "ports: [{target: 80, published: 81-82}]",
    { EndpointSpec: { Ports: [{ PublishedPort: 81 }, { PublishedPort: 82 }] } },
  ],
];
test.each(SPEC)("in the spec: %s", (lines, expected) => {
  expect(serviceOf(lines)).toMatchObject(expected);
});

const TASK: [string, Record<string, unknown>][] = [
  [
    "cpus: 0.5\nmem_limit: 1g\npids_limit: 9",
    { Resources: { Limits: { NanoCPUs: 5e8, MemoryBytes: 2 ** 30, Pids: 9 } } },
  ],
  [
    "cpus: 1\ndeploy: {resources: {limits: {cpus: '2'}}}",
    { Resources: { Limits: { NanoCPUs: 2e9 } } },
  ],
  [
    "deploy: {resources: {reservations: {cpus: '.5', memory: 1m, generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}}",
    {
      Resources: {
        Reservations: {
          NanoCPUs: 5e8,
          MemoryBytes: 2 ** 20,
          GenericResources: [{ DiscreteResourceSpec: { Kind: "gpu", Value: 2 } }],
        },
      },
    },
  ],
  [
    "deploy: {placement: {constraints: [a==b], preferences: [{spread: node.id}], max_replicas_per_node: 1}}",
    {
      Placement: {
        Constraints: ["a==b"],
        Preferences: [{ Spread: { SpreadDescriptor: "node.id" } }],
        MaxReplicas: 1,
      },
    },
  ],
  ["platform: linux/arm64", { Placement: { Platforms: [{ OS: "linux", Architecture: "arm64" }] } }],
  [
    "logging: {driver: syslog, options: {a: 1}}",
    { LogDriver: { Name: "syslog", Options: { a: "1" } } },
  ],
  ["restart: always", { RestartPolicy: { Condition: "any" } }],
  ["restart: 'no'", { RestartPolicy: { Condition: "none" } }],
  ["restart: no", { RestartPolicy: { Condition: "none" } }],
  ["restart: on-failure:3", { RestartPolicy: { Condition: "on-failure", MaxAttempts: 3 } }],
  [
    "restart: always\ndeploy: {restart_policy: {condition: none, delay: 0s, window: 1s, max_attempts: 1}}",
    { RestartPolicy: { Condition: "none", Delay: 0, Window: 1e9, MaxAttempts: 1 } },
  ],
];
test.each(TASK)("in TaskTemplate: %s", (lines, expected) => {
  expect(serviceOf(lines).TaskTemplate).toMatchObject(expected);
});

/** Lines of the service, and ContainerSpec.Shoal as a whole. */
const SHOAL: [string, Record<string, unknown>][] = [
  ["privileged: true", { Privileged: true }],
  ["annotations: [a=b]", { Annotations: { a: "b" } }],
  [
    "devices: [/dev/a, /dev/b:/dev/c:r, {source: /dev/d, target: /dev/e, permissions: rw}]",
    {
      Devices: [
        { PathOnHost: "/dev/a", PathInContainer: "/dev/a", CgroupPermissions: "rwm" },
        { PathOnHost: "/dev/b", PathInContainer: "/dev/c", CgroupPermissions: "r" },
        { PathOnHost: "/dev/d", PathInContainer: "/dev/e", CgroupPermissions: "rw" },
      ],
    },
  ],
  [
    "devices: [nvidia.com/gpu=all]",
    { DeviceRequests: [{ Driver: "cdi", DeviceIDs: ["nvidia.com/gpu=all"] }] },
  ],
  ["device_cgroup_rules: ['c 189:* rmw']", { DeviceCgroupRules: ["c 189:* rmw"] }],
  ["gpus: all", { DeviceRequests: [{ Count: -1, Capabilities: [["gpu"]] }] }],
  [
    "gpus: [{driver: nvidia, count: 2, capabilities: [utility], options: {a: b}}]",
    {
      DeviceRequests: [
        { Driver: "nvidia", Count: 2, Capabilities: [["gpu", "utility"]], Options: { a: "b" } },
      ],
    },
  ],
  [
    "deploy: {resources: {reservations: {devices: [{device_ids: ['0'], capabilities: [gpu]}]}}}",
    { DeviceRequests: [{ DeviceIDs: ["0"], Capabilities: [["gpu"]] }] },
  ],
  [
    "pid: host\nipc: host\nuts: host\nuserns_mode: host\ncgroup: private\ncgroup_parent: /a",
    {
      PidMode: "host",
      IpcMode: "host",
      UTSMode: "host",
      UsernsMode: "host",
      CgroupnsMode: "private",
      CgroupParent: "/a",
    },
  ],
  ["cgroupns_mode: host", { CgroupnsMode: "host" }],
  ["network_mode: host", { NetworkMode: "host" }],
  [
    "runtime: runsc\nshm_size: 64m\nstorage_opt: {size: 1g}",
    { Runtime: "runsc", ShmSize: 2 ** 26, StorageOpt: { size: "1g" } },
  ],
  [
    "cpuset: 0-1\ncpu_shares: 5\ncpu_period: 50ms\ncpu_quota: 25000",
    { CpusetCpus: "0-1", CpuShares: 5, CpuPeriod: 50_000, CpuQuota: 25_000 },
  ],
  [
    "cpu_rt_period: 400ms\ncpu_rt_runtime: '95000'",
    { CpuRealtimePeriod: 400_000, CpuRealtimeRuntime: 95_000 },
  ],
  [
    "mem_limit: 4g\nmem_reservation: 1m\nmem_swappiness: 0\nmemswap_limit: -1\noom_kill_disable: true",
    { MemoryReservation: 2 ** 20, MemorySwappiness: 0, MemorySwap: -1, OomKillDisable: true },
  ],
  [
    "blkio_config: {weight: 300, weight_device: [{path: /dev/a, weight: 200}], device_read_bps: [{path: /dev/a, rate: 1m}], device_write_iops: [{path: /dev/a, rate: 30}]}",
    {
      BlkioWeight: 300,
      BlkioWeightDevice: [{ Path: "/dev/a", Weight: 200 }],
      BlkioDeviceReadBps: [{ Path: "/dev/a", Rate: 2 ** 20 }],
      BlkioDeviceWriteIOps: [{ Path: "/dev/a", Rate: 30 }],
    },
  ],
  ["security_opt: [label=disable]", { SecurityOpt: ["label=disable"] }],
  [
    "mac_address: 02:42:0a:00:00:99\ndomainname: a.b",
    { MacAddress: "02:42:0a:00:00:99", Domainname: "a.b" },
  ],
  ["volumes_from: ['container:keeper:ro']", { VolumesFrom: ["keeper:ro"] }],
  ["pull_policy: if_not_present", { PullPolicy: "missing" }],
  ["expose: [80, 53/udp]", { ExposedPorts: { "80/tcp": {}, "53/udp": {} } }],
  ["tmpfs: [/run, '/tmp:size=1m']", { Tmpfs: { "/run": "", "/tmp": "size=1m" } }],
  [
    "volumes: ['/a:/b:ro,z', {type: bind, source: /c, target: /d, bind: {create_host_path: true}}]",
    { Binds: ["/a:/b:ro,z", "/c:/d"] },
  ],
];
test.each(SHOAL)("in ContainerSpec.Shoal: %s", (lines, expected) => {
  const spec = serviceOf(lines);
  expect(spec.TaskTemplate.ContainerSpec.Shoal).toEqual(expected);
  // The cluster takes it.
  expect(resolveContainerOptions(spec).TaskTemplate.ContainerSpec.EngineOptions).toEqual(expected);
});

const VOLUMES =
  "volumes:\n  data:\n  x: {name: named, driver: d, driver_opts: {o: 1}, labels: [a=b]}\n  out: {external: true}\n";
const OWN = { Labels: LABELS };
const MOUNTS: [string, Record<string, unknown>][] = [
  ["data:/d", { Type: "volume", Source: "s_data", Target: "/d", VolumeOptions: OWN }],
  [
    "data:/d:ro,nocopy",
    {
      Type: "volume",
      Source: "s_data",
      Target: "/d",
      ReadOnly: true,
      VolumeOptions: { NoCopy: true, ...OWN },
    },
  ],
  ["/d", { Type: "volume", Target: "/d" }],
  ["out:/d", { Type: "volume", Source: "out", Target: "/d", VolumeOptions: {} }],
  [
    "x:/d",
    {
      Type: "volume",
      Source: "named",
      Target: "/d",
      VolumeOptions: {
        Labels: { a: "b", ...LABELS },
        DriverConfig: { Name: "d", Options: { o: "1" } },
      },
    },
  ],
  [
    "{type: volume, source: data, target: /d, volume: {subpath: a, nocopy: true}}",
    {
      Type: "volume",
      Source: "s_data",
      Target: "/d",
      VolumeOptions: { NoCopy: true, Subpath: "a", ...OWN },
    },
  ],
  [
    "/a:/d:rshared,ro",
    {
      Type: "bind",
      Source: "/a",
      Target: "/d",
      ReadOnly: true,
      BindOptions: { Propagation: "rshared" },
    },
  ],
  ["./a:/d", { Type: "bind", Source: "/pwd/a", Target: "/d" }],
  ["../a:/d", { Type: "bind", Source: "/a", Target: "/d" }],
  ["~/a:/d", { Type: "bind", Source: "/me/a", Target: "/d" }],
  [
    "{type: bind, source: /a, target: /d, read_only: true, consistency: cached}",
    { Type: "bind", Source: "/a", Target: "/d", ReadOnly: true, Consistency: "cached" },
  ],
  [
    "{type: tmpfs, target: /d, tmpfs: {size: 1m, mode: 01777}}",
    { Type: "tmpfs", Target: "/d", TmpfsOptions: { SizeBytes: 2 ** 20, Mode: 0o1777 } },
  ],
  [
    "{type: image, source: nginx, target: /d, image: {subpath: a}}",
    { Type: "image", Source: "nginx", Target: "/d", ImageOptions: { Subpath: "a" } },
  ],
];
test.each(MOUNTS)("the volume %s", (volume, expected) => {
  const env = { PWD: "/pwd", HOME: "/me" };
  expect(containerOf(`volumes:\n  - ${volume}`, VOLUMES, { env }).Mounts).toEqual([expected]);
});

test("networks are named in full, with the service's name among its aliases", () => {
  const top =
    "networks:\n  a: {driver_opts: {x: 1}, labels: [l=m], ipam: {driver: d, config: [{subnet: 10.1.0.0/16, ip_range: 10.1.1.0/24, gateway: 10.1.0.1, aux_addresses: {h: 10.1.0.9}}]}}\n  b: {external: true}\n  c: {name: own, driver: macvlan, internal: true, attachable: true, enable_ipv6: true}\n  h: {name: host, external: true}\n  unused:\n";
  const lines =
    "networks:\n  c: {aliases: [x], ipv4_address: 10.0.0.9, driver_opts: {o: p}}\n  b:\n  a:\n";
  const spec = serviceOf(lines, top);
  expect(spec.TaskTemplate.Networks).toEqual([
    { Target: "b", Aliases: ["web"] },
    { Target: "own", Aliases: ["x", "web"], DriverOpts: { o: "p" } },
    { Target: "s_a", Aliases: ["web"] },
  ]);
  expect(spec.TaskTemplate.ContainerSpec.Shoal).toEqual({ Addresses: { own: "10.0.0.9" } });
  const { model } = compose(fileOf(lines, top));
  expect(model.externals.networks).toEqual(["b"]);
  const common = { Options: {}, Internal: false, Attachable: false, EnableIPv6: false };
  expect(model.networks).toEqual([
    {
      ...common,
      Name: "own",
      Driver: "macvlan",
      Labels: LABELS,
      Internal: true,
      Attachable: true,
      EnableIPv6: true,
      IPAM: { Driver: "", Options: {}, Config: [] },
    },
    {
      ...common,
      Name: "s_a",
      Driver: "overlay",
      Labels: { l: "m", ...LABELS },
      Options: { x: "1" },
      IPAM: {
        Driver: "d",
        Options: {},
        Config: [
          {
            Subnet: "10.1.0.0/16",
            IPRange: "10.1.1.0/24",
            Gateway: "10.1.0.1",
            AuxiliaryAddresses: { h: "10.1.0.9" },
          },
        ],
      },
    },
  ]);
  expect(serviceOf("networks: [h]", top).TaskTemplate.Networks).toEqual([{ Target: "host" }]);
});

test("each key that goes somewhere has a row here or a test of its own", () => {
  const elsewhere = [
    "configs",
    "depends_on",
    "secrets",
    "env_file",
    "label_file",
    "image",
    "networks",
    "volumes",
  ];
  const rows = [...CONTAINER, ...SPEC, ...TASK, ...SHOAL].map(([lines]) => lines).join("\n");
  const keys = Object.entries(KEY_SECTIONS["service"] ?? {}).flatMap(([key, rule]) =>
    "to" in rule && !elsewhere.includes(key) ? [key] : [],
  );
  expect(keys.filter((key) => !new RegExp(`^${key}:`, "m").test(rows))).toEqual([]);
});
