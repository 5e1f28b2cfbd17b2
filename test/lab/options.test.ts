/**
 * Every option of a container, seen in `docker inspect` of the real container: those of Docker's own
 * ContainerSpec, and ours (agent/reconciler/container-options.ts), as labels by the stock CLI and as
 * fields by curl. One host.
 */
import { beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import {
  CONTAINER_OPTIONS,
  inspectPath,
  OPTION_LABEL_PREFIX,
} from "../../agent/reconciler/container-options.ts";
import type { ContainerOptions } from "../../core/objects/container-options.ts";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
type Json = Record<string, unknown>;
const host = () => lab.host(1);
const MIB = 1024 * 1024;

const DISK =
  ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"].find((path) => existsSync(path)) ?? "";

/** What the engine is to have of each option's example. */
const EXPECTED: { [K in keyof Required<ContainerOptions>]?: unknown } = {
  Privileged: true,
  Devices: [
    { PathOnHost: "/dev/fuse", PathInContainer: "/dev/fuse", CgroupPermissions: "rw" },
    { PathOnHost: "/dev/null", PathInContainer: "/dev/nil", CgroupPermissions: "rwm" },
  ],
  DeviceCgroupRules: ["c 189:* rmw", "b 8:0 r"],
  DeviceRequests: [
    {
      Driver: "",
      Count: 0,
      DeviceIDs: ["0", "1"],
      Capabilities: [["gpu", "utility"]],
      Options: null,
    },
  ],
  SecurityOpt: ["label=disable"],
  MaskedPaths: ["/proc/keys", "/proc/timer_list"],
  ReadonlyPaths: ["/proc/bus"],
  PidMode: "host",
  IpcMode: "shareable",
  UTSMode: "host",
  UsernsMode: "host",
  CgroupnsMode: "private",
  NetworkMode: "none",
  Runtime: "runc",
  ShmSize: 128 * MIB,
  Tmpfs: { "/scratch": "rw,noexec,size=1m" },
  Binds: ["/var/lib/made-by-bind:/made:ro"],
  VolumesFrom: ["keeper:ro"],
  VolumeDriver: "local",
  CpuShares: 512,
  CpuPeriod: 50_000,
  CpuQuota: 25_000,
  CpuRealtimePeriod: 1_000_000,
  CpuRealtimeRuntime: 950_000,
  CpusetCpus: "0",
  CpusetMems: "0",
  MemoryReservation: 16 * MIB,
  MemorySwap: 128 * MIB,
  MemorySwappiness: 10,
  OomKillDisable: true,
  OomScoreAdj: 250,
  BlkioWeight: 300,
  BlkioWeightDevice: [{ Path: DISK, Weight: 200 }],
  BlkioDeviceReadBps: [{ Path: DISK, Rate: 50 * MIB }],
  BlkioDeviceWriteBps: [{ Path: DISK, Rate: 40 * MIB }],
  BlkioDeviceReadIOps: [{ Path: DISK, Rate: 3_000 }],
  BlkioDeviceWriteIOps: [{ Path: DISK, Rate: 2_000 }],
  PublishAllPorts: true,
  ExposedPorts: { "7070/tcp": {}, "7071/udp": {} },
  MacAddress: "02:42:0a:00:00:99",
  Domainname: "options.example",
  OpenStdin: true,
  StdinOnce: true,
  Shell: ["/bin/sh", "-ec"],
};
/** A kernel without I/O weights, real-time groups, swap accounting and so on: the engine sets these. */
const DISCARDED: { [K in keyof ContainerOptions]?: unknown } = {
  BlkioWeight: 0,
  BlkioWeightDevice: [],
  MemorySwappiness: null,
  OomKillDisable: false,
};
type OptionName = keyof typeof CONTAINER_OPTIONS;
/** Options that no container of this machine can have, or that could end the task at once: one service each. */
const REFUSED_BY: { [K in keyof ContainerOptions]?: RegExp } = {
  Annotations: /option Annotations \(shoal\.annotation\): it needs Docker Engine 24/,
  StorageOpt: /storage-opt/,
  PullPolicy: /No such image: absent:1 .*shoal\.pull is never/,
};
const ALONE: readonly OptionName[] = [
  "DeviceRequests",
  "CpuRealtimePeriod",
  "CpuRealtimeRuntime",
  "Addresses",
];
/** They do not go together with those of the first service. */
const SECOND: readonly OptionName[] = [
  "Privileged",
  "UTSMode",
  "VolumesFrom",
  "VolumeDriver",
  "PublishAllPorts",
  "ExposedPorts",
  "MacAddress",
];
const NAMES = Object.keys(CONTAINER_OPTIONS) as OptionName[];
const FIRST = NAMES.filter((name) => !ALONE.includes(name) && !SECOND.includes(name)).filter(
  (name) => !(name in REFUSED_BY),
);
/** Containers stay below the lab's control group; the disk is one that this machine has. */
const exampleOf = (name: OptionName) =>
  name === "CgroupParent"
    ? `/${lab.name}-lab/batch`
    : CONTAINER_OPTIONS[name].example.replaceAll("/dev/vda", DISK);
const labelsOf = (names: readonly OptionName[]) =>
  names.flatMap((name) => [
    "--label",
    `${OPTION_LABEL_PREFIX}${CONTAINER_OPTIONS[name].label}=${exampleOf(name)}`,
  ]);
const create = (
  name: string,
  names: readonly OptionName[],
  more: readonly string[] = [],
  image = "lab:latest",
) =>
  host().docker(
    "service",
    "create",
    "--detach",
    "--no-resolve-image",
    "--restart-condition",
    "none",
    "--limit-memory",
    "64m",
    "--name",
    name,
    ...labelsOf(names),
    ...more,
    image,
    "sleep",
    "600",
  );

/** The task's container; also one that could not be started. */
async function containerOf(service: string): Promise<Json> {
  const filter = `label=com.docker.swarm.service.name=${service}`;
  const id = await waitFor(
    `a container of ${service}`,
    async () => {
      const ids = await host().engine("ps", "-aq", "--no-trunc", "--filter", filter);
      if (ids !== "") return ids.split("\n")[0] ?? "";
      const error = await errorOf(service);
      throw new Error(error || "There is none yet");
    },
    { timeoutMs: 20_000 },
  );
  // docker inspect's answer, an array with one object.
  const [container] = JSON.parse(await host().engine("inspect", id)) as [Json];
  return container;
}
const errorOf = (service: string) =>
  host().docker("service", "ps", "--no-trunc", "--format", "{{.Error}}", service);

function at(container: Json, path: string): unknown {
  let value: unknown = container;
  for (const key of path.split(".")) value = (value as Json)[key]; // a path that inspect has
  return value;
}

function expectOption(container: Json, name: OptionName): void {
  const path = inspectPath(CONTAINER_OPTIONS[name]);
  if (path === undefined) throw new Error(`${name} is not in a container`);
  const seen = at(container, path);
  const wanted = name === "CgroupParent" ? exampleOf(name) : EXPECTED[name];
  if (wanted === undefined && name !== "Addresses")
    throw new Error(`EXPECTED has no ${name}: add it`);
  if (name in DISCARDED && JSON.stringify(seen) === JSON.stringify(DISCARDED[name])) return;
  if (name === "Addresses") {
    const address = at(container, "NetworkSettings.Networks.net.IPAddress");
    expect(address).toBe(CONTAINER_OPTIONS.Addresses.example);
    return;
  }
  // The image may have ports of its own.
  if (name === "ExposedPorts") expect(seen).toMatchObject(EXPECTED.ExposedPorts as Json);
  else expect({ [path]: seen }).toEqual({ [path]: wanted });
}

describeLab("container options", { hosts: 1, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await host().docker("swarm", "init");
    await host().engine(
      "run",
      "-d",
      "--name",
      "keeper",
      "-v",
      "/kept",
      "lab:latest",
      "sleep",
      "600",
    );
    await create("first", FIRST);
    await create("second", SECOND);
    await host().docker("network", "create", "-d", "overlay", "--subnet", "10.66.0.0/24", "net");
    for (const name of ALONE) {
      await create(name, [name], name === "Addresses" ? ["--network", "net"] : []);
    }
    for (const name of Object.keys(REFUSED_BY) as OptionName[]) {
      await create(name, [name], [], name === "PullPolicy" ? "absent:1" : "lab:latest");
    }
  }, 60_000);

  test("labels reach the container, each in its place", async () => {
    const first = await containerOf("first");
    for (const name of FIRST) expectOption(first, name);
    const second = await containerOf("second");
    for (const name of SECOND) expectOption(second, name);
    for (const name of ALONE) expectOption(await containerOf(name), name);
    // And it runs: in the node's pids, with its devices.
    const id = String(first["Id"]);
    await waitFor(
      "the first service to run",
      async () => (await host().engine("inspect", "--format", "{{.State.Running}}", id)) === "true",
      { timeoutMs: 20_000 },
    );
    expect(await host().engine("exec", id, "ls", "/dev/fuse", "/dev/nil", "/made")).toContain(
      "/dev/nil",
    );
    expect(await host().engine("exec", id, "sh", "-c", "df /dev/shm; ps | wc -l")).toContain(
      "131072",
    );
  }, 60_000);

  test("what this engine cannot have fails the task, by name", async () => {
    for (const [name, text] of Object.entries(REFUSED_BY)) {
      const seen = await waitFor(`an error of ${name}`, () => errorOf(name), { timeoutMs: 20_000 });
      expect(seen).toMatch(text);
    }
  }, 60_000);

  test("docker service update keeps labels and fields, and a changed label replaces the task", async () => {
    const call = async (path: string, body: unknown) => {
      const answer = await fetch(`http://lab${path}`, {
        unix: host().agentSocket(),
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      return { status: answer.status, body: (await answer.json()) as Json };
    };
    const spec = (Shoal: Json) => ({
      Name: "fields",
      TaskTemplate: {
        ContainerSpec: {
          Image: "lab:latest",
          Command: ["sleep", "600"],
          StopGracePeriod: 0,
          Shoal,
        },
      },
    });
    const refused = await call("/services/create", spec({ Privlieged: true }));
    expect(refused.status).toBe(400);
    expect(refused.body["message"]).toContain("did you mean Privileged?");
    const options = { ShmSize: 32 * MIB, CpuShares: 256 };
    expect((await call("/services/create", spec(options))).status).toBe(201);
    const before = await containerOf("fields");
    expect(before["HostConfig"]).toMatchObject(options);
    // The Go client drops the field that it does not know.
    await host().docker(
      "service",
      "update",
      "--detach",
      "--no-resolve-image",
      "--label-add",
      "shoal.pid=host",
      "fields",
    );
    const after = await waitFor(
      "the new container",
      async () => {
        const filter = "label=com.docker.swarm.service.name=fields";
        const id = (await host().engine("ps", "-q", "--no-trunc", "--filter", filter)).split(
          "\n",
        )[0];
        if (!id || id === before["Id"]) return undefined;
        const [container] = JSON.parse(await host().engine("inspect", id)) as [Json]; // as above
        return container;
      },
      { timeoutMs: 20_000 },
    );
    expect(after["HostConfig"]).toMatchObject({ ...options, PidMode: "host" });
  }, 60_000);

  test("a compose file carries them as labels, of the service and of its containers", async () => {
    const compose = {
      services: {
        app: {
          image: "lab:latest",
          command: "sleep 600",
          labels: ["shoal.shm-size=16m", "shoal.tmpfs.a=/run/{{.Task.Slot}}:size=1m"],
          deploy: { labels: { "shoal.pid": "host" } },
        },
      },
    };
    const text = JSON.stringify({ version: "3.8", ...compose });
    const deploy = ["docker", "stack", "deploy", "--resolve-image", "never", "-c", "-", "shop"];
    await host().run(deploy, { stdin: text });
    expect((await containerOf("shop_app"))["HostConfig"]).toMatchObject({
      ShmSize: 16 * MIB,
      PidMode: "host",
      Tmpfs: { "/run/1": "size=1m" },
    });
    const wrong = { app: { ...compose.services.app, labels: ["shoal.prvileged=true"] } };
    const stdin = JSON.stringify({ version: "3.8", services: wrong });
    const refused = await host().tryRun(deploy, { stdin });
    expect([refused.code, refused.stderr]).toEqual([
      1,
      expect.stringContaining("did you mean shoal.privileged?"),
    ]);
  }, 60_000);

  test("every field of Docker's ContainerSpec reaches the container", async () => {
    const docker = (...args: string[]) => host().docker(...args);
    await host().run(["mkdir", "-p", "/var/lib/bound"]);
    const secretId = await docker("secret", "create", "pass", "/etc/hostname");
    const configId = await docker("config", "create", "conf", "/etc/hostname");
    const file = (Name: string) => ({ Name, UID: "5", GID: "6", Mode: 0o440 });
    const answer = await fetch("http://lab/services/create", {
      unix: host().agentSocket(),
      method: "POST",
      body: JSON.stringify({
        Name: "all",
        Labels: { on: "service" },
        TaskTemplate: {
          ContainerSpec: {
            Image: "lab:latest",
            Labels: { on: "container" },
            Command: ["sh", "-c"],
            Args: ["sleep 600"],
            Hostname: "h-{{.Task.Slot}}",
            Env: ["A=1", "S={{.Service.Name}}"],
            Dir: "/tmp",
            User: "7:8",
            Groups: ["9"],
            Privileges: {
              CredentialSpec: null,
              SELinuxContext: { Disable: true },
              Seccomp: { Mode: "unconfined" },
              AppArmor: { Mode: "disabled" },
              NoNewPrivileges: true,
            },
            Init: true,
            StopSignal: "SIGINT",
            TTY: true,
            OpenStdin: true,
            ReadOnly: true,
            Mounts: [
              {
                Type: "bind",
                Source: "/var/lib/bound",
                Target: "/bound",
                ReadOnly: true,
                BindOptions: { Propagation: "rprivate", NonRecursive: true },
              },
              {
                Type: "bind",
                Source: "/var/lib/made",
                Target: "/made",
                BindOptions: { CreateMountpoint: true },
              },
              {
                Type: "volume",
                Source: "data-{{.Task.Slot}}",
                Target: "/data",
                VolumeOptions: {
                  NoCopy: true,
                  Labels: { of: "all" },
                  DriverConfig: { Name: "local", Options: { type: "tmpfs", device: "tmpfs" } },
                },
              },
              { Type: "volume", Target: "/anonymous" },
              { Type: "tmpfs", Target: "/tmp", TmpfsOptions: { SizeBytes: MIB, Mode: 0o1770 } },
            ],
            StopGracePeriod: 3_000_000_000,
            HealthCheck: {
              Test: ["CMD", "true"],
              Interval: 1_000_000_000,
              Timeout: 2_000_000_000,
              Retries: 4,
              StartPeriod: 5_000_000_000,
            },
            Hosts: ["10.0.0.1 db database"],
            DNSConfig: { Nameservers: ["9.9.9.9"], Search: ["lan"], Options: ["timeout:1"] },
            Secrets: [{ File: file("pass"), SecretID: secretId, SecretName: "pass" }],
            Configs: [{ File: file("/conf"), ConfigID: configId, ConfigName: "conf" }],
            Isolation: "default",
            Sysctls: { "net.core.somaxconn": "77" },
            CapabilityAdd: ["CAP_NET_RAW"],
            CapabilityDrop: ["CAP_MKNOD"],
            Ulimits: [{ Name: "nofile", Soft: 100, Hard: 200 }],
            OomScoreAdj: 300,
          },
          Resources: {
            Limits: { NanoCPUs: 500_000_000, MemoryBytes: 64 * MIB, Pids: 50 },
            Reservations: { NanoCPUs: 1_000_000, MemoryBytes: 8 * MIB },
            SwapBytes: 64 * MIB,
            MemorySwappiness: 20,
          },
          LogDriver: { Name: "json-file", Options: { "max-size": "1m" } },
        },
        EndpointSpec: {
          Mode: "vip",
          Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8888, PublishMode: "host" }],
        },
      }),
    });
    expect({ status: answer.status, text: await answer.text() }).toMatchObject({ status: 201 });
    const seen = await containerOf("all");
    expect(seen["Config"]).toMatchObject({
      Entrypoint: ["sh", "-c"],
      Cmd: ["sleep 600"],
      Hostname: "h-1",
      Env: expect.arrayContaining(["A=1", "S=all"]),
      WorkingDir: "/tmp",
      User: "7:8",
      Labels: { on: "container", "com.docker.swarm.service.name": "all" },
      StopSignal: "SIGINT",
      StopTimeout: 3,
      Tty: true,
      OpenStdin: true,
      Healthcheck: {
        Test: ["CMD", "true"],
        Interval: 1_000_000_000,
        Timeout: 2_000_000_000,
        Retries: 4,
        StartPeriod: 5_000_000_000,
      },
      ExposedPorts: { "80/tcp": {} },
    });
    expect(seen["HostConfig"]).toMatchObject({
      GroupAdd: ["9"],
      SecurityOpt: [
        "label=disable",
        "seccomp=unconfined",
        "apparmor=unconfined",
        "no-new-privileges=true",
      ],
      Init: true,
      ReadonlyRootfs: true,
      ExtraHosts: ["db:10.0.0.1", "database:10.0.0.1"],
      Dns: ["9.9.9.9"],
      DnsSearch: ["lan"],
      DnsOptions: ["timeout:1"],
      Sysctls: { "net.core.somaxconn": "77" },
      CapAdd: ["CAP_NET_RAW"],
      CapDrop: ["CAP_MKNOD"],
      Ulimits: [{ Name: "nofile", Soft: 100, Hard: 200 }],
      OomScoreAdj: 300,
      NanoCpus: 500_000_000,
      Memory: 64 * MIB,
      MemorySwap: 128 * MIB,
      MemorySwappiness: 20,
      MemoryReservation: 0,
      PidsLimit: 50,
      LogConfig: { Type: "json-file", Config: { "max-size": "1m" } },
      PortBindings: { "80/tcp": [{ HostPort: "8888" }] },
      RestartPolicy: { Name: "no" },
      Binds: ["/var/lib/made:/made:rw,rprivate"],
    });
    const mounts = (seen["Mounts"] as Json[]).map((mount) => [mount["Destination"], mount]);
    const byTarget = Object.fromEntries(mounts) as Record<string, Json>;
    expect(byTarget["/bound"]).toMatchObject({ RW: false, Propagation: "rprivate" });
    expect(byTarget["/made"]).toMatchObject({ Source: "/var/lib/made", RW: true });
    expect(byTarget["/data"]).toMatchObject({ Type: "volume", Name: "data-1" });
    expect(byTarget["/anonymous"]).toMatchObject({ Type: "volume" });
    expect(byTarget["/run/secrets/pass"]).toMatchObject({ RW: false });
    expect(byTarget["/conf"]).toMatchObject({ RW: false });
    const tmpfs = (at(seen, "HostConfig.Mounts") as Json[]).find((one) => one["Type"] === "tmpfs");
    expect(tmpfs).toMatchObject({ TmpfsOptions: { SizeBytes: MIB, Mode: 0o1770 } });
    const bound = (at(seen, "HostConfig.Mounts") as Json[]).find(
      (one) => one["Target"] === "/bound",
    );
    expect(bound).toMatchObject({ BindOptions: { NonRecursive: true } });
    const volume = JSON.parse(await host().engine("volume", "inspect", "data-1")) as [Json]; // one object
    expect(volume[0]).toMatchObject({ Labels: { of: "all" }, Options: { type: "tmpfs" } });
    const id = String(seen["Id"]);
    await waitFor(
      "the service with everything to be healthy",
      async () => {
        const state = await host().engine("inspect", "--format", "{{.State.Health.Status}}", id);
        if (state === "healthy") return true;
        throw new Error(`${state} ${await errorOf("all")}`);
      },
      { timeoutMs: 20_000 },
    );
    expect(
      await host().engine("exec", "--user", "0", id, "stat", "-c", "%u:%g %a", "/run/secrets/pass"),
    ).toBe("5:6 440");
  }, 60_000);
});
