import { describe, expect, test } from "bun:test";
import {
  applyContainerOptions,
  CONTAINER_OPTIONS,
  keepShoalFields,
  OPTION_LABEL_PREFIX,
  REFUSED_OPTIONS,
  resolveContainerOptions,
} from "../../../agent/reconciler/container-options.ts";
import type { ContainerOptions } from "../../../core/objects/container-options.ts";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import type { ContainerSpec, TaskSpec } from "../../../core/objects/task.ts";

type Given = {
  labels?: Record<string, string>;
  container?: Partial<ContainerSpec>;
  template?: Partial<TaskSpec>;
  spec?: Partial<ServiceSpec>;
};
function spec({ labels, container, template, spec }: Given): ServiceSpec {
  return {
    Name: "web",
    Labels: labels ?? {},
    TaskTemplate: { ContainerSpec: { Image: "a", ...container }, ...template },
    Mode: { Replicated: { Replicas: 1 } },
    ...spec,
  };
}
const resolved = (given: Given) =>
  resolveContainerOptions(spec(given)).TaskTemplate.ContainerSpec.EngineOptions;
const ofLabels = (labels: Record<string, string>) => resolved({ labels });

describe("labels", () => {
  test.each<[string, Record<string, string>, ContainerOptions]>([
    ["a flag alone is true", { "shoal.privileged": "" }, { Privileged: true }],
    ["a flag may be off", { "shoal.privileged": "false" }, { Privileged: false }],
    ["sizes have units of 1024", { "shoal.shm-size": "1.5GiB" }, { ShmSize: 1_610_612_736 }],
    [
      "items have commas between, and further labels in the order of their suffixes",
      {
        "shoal.device": "/dev/a,/dev/b:r",
        "shoal.device.10": "/dev/d",
        "shoal.device.9": "/dev/c",
      },
      {
        Devices: ["a", "b", "c", "d"].map((name) => ({
          PathOnHost: `/dev/${name}`,
          PathInContainer: `/dev/${name}`,
          CgroupPermissions: name === "b" ? "r" : "rwm",
        })),
      },
    ],
    [
      "an item with commas has a label of its own",
      { "shoal.tmpfs.a": "/a:size=1m,mode=700", "shoal.tmpfs.b": "/b" },
      { Tmpfs: { "/a": "size=1m,mode=700", "/b": "" } },
    ],
    ["an empty list of protected paths is one", { "shoal.masked-path": "" }, { MaskedPaths: [] }],
    [
      "GPUs as docker run has them",
      { "shoal.gpus.1": "all", "shoal.gpus.2": "driver=cdi,device=nvidia.com/gpu=all" },
      {
        DeviceRequests: [
          { Count: -1, Capabilities: [["gpu"]] },
          { Driver: "cdi", DeviceIDs: ["nvidia.com/gpu=all"] },
        ],
      },
    ],
  ])("%s", (_title, labels, wanted) => {
    expect(ofLabels(labels)).toEqual(wanted);
  });

  test("every example of the table is read, and accepted as a field too", () => {
    for (const [name, option] of Object.entries(CONTAINER_OPTIONS)) {
      const template = {
        Resources: { Limits: { MemoryBytes: 64 * 1024 * 1024 } },
        ...(name === "Addresses" ? { Networks: [{ Target: "n" }] } : {}),
      };
      const label = `${OPTION_LABEL_PREFIX}${option.label}`;
      const value = resolved({ labels: { [label]: option.example }, template });
      expect(Object.keys(value ?? {})).toEqual([name]);
      expect(resolved({ container: { Shoal: value ?? {} }, template })).toEqual(value ?? {});
    }
  });

  test("labels may be the containers', and are left where they are", () => {
    const given = spec({ container: { Labels: { "shoal.pid": "host" } }, labels: { a: "b" } });
    const result = resolveContainerOptions(given);
    expect(result.TaskTemplate.ContainerSpec.EngineOptions).toEqual({ PidMode: "host" });
    expect(result.TaskTemplate.ContainerSpec.Labels).toEqual({ "shoal.pid": "host" });
    expect(resolveContainerOptions(result)).toEqual(result);
  });

  test("labels that are the service's own are left to who reads them", () => {
    const labels = { "shoal.drain": "5s", "shoal.update.progress-deadline": "1m" };
    expect(ofLabels(labels)).toBeUndefined();
  });

  test("no option leaves the spec as it was", () => {
    const given = spec({ labels: { a: "b" } });
    expect(resolveContainerOptions(given)).toEqual(given);
  });

  test.each<[string, Given, string]>([
    ["a name", { labels: { "shoal.privleged": "1" } }, "did you mean shoal.privileged?"],
    ["a name like none", { labels: { "shoal.zzzzzzzzzz": "1" } }, "none of this name"],
    ["a flag of docker run that services have", { labels: { "shoal.cap-add": "X" } }, "--cap-add"],
    ["what means nothing", { labels: { "shoal.name": "x" } }, "could be there only once"],
    ["a value", { labels: { "shoal.pid": "hots" } }, 'shoal.pid="hots": it must be host or'],
    ["a range", { labels: { "shoal.memory-swappiness": "101" } }, "from 0 to 100"],
    ["an empty list", { labels: { "shoal.device": "" } }, "/dev/host[:/dev/container][:rwm]"],
    ["a broken item", { labels: { "shoal.gpus": 'device="0' } }, "all, a count, or fields"],
    ["a suffix of one value", { labels: { "shoal.pid.1": "host" } }, "name it shoal.pid"],
    ["our own labels", { labels: { "shoal.task.id": "x" } }, "none of this name"],
    [
      "a field of no option",
      { container: { Shoal: { Privlieged: true } as ContainerOptions } },
      "did you mean Privileged?",
    ],
    [
      "a field of another form",
      { container: { Shoal: { Devices: "/dev/x" as never } } },
      'ContainerSpec.Shoal.Devices="/dev/x": it must be',
    ],
    [
      "label and field",
      { labels: { "shoal.pid": "host" }, container: { Shoal: { PidMode: "host" } } },
      "keep one of them",
    ],
    [
      "two labels that differ",
      { labels: { "shoal.ipc": "host" }, container: { Labels: { "shoal.ipc": "none" } } },
      "different values",
    ],
    [
      "label and twin",
      { labels: { "shoal.oom-score-adj": "5" }, container: { OomScoreAdj: 6 } },
      "ContainerSpec.OomScoreAdj says 6",
    ],
    [
      "quota beside a limit",
      {
        labels: { "shoal.cpu-quota": "5000" },
        template: { Resources: { Limits: { NanoCPUs: 1e9 } } },
      },
      "--limit-cpu",
    ],
    ["swap without memory", { labels: { "shoal.memory-swap": "1g" } }, "--limit-memory"],
    [
      "swap below memory",
      {
        labels: { "shoal.memory-swap": "1m" },
        template: { Resources: { Limits: { MemoryBytes: 2 * 1024 * 1024 } } },
      },
      "at least the memory limit of 2097152",
    ],
    [
      "a mode beside networks",
      { labels: { "shoal.network": "none" }, template: { Networks: [{ Target: "n" }] } },
      "attached to networks",
    ],
    [
      "a mode beside ports",
      {
        labels: { "shoal.network": "none" },
        spec: { EndpointSpec: { Ports: [{ TargetPort: 1 }] } },
      },
      "published ports",
    ],
    [
      "an address for two tasks",
      { labels: { "shoal.ip": "10.0.0.9" }, spec: { Mode: { Replicated: { Replicas: 2 } } } },
      "mode replicated and one replica",
    ],
    [
      "an address for old and new task",
      { labels: { "shoal.ip": "10.0.0.9" }, spec: { UpdateConfig: { Order: "start-first" } } },
      "use order stop-first",
    ],
    ["no address", { labels: { "shoal.ip": "net=10.0.0" } }, "an IPv4 address, or network=address"],
    [
      "a label of the service at its containers",
      { container: { Labels: { "shoal.drain": "1s" } } },
      "it is of the service",
    ],
    ["a label of the service, misspelt", { labels: { "shoal.drian": "1s" } }, "shoal.drain?"],
    [
      "one hardware address for two tasks",
      {
        labels: { "shoal.mac-address": "02:42:0a:00:00:99" },
        spec: { Mode: { Replicated: { Replicas: 2 } } },
      },
      "one replica",
    ],
  ])("are refused with what to do: %s", (_title, given, text) => {
    expect(() => resolved(given)).toThrow(text);
  });

  test("no flag is both an option and refused", () => {
    const labels = Object.values(CONTAINER_OPTIONS).map((option) => option.label);
    expect(new Set(labels).size).toBe(labels.length);
    expect(labels.filter((label) => Object.hasOwn(REFUSED_OPTIONS, label))).toEqual([]);
  });
});

