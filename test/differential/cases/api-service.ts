/** Bodies of POST /services/create: what is refused, what is stored, how it is shown. */
import { type Case, del, filters, get, http, post, spec, table } from "../case.ts";

type Json = Record<string, unknown>;
const make = (set: Json) => [post("/services/create", spec("s1", set))];
/** Made, and shown as stored and with defaults. */
const shown = (set: Json) => [
  post("/services/create", spec("s1", set)),
  get("/services/s1"),
  get("/services/s1?insertDefaults=true"),
];
const named = (name: unknown) => [post("/services/create", { ...spec("s1"), Name: name })];
const container = (set: Json) => shown({ container: set });
const template = (set: Json) => shown({ template: set });
/** What the allocator gives takes a moment. */
const ports = (...list: Json[]) => allocated({ EndpointSpec: { Ports: list } });
const allocated = (set: Json) => [
  post("/services/create", spec("s1", set)),
  get("/services/s1", { until: /"Endpoint":\{"Spec":\{"/ }),
  get("/services/s1?insertDefaults=true"),
];
/** Stock gives such a service a virtual address of nothing, a moment later. */
const predefined = (name: string) => [
  post("/services/create", spec("s1", { template: { Networks: [{ Target: name }] } })),
  get("/services/s1", { volatile: /Endpoint/ }),
];
const SECOND = 1_000_000_000;

export const API_SERVICE_CASES: readonly Case[] = [
  ...table("service/body", {
    none: [http("POST", "/services/create", "")],
    "not JSON": [post("/services/create", "{")],
    "too large": make({ Labels: { a: "x".repeat(5_000_000) } }),
    "two values": [post("/services/create", "{} {}")],
    "a list": [post("/services/create", [])],
    null: [post("/services/create", "null")],
    empty: [post("/services/create", {})],
    "without content type": [
      http("POST", "/services/create", JSON.stringify(spec("s1")), {
        headers: { "Content-Type": "" },
      }),
    ],
    "of another content type": [
      http("POST", "/services/create", JSON.stringify(spec("s1")), {
        headers: { "Content-Type": "text/plain" },
      }),
    ],
    "content type with charset": [
      http("POST", "/services/create", JSON.stringify(spec("s1")), {
        headers: { "Content-Type": "application/json; charset=utf-8" },
      }),
    ],
    "unknown fields": shown({ Nonsense: 1, container: { Nonsense: { a: 1 } } }),
    "keys of another case": [
      post("/services/create", {
        name: "s1",
        tasktemplate: { containerspec: { image: "lab:latest" } },
        mode: { replicated: { replicas: 0 } },
      }),
      get("/services/s1"),
    ],
    "nulls everywhere": shown({
      Labels: null,
      UpdateConfig: null,
      EndpointSpec: null,
      Networks: null,
      container: { Labels: null, Env: null, Mounts: null, Healthcheck: null, DNSConfig: null },
      template: { Resources: null, Placement: null, RestartPolicy: null, Networks: null },
    }),
    "empty things everywhere": shown({
      Labels: {},
      EndpointSpec: {},
      container: {
        Labels: {},
        Env: [],
        Mounts: [],
        DNSConfig: {},
        Command: [],
        Args: [],
        Dir: "",
        TTY: false,
      },
      template: { Resources: {}, Placement: {}, Networks: [], RestartPolicy: {} },
    }),
    "limits empty": template({ Resources: { Limits: {}, Reservations: {} } }),
  }),
  ...table("service/name", {
    number: named(5),
    "of 63": named("a".repeat(63)),
    "of 64": named("a".repeat(64)),
    "with a dot": named("a.b"),
    "with a space": named("a b"),
    "with an underscore": named("a_b"),
    "with a dash at the end": named("a-"),
    "upper case": named("ABC"),
    "not ASCII": named("é"),
    taken: [post("/services/create", spec("s1")), post("/services/create", spec("s1"))],
    "taken in another case": [
      post("/services/create", spec("s1")),
      post("/services/create", spec("S1")),
    ],
    invented: [
      post("/services/create", { ...spec(""), Name: "" }, { save: "svc" }),
      get("/services/$svc", { volatile: /body\.Spec\.Name$/ }),
    ],
  }),
  ...table("service/image", {
    none: make({ container: { Image: "" } }),
    "upper case": make({ container: { Image: "Lab" } }),
    "with a space": make({ container: { Image: "a b" } }),
    "bad tag": make({ container: { Image: "a:b:c" } }),
    "no tag": shown({ container: { Image: "lab" } }),
    "an id": make({ container: { Image: "a".repeat(64) } }),
    digest: shown({ container: { Image: `lab@sha256:${"a".repeat(64)}` } }),
    "short digest": make({ container: { Image: "lab@sha256:abc" } }),
    "registry and port": shown({ container: { Image: "reg.example:5000/a/b:c" } }),
    "no container": [post("/services/create", { Name: "s1", TaskTemplate: {} })],
  }),
  ...table("service/mode", {
    none: [
      post("/services/create", {
        Name: "s1",
        TaskTemplate: {
          ContainerSpec: { Image: "lab:latest" },
          Placement: { Constraints: ["node.labels.nosuch==1"] },
        },
      }),
      get("/services/s1"),
    ],
    "replicated without count": shown({
      Mode: { Replicated: {} },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    global: shown({
      Mode: { Global: {} },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    "replicated and global": make({ Mode: { Replicated: {}, Global: {} } }),
    "replicated below 0": make({ Mode: { Replicated: { Replicas: -1 } } }),
    "replicated with a fraction": make({ Mode: { Replicated: { Replicas: 1.5 } } }),
    "replicated with text": make({ Mode: { Replicated: { Replicas: "3" } } }),
    "replicated job": shown({
      Mode: { ReplicatedJob: {} },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    "replicated job with counts": shown({
      Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 5 } },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    "replicated job with max concurrent only": shown({
      Mode: { ReplicatedJob: { MaxConcurrent: 3 } },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    "global job": shown({
      Mode: { GlobalJob: {} },
      template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
    }),
    "job with an update config": make({
      Mode: { ReplicatedJob: {} },
      UpdateConfig: { Parallelism: 1 },
    }),
    "job with a rollback config": make({
      Mode: { GlobalJob: {} },
      RollbackConfig: { Parallelism: 1 },
    }),
    "job with restart condition any": make({
      Mode: { ReplicatedJob: {} },
      template: {
        RestartPolicy: { Condition: "any" },
        Placement: { Constraints: ["node.labels.nosuch==1"] },
      },
    }),
    "of the wrong type": make({ Mode: "global" }),
  }),
  ...table("service/container", {
    everything: container({
      Labels: { a: "b" },
      Command: ["serve"],
      Args: ["x", "y"],
      Hostname: "host-{{.Task.Slot}}",
      Env: ["A=1", "B", "C="],
      Dir: "/tmp",
      User: "1000:1000",
      Groups: ["a", "5"],
      Init: true,
      StopSignal: "SIGTERM",
      TTY: true,
      OpenStdin: true,
      ReadOnly: true,
      StopGracePeriod: 3 * SECOND,
      Hosts: ["10.99.0.1 name alias"],
      DNSConfig: { Nameservers: ["10.99.0.2"], Search: ["x.y"], Options: ["ndots:2"] },
      Sysctls: { "net.ipv4.ip_local_port_range": "1024 65000" },
      CapabilityAdd: ["CAP_NET_ADMIN"],
      CapabilityDrop: ["CAP_CHOWN"],
      Ulimits: [{ Name: "nofile", Soft: 10, Hard: 20 }],
      Isolation: "default",
    }),
    "init false": container({ Init: false }),
    "isolation of Windows": container({ Isolation: "hyperv" }),
    "isolation that is none": make({ container: { Isolation: "nosuch" } }),
    privileges: container({
      Privileges: {
        SELinuxContext: { Disable: true, User: "u", Role: "r", Type: "t", Level: "l" },
      },
    }),
    "credential spec of a config that is none": make({
      container: { Privileges: { CredentialSpec: { Config: "nosuch" } } },
    }),
    "credential spec of two kinds": make({
      container: { Privileges: { CredentialSpec: { File: "a", Registry: "b" } } },
    }),
    "credential spec empty": make({ container: { Privileges: { CredentialSpec: {} } } }),
    "stop grace period 0": container({ StopGracePeriod: 0 }),
    "stop grace period below 0": make({ container: { StopGracePeriod: -1 } }),
    "stop grace period as text": make({ container: { StopGracePeriod: "10s" } }),
    "env of the wrong type": make({ container: { Env: { A: "1" } } }),
    "env with a number in it": make({ container: { Env: [1] } }),
    "labels of the wrong type": make({ container: { Labels: ["a=b"] } }),
    "tty as text": make({ container: { TTY: "yes" } }),
    healthcheck: container({
      Healthcheck: {
        Test: ["CMD", "true"],
        Interval: SECOND,
        Timeout: SECOND,
        Retries: 2,
        StartPeriod: SECOND,
      },
    }),
    "healthcheck none": container({ Healthcheck: { Test: ["NONE"] } }),
    "healthcheck interval too short": make({ container: { Healthcheck: { Interval: 5 } } }),
    "healthcheck timeout too short": make({ container: { Healthcheck: { Timeout: 5 } } }),
    "healthcheck start period too short": make({ container: { Healthcheck: { StartPeriod: 5 } } }),
    "healthcheck retries below 0": make({ container: { Healthcheck: { Retries: -1 } } }),
    "healthcheck interval below 0": make({ container: { Healthcheck: { Interval: -1 } } }),
    "bad host": container({ Hosts: ["nonsense"] }),
    "bad dns": container({ DNSConfig: { Nameservers: ["nonsense"] } }),
    "bad template": make({ container: { Env: ["A={{.Nosuch}}"] } }),
    "template that does not parse": make({ container: { Hostname: "{{.Node.ID" } }),
    "template of an unknown function": make({ container: { Env: ["A={{nosuch 1}}"] } }),
    "good templates": container({
      Env: [
        "A={{.Node.Hostname}}-{{.Service.Name}}-{{.Task.Slot}}",
        'B={{index .Service.Labels "a"}}',
      ],
      Hostname: "{{.Node.ID}}-{{.Task.Name}}",
    }),
    "bad capability": container({ CapabilityAdd: ["nosuch"] }),
    "capability without CAP_": container({ CapabilityAdd: ["net_admin"], CapabilityDrop: ["ALL"] }),
    "bad ulimit": container({ Ulimits: [{ Name: "nosuch", Soft: 1, Hard: 1 }] }),
    "bad signal": container({ StopSignal: "SIGNOSUCH" }),
    "plugin spec": make({
      template: { PluginSpec: { Name: "x", Remote: "y" }, Runtime: "plugin" },
    }),
    "plugin without a spec": make({ template: { Runtime: "plugin" }, Mode: { Global: {} } }),
    "plugin on every node": make({
      template: { PluginSpec: { Name: "x", Remote: "192.168.77.254:5999/y" }, Runtime: "plugin" },
      Mode: { Global: {} },
    }),
    "runtime unknown": make({ template: { Runtime: "nosuch" } }),
    "runtime attachment": make({
      template: { Runtime: "attachment", NetworkAttachmentSpec: { ContainerID: "x" } },
    }),
    "runtime container": template({ Runtime: "container" }),
  }),
  ...table("service/mounts", {
    kinds: container({
      Mounts: [
        {
          Type: "bind",
          Source: "/tmp",
          Target: "/a",
          ReadOnly: true,
          BindOptions: { Propagation: "rprivate" },
        },
        {
          Type: "volume",
          Source: "vol",
          Target: "/b",
          VolumeOptions: {
            NoCopy: true,
            Labels: { a: "b" },
            DriverConfig: { Name: "local", Options: { o: "1" } },
          },
        },
        { Type: "tmpfs", Target: "/c", TmpfsOptions: { SizeBytes: 1_000_000, Mode: 448 } },
        { Type: "volume", Target: "/d" },
      ],
    }),
    "no type": container({ Mounts: [{ Source: "x", Target: "/a" }] }),
    "unknown type": make({ container: { Mounts: [{ Type: "nosuch", Target: "/a" }] } }),
    npipe: make({ container: { Mounts: [{ Type: "npipe", Source: "x", Target: "/a" }] } }),
    "no target": make({ container: { Mounts: [{ Type: "volume", Source: "x" }] } }),
    "relative target": make({
      container: { Mounts: [{ Type: "volume", Source: "x", Target: "a" }] },
    }),
    "two of one target": make({
      container: {
        Mounts: [
          { Type: "volume", Target: "/a" },
          { Type: "tmpfs", Target: "/a" },
        ],
      },
    }),
    "bind without source": make({ container: { Mounts: [{ Type: "bind", Target: "/a" }] } }),
    "tmpfs with source": make({
      container: { Mounts: [{ Type: "tmpfs", Source: "x", Target: "/a" }] },
    }),
    "bad propagation": make({
      container: {
        Mounts: [
          { Type: "bind", Source: "/tmp", Target: "/a", BindOptions: { Propagation: "nosuch" } },
        ],
      },
    }),
    "non recursive": container({
      Mounts: [{ Type: "bind", Source: "/tmp", Target: "/a", BindOptions: { NonRecursive: true } }],
    }),
    consistency: container({
      Mounts: [{ Type: "bind", Source: "/tmp", Target: "/a", Consistency: "cached" }],
    }),
    "of the wrong type": make({ container: { Mounts: {} } }),
    "read only of the wrong type": make({
      container: { Mounts: [{ Type: "bind", Source: "/tmp", Target: "/a", ReadOnly: "no" }] },
    }),
  }),
  ...table("service/resources", {
    both: template({
      Resources: {
        Limits: { NanoCPUs: 500_000_000, MemoryBytes: 50_000_000, Pids: 100 },
        Reservations: { NanoCPUs: 1_000_000, MemoryBytes: 4_194_304 },
      },
    }),
    "cpu too small": make({ template: { Resources: { Limits: { NanoCPUs: 1 } } } }),
    "cpu below 0": make({ template: { Resources: { Limits: { NanoCPUs: -1 } } } }),
    "memory too small": make({ template: { Resources: { Limits: { MemoryBytes: 1000 } } } }),
    "memory below 0": make({ template: { Resources: { Reservations: { MemoryBytes: -5 } } } }),
    "reserved cpu too small": make({ template: { Resources: { Reservations: { NanoCPUs: 5 } } } }),
    "pids below 0": make({ template: { Resources: { Limits: { Pids: -1 } } } }),
    "generic, discrete": template({
      Resources: {
        Reservations: { GenericResources: [{ DiscreteResourceSpec: { Kind: "GPU", Value: 2 } }] },
      },
    }),
    "generic, named": make({
      template: {
        Resources: {
          Reservations: { GenericResources: [{ NamedResourceSpec: { Kind: "GPU", Value: "a" } }] },
        },
      },
    }),
    "generic, empty": make({
      template: { Resources: { Reservations: { GenericResources: [{}] } } },
    }),
    "a fraction": make({ template: { Resources: { Limits: { NanoCPUs: 0.5 } } } }),
    text: make({ template: { Resources: { Limits: { NanoCPUs: "1" } } } }),
  }),
  ...table("service/restart", {
    full: template({
      RestartPolicy: {
        Condition: "on-failure",
        Delay: 2 * SECOND,
        MaxAttempts: 3,
        Window: 60 * SECOND,
      },
    }),
    "condition only": template({ RestartPolicy: { Condition: "none" } }),
    "delay 0": template({ RestartPolicy: { Condition: "any", Delay: 0 } }),
    "unknown condition": make({ template: { RestartPolicy: { Condition: "sometimes" } } }),
    "delay below 0": make({ template: { RestartPolicy: { Delay: -1 } } }),
    "window below 0": make({ template: { RestartPolicy: { Window: -1 } } }),
    "attempts below 0": make({ template: { RestartPolicy: { MaxAttempts: -1 } } }),
  }),
  ...table("service/update-config", {
    full: shown({
      UpdateConfig: {
        Parallelism: 2,
        Delay: SECOND,
        FailureAction: "rollback",
        Monitor: SECOND,
        MaxFailureRatio: 0.5,
        Order: "start-first",
      },
      RollbackConfig: {
        Parallelism: 3,
        Delay: SECOND,
        FailureAction: "continue",
        Monitor: SECOND,
        MaxFailureRatio: 0.25,
        Order: "stop-first",
      },
    }),
    empty: shown({ UpdateConfig: {}, RollbackConfig: {} }),
    "parallelism only": shown({ UpdateConfig: { Parallelism: 4 } }),
    "unknown action": make({ UpdateConfig: { FailureAction: "nosuch" } }),
    "rollback of a rollback": make({ RollbackConfig: { FailureAction: "rollback" } }),
    "unknown order": make({ UpdateConfig: { Order: "nosuch" } }),
    "ratio above 1": make({ UpdateConfig: { MaxFailureRatio: 1.5 } }),
    "ratio below 0": make({ UpdateConfig: { MaxFailureRatio: -0.5 } }),
    "delay below 0": make({ UpdateConfig: { Delay: -1 } }),
    "monitor below 0": make({ UpdateConfig: { Monitor: -1 } }),
    "parallelism below 0": make({ UpdateConfig: { Parallelism: -1 } }),
    "rollback delay below 0": make({ RollbackConfig: { Delay: -1 } }),
  }),
  ...table("service/placement", {
    full: template({
      Placement: {
        Constraints: ["node.role==worker", "node.labels.nosuch != 1", "engine.labels.x==y"],
        Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }],
        MaxReplicas: 3,
        Platforms: [{ Architecture: "x86_64", OS: "linux" }],
      },
    }),
    "constraint without operator": make({ template: { Placement: { Constraints: ["nonsense"] } } }),
    "constraint with one =": make({
      template: { Placement: { Constraints: ["node.role=worker"] } },
    }),
    "constraint without value": make({ template: { Placement: { Constraints: ["node.role=="] } } }),
    "constraint without key": make({ template: { Placement: { Constraints: ["==worker"] } } }),
    "constraint with a bad key": make({ template: { Placement: { Constraints: ["1a==worker"] } } }),
    "constraint with a bad value": make({
      template: { Placement: { Constraints: ["node.role==a,b"] } },
    }),
    "constraint of an unknown key": make({
      template: { Placement: { Constraints: ["nosuch==x"] } },
    }),
    "constraint empty": make({ template: { Placement: { Constraints: [""] } } }),
    "preference without spread": make({ template: { Placement: { Preferences: [{}] } } }),
    "preference of an unknown key": template({
      Placement: { Preferences: [{ Spread: { SpreadDescriptor: "nosuch" } }] },
    }),
    "max replicas below 0": make({ template: { Placement: { MaxReplicas: -1 } } }),
    "max replicas of a global service": make({
      Mode: { Global: {} },
      template: { Placement: { MaxReplicas: 1, Constraints: ["node.labels.nosuch==1"] } },
    }),
    "constraint of an IP": template({ Placement: { Constraints: ["node.ip==10.99.0.0/16"] } }),
  }),
  ...table("service/endpoint", {
    "one port": ports({ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080 }),
    "port without number": [
      post("/services/create", spec("s1", { EndpointSpec: { Ports: [{ TargetPort: 80 }] } })),
      get("/services/s1", { until: /"PublishedPort":3/ }),
    ],
    "three protocols": ports(
      { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080 },
      { Protocol: "udp", TargetPort: 80, PublishedPort: 8080 },
      { Protocol: "sctp", TargetPort: 80, PublishedPort: 8080 },
    ),
    "host mode": ports({ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }),
    "host mode without number": ports({ TargetPort: 80, PublishMode: "host" }),
    "port with a name": ports({ Name: "web", TargetPort: 80, PublishedPort: 8080 }),
    dnsrr: shown({ EndpointSpec: { Mode: "dnsrr" } }),
    vip: shown({ EndpointSpec: { Mode: "vip" } }),
    "dnsrr with an ingress port": make({
      EndpointSpec: { Mode: "dnsrr", Ports: [{ TargetPort: 80, PublishedPort: 8080 }] },
    }),
    "dnsrr with a host port": allocated({
      EndpointSpec: {
        Mode: "dnsrr",
        Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }],
      },
    }),
    "unknown mode": make({ EndpointSpec: { Mode: "nosuch" } }),
    "unknown protocol": make({ EndpointSpec: { Ports: [{ Protocol: "icmp", TargetPort: 80 }] } }),
    "unknown publish mode": make({
      EndpointSpec: { Ports: [{ TargetPort: 80, PublishMode: "nosuch" }] },
    }),
    "port too large": make({
      EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 70_000 }] },
    }),
    "port below 0": make({ EndpointSpec: { Ports: [{ TargetPort: -1, PublishedPort: 80 }] } }),
    "target port 0": make({ EndpointSpec: { Ports: [{ PublishedPort: 8080 }] } }),
    duplicates: make({
      EndpointSpec: {
        Ports: [
          { TargetPort: 80, PublishedPort: 8080 },
          { TargetPort: 81, PublishedPort: 8080 },
        ],
      },
    }),
    "same port in two modes": make({
      EndpointSpec: {
        Ports: [
          { TargetPort: 80, PublishedPort: 8080 },
          { TargetPort: 81, PublishedPort: 8080, PublishMode: "host" },
        ],
      },
    }),
    "taken by another service": [
      post(
        "/services/create",
        spec("s1", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
        { save: "svc" },
      ),
      post(
        "/services/create",
        spec("s2", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
      ),
      post(
        "/services/create",
        spec("s2", {
          EndpointSpec: { Ports: [{ Protocol: "udp", TargetPort: 80, PublishedPort: 8080 }] },
        }),
      ),
      post(
        "/services/create",
        spec("s3", {
          EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }] },
        }),
      ),
    ],
    "host port of another service": [
      post(
        "/services/create",
        spec("s1", {
          EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }] },
        }),
        { save: "svc" },
      ),
      post(
        "/services/create",
        spec("s3", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
      ),
      post(
        "/services/create",
        spec("s2", {
          EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }] },
        }),
      ),
    ],
  }),
  ...table("service/references", {
    "network that is none": make({ template: { Networks: [{ Target: "nosuch" }] } }),
    "network empty": make({ template: { Networks: [{}] } }),
    "network of this node": make({ template: { Networks: [{ Target: "docker0" }] } }),
    "network bridge": predefined("bridge"),
    "network host": predefined("host"),
    "network none": template({ Networks: [{ Target: "none" }] }),
    "network ingress": make({ template: { Networks: [{ Target: "ingress" }] } }),
    "network local": [
      post("/networks/create", { Name: "loc", Driver: "bridge" }),
      post("/services/create", spec("s1", { template: { Networks: [{ Target: "loc" }] } })),
    ],
    "network with aliases": [
      post("/networks/create", { Name: "net", Driver: "overlay" }, { save: "net" }),
      post(
        "/services/create",
        spec("s1", {
          template: { Networks: [{ Target: "net", Aliases: ["a", "b"], DriverOpts: { x: "y" } }] },
        }),
      ),
      get("/services/s1", { until: /VirtualIPs/ }),
    ],
    "networks in the old place": [
      post("/networks/create", { Name: "net", Driver: "overlay" }, { save: "net" }),
      post("/services/create", spec("s1", { Networks: [{ Target: "net" }] })),
      get("/services/s1", { until: /VirtualIPs/ }),
    ],
    "network twice": [
      post("/networks/create", { Name: "net", Driver: "overlay" }, { save: "net" }),
      post(
        "/services/create",
        spec("s1", { template: { Networks: [{ Target: "net" }, { Target: "$net" }] } }),
      ),
    ],
    "secret that is none": make({
      container: {
        Secrets: [
          {
            SecretID: "nosuch",
            SecretName: "n",
            File: { Name: "n", UID: "0", GID: "0", Mode: 292 },
          },
        ],
      },
    }),
    "secret without id": make({
      container: { Secrets: [{ SecretName: "n", File: { Name: "n" } }] },
    }),
    "secret without name": make({
      container: { Secrets: [{ SecretID: "n", File: { Name: "n" } }] },
    }),
    "secret without target": make({ container: { Secrets: [{ SecretID: "n", SecretName: "n" }] } }),
    "secret with an empty target": make({
      container: { Secrets: [{ SecretID: "n", SecretName: "n", File: {} }] },
    }),
    "config that is none": make({
      container: {
        Configs: [
          {
            ConfigID: "nosuch",
            ConfigName: "n",
            File: { Name: "n", UID: "0", GID: "0", Mode: 292 },
          },
        ],
      },
    }),
    "config with file and runtime": make({
      container: {
        Configs: [{ ConfigID: "nosuch", ConfigName: "n", File: { Name: "n" }, Runtime: {} }],
      },
    }),
    "config without file": make({
      container: { Configs: [{ ConfigID: "nosuch", ConfigName: "n" }] },
    }),
    "secrets of one target": [
      post("/secrets/create", { Name: "a", Data: "eA==" }, { save: "one" }),
      post("/secrets/create", { Name: "b", Data: "eA==" }, { save: "two" }),
      post(
        "/services/create",
        spec("s1", {
          container: {
            Secrets: [
              {
                SecretID: "$one",
                SecretName: "a",
                File: { Name: "x", UID: "0", GID: "0", Mode: 292 },
              },
              {
                SecretID: "$two",
                SecretName: "b",
                File: { Name: "x", UID: "0", GID: "0", Mode: 292 },
              },
            ],
          },
        }),
      ),
    ],
    "secret and config": [
      post("/secrets/create", { Name: "a", Data: "eA==" }, { save: "one" }),
      post("/configs/create", { Name: "b", Data: "eA==" }, { save: "two" }),
      post(
        "/services/create",
        spec("s1", {
          container: {
            Secrets: [
              {
                SecretID: "$one",
                SecretName: "a",
                File: { Name: "x", UID: "5", GID: "6", Mode: 256 },
              },
            ],
            Configs: [
              {
                ConfigID: "$two",
                ConfigName: "b",
                File: { Name: "/x", UID: "5", GID: "6", Mode: 256 },
              },
            ],
          },
        }),
      ),
      get("/services/s1"),
      del("/secrets/a"),
      del("/configs/b"),
      del("/services/s1"),
      del("/secrets/a"),
      del("/configs/b"),
    ],
    "secret with another name than its own": [
      post("/secrets/create", { Name: "a", Data: "eA==" }, { save: "one" }),
      post(
        "/services/create",
        spec("s1", {
          container: {
            Secrets: [
              {
                SecretID: "$one",
                SecretName: "other",
                File: { Name: "x", UID: "0", GID: "0", Mode: 292 },
              },
            ],
          },
        }),
      ),
    ],
    "log driver without name": make({ template: { LogDriver: { Options: { a: "b" } } } }),
    "log driver": template({ LogDriver: { Name: "json-file", Options: { "max-size": "1m" } } }),
    "log driver that is none": template({ LogDriver: { Name: "nosuch" } }),
    "force update": template({ ForceUpdate: 7 }),
    "force update below 0": make({ template: { ForceUpdate: -1 } }),
  }),
  ...table("service/auth", {
    "X-Registry-Auth is not shown": [
      http("POST", "/services/create", spec("s1"), {
        headers: {
          "X-Registry-Auth": Buffer.from('{"username":"u","password":"p"}').toString("base64url"),
        },
      }),
      get("/services/s1"),
    ],
    "X-Registry-Auth that is nonsense": [
      http("POST", "/services/create", spec("s1"), { headers: { "X-Registry-Auth": "%%%" } }),
      get("/services/s1"),
    ],
  }),
  ...table("service/list", {
    empty: [get("/services")],
    "with status": [
      post("/services/create", spec("s1")),
      get("/services?status=true"),
      get("/services?status=1"),
      get("/services?status=false"),
      get("/services?status=nonsense"),
    ],
    "insert defaults": [post("/services/create", spec("s1")), get("/services?insertDefaults=true")],
    filters: [
      post("/services/create", spec("s1", { Labels: { a: "b", c: "" } }), { save: "svc" }),
      post(
        "/services/create",
        spec("s2", {
          Mode: { Global: {} },
          template: { Placement: { Constraints: ["node.labels.nosuch==1"] } },
        }),
      ),
      ...[
        { name: ["s"] },
        { name: ["s1"] },
        { name: ["nosuch"] },
        { name: ["s1", "s2"] },
        { name: { s1: true } },
        { id: ["$svc"] },
        { id: ["nosuch"] },
        { label: ["a"] },
        { label: ["a=b"] },
        { label: ["a=x"] },
        { label: ["c="] },
        { label: ["a", "c"] },
        { label: ["a", "nosuch"] },
        { mode: ["global"] },
        { mode: ["replicated"] },
        { mode: ["nosuch"] },
        { runtime: ["container"] },
        { runtime: ["plugin"] },
        { runtime: ["nosuch"] },
        { name: ["s1"], mode: ["global"] },
        { nosuch: ["x"] },
        {},
      ].map((given) => get(`/services?${filters(given)}`)),
      get("/services?filters=nonsense"),
      get("/services?filters=[]"),
    ],
    inspect: [
      post("/services/create", spec("s1"), { save: "svc" }),
      get("/services/$svc"),
      get("/services/s1"),
      get("/services/nosuch"),
      get("/services/s1?insertDefaults=1"),
      get("/services/s1?insertDefaults=nonsense"),
    ],
    "part of a name": [post("/services/create", spec("web-one")), get("/services/web-")],
    delete: [
      post("/services/create", spec("s1")),
      del("/services/s1"),
      del("/services/s1"),
      del("/services/nosuch"),
    ],
    "delete by id": [
      post("/services/create", spec("s1"), { save: "svc" }),
      del("/services/$svc"),
      get("/services/$svc"),
    ],
  }),
];
