import { describe, expect, test } from "bun:test";
import { isSameSpec, isTaskDirty } from "../../../core/orchestrator/task-dirty.ts";
import { aNode, aService, aState, aTask } from "../../fixtures/cluster.ts";

describe("isSameSpec()", () => {
  const cases: [unknown, unknown, boolean][] = [
    [{ a: 1, b: [1, 2] }, { b: [1, 2], a: 1 }, true],
    [{ a: 1 }, { a: 2 }, false],
    [{ list: [1, 2] }, { list: [2, 1] }, false],
    // What Go clients write for fields that were not given.
    [{}, { ForceUpdate: 0, Resources: {}, Env: [], Name: "", TTY: false, Labels: null }, true],
    [{ Resources: { Limits: {} } }, {}, true],
    [{ ForceUpdate: 1 }, {}, false],
    // What is in a map is there, also when it is empty.
    [{ Labels: { a: "" } }, {}, false],
    [{ Labels: { a: "" } }, { Labels: { b: "" } }, false],
    [{ Labels: {}, Tmpfs: { "/run": "" } }, { Tmpfs: { "/run": "" } }, true],
    [{ Options: [["noexec"]] }, { Options: [["exec"]] }, false],
    // Fields whose zero is a choice.
    [{ Delay: 0 }, {}, false],
    [{ Init: false }, {}, false],
    [{ a: [1] }, { a: { 0: 1 } }, false],
    [{ a: "1" }, { a: 1 }, false],
  ];
  for (const [a, b, isSame] of cases) {
    test(`${JSON.stringify(a)} and ${JSON.stringify(b)}: ${isSame}`, () => {
      expect(isSameSpec(a, b)).toBe(isSame);
      expect(isSameSpec(b, a)).toBe(isSame);
    });
  }
});

describe("isTaskDirty()", () => {
  const view = aState({ nodes: [aNode({ id: "n1" })] }).view;
  const before = aService("web", { replicas: 1, ports: [{ TargetPort: 80, PublishedPort: 8080 }] });
  const task = aTask(before, {
    nodeId: "n1",
    ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" }],
  });
  const changed = (change: (service: typeof before) => void) => {
    const after = structuredClone({ ...before, specVersion: 2 });
    change(after);
    return isTaskDirty(view, after, task);
  };

  test("is false for the same spec and for changes that need no new container", () => {
    expect(changed(() => {})).toBe(false);
    expect(
      changed((service) => {
        service.spec.TaskTemplate.ContainerSpec.PullOptions = { RegistryAuth: "x" };
        service.spec.TaskTemplate.Runtime = "container";
        service.spec.TaskTemplate.RestartPolicy = { Condition: "any", MaxAttempts: 0 };
        service.spec.EndpointSpec = {
          Mode: "dnsrr",
          Ports: service.spec.EndpointSpec?.Ports ?? [],
        };
        service.spec.TaskTemplate.Placement = { MaxReplicas: 2 };
      }),
    ).toBe(false);
  });

  test("is true for other credentials while the image is not there yet, or could not be had", () => {
    const after = structuredClone({ ...before, specVersion: 2 });
    after.spec.TaskTemplate.ContainerSpec.PullOptions = { RegistryAuth: "x" };
    const states = ["pending", "preparing", "ready", "starting", "running", "rejected"] as const;
    const dirty = states.filter((state) =>
      isTaskDirty(view, after, { ...task, status: { ...task.status, state } }),
    );
    expect(dirty).toEqual(["pending", "preparing", "rejected"]);
  });

  test("is true for another image, other ports, a forced update, or a node that no longer fits", () => {
    const { Placement: _none, ...template } = before.spec.TaskTemplate;
    expect(changed((s) => (s.spec.TaskTemplate.ContainerSpec.Image = "busybox:2"))).toBe(true);
    expect(changed((s) => (s.spec.TaskTemplate = { ...template, ForceUpdate: 1 }))).toBe(true);
    expect(changed((s) => (s.spec.EndpointSpec = { Ports: [] }))).toBe(true);
    expect(
      changed((s) => (s.spec.EndpointSpec = { Ports: [{ TargetPort: 80, PublishedPort: 81 }] })),
    ).toBe(true);
    expect(
      changed((s) => (s.spec.TaskTemplate.Placement = { Constraints: ["node.id != n1"] })),
    ).toBe(true);
  });
});