test("an update without fields keeps them, an empty object takes them away", () => {
  const before = spec({ container: { Shoal: { PidMode: "host" } } });
  const kept = keepShoalFields(spec({}), before);
  expect(kept.TaskTemplate.ContainerSpec.Shoal).toEqual({ PidMode: "host" });
  const none = keepShoalFields(spec({ container: { Shoal: {} } }), before);
  expect(resolveContainerOptions(none).TaskTemplate.ContainerSpec.EngineOptions).toBeUndefined();
});

describe("applyContainerOptions()", () => {
  test("joins lists and maps with what is there, and puts the rest in its place", () => {
    const body = {
      HostConfig: { SecurityOpt: ["a"] },
      ExposedPorts: { "80/tcp": {} },
    };
    const options: ContainerOptions = {
      SecurityOpt: ["b"],
      ExposedPorts: { "81/tcp": {} },
      Domainname: "d",
      MaskedPaths: [],
      PullPolicy: "never",
    };
    applyContainerOptions(body, options, "20.10.24");
    expect<object>(body).toEqual({
      HostConfig: { SecurityOpt: ["a", "b"], MaskedPaths: [] },
      ExposedPorts: { "80/tcp": {}, "81/tcp": {} },
      Domainname: "d",
    });
  });

  test("refuses what an old engine would drop", () => {
    const options = { Annotations: { a: "b" } };
    const apply = (version: string) => applyContainerOptions({ HostConfig: {} }, options, version);
    expect(() => apply("20.10.24+dfsg1")).toThrow("needs Docker Engine 24");
    expect(() => apply("24.0.1")).not.toThrow();
  });
});
