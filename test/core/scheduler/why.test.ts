import { describe, expect, test } from "bun:test";
import type { NodeObject } from "../../../core/objects/node.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import { FILTERS } from "../../../core/scheduler/filters.ts";
import { verdictsOn } from "../../../core/scheduler/why.ts";
import { aNetwork, aNode, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

/** `<host>: <filter> | <text> | <fix>`, a line each, for a pending task of the service. */
function why(
  service: Service,
  nodes: NodeObject[],
  given: { over?: Partial<Task>; others?: [Service, Task[]] } = {},
): string[] {
  const task = aTask(service, { id: "t", state: "pending", ...given.over });
  const [other, tasks] = given.others ?? [undefined, []];
  const services = other && other !== service ? [service, other] : [service];
  const { view } = aState({ nodes, services, tasks: [task, ...tasks] });
  return verdictsOn(view, task, START_MS).flatMap(({ hostname, reasons }) =>
    reasons.length === 0
      ? [`${hostname}: free`]
      : reasons.map(({ filter, text, fix }) => `${hostname}: ${filter} | ${text} | ${fix}`),
  );
}
const GIB = 2 ** 30;

describe("verdictsOn()", () => {
  test("tells of each node that is away or not to be used how to change that", () => {
    const nodes = [
      aNode({ id: "n1", state: "down" }),
      aNode({ id: "n2", availability: "drain" }),
      aNode({ id: "n3" }),
    ];
    expect(why(aService("web"), nodes)).toEqual([
      "host-n3: free",
      "host-n1: ready | it is down | bring host-n1 and its agent back, or docker node rm it",
      "host-n2: ready | its availability is drain | docker node update --availability active host-n2",
    ]);
  });

  test("tells of a stateful slot's home only, and that it can be moved", () => {
    const db: Service = {
      ...aService("db", { replicas: 1, labels: { "shoal.stateful": "true" } }),
      slots: { 1: { nodeId: "n2" } },
    };
    const nodes = [aNode({ id: "n1" }), aNode({ id: "n2", availability: "drain" })];
    expect(why(db, nodes)).toEqual([
      "host-n2: home | slot 1 lives here, and goes nowhere else | give the slot another home (shoal slots move db 1 --node NODE)",
      "host-n2: ready | its availability is drain | docker node update --availability active host-n2",
    ]);
    expect(why(db, [aNode({ id: "n1" }), aNode({ id: "n2" })])).toEqual(["host-n2: free"]);
  });

  test("tells what is reserved, free and there at all", () => {
    const web = aService("web", { reserve: { cpus: 3, memoryBytes: 6 * GIB } });
    const other = aService("other", { reserve: { cpus: 2 } });
    const nodes = [aNode({ id: "n1" }), aNode({ id: "n2", memoryBytes: 4 * GIB })];
    expect(why(web, nodes, { others: [other, [aTask(other, { nodeId: "n1" })]] })).toEqual([
      "host-n1: resources | CPU: 3 reserved by the task, 2 free of 4 | reserve 2 or less (--reserve-cpu), or move other services off host-n1",
      "host-n2: resources | memory: 6144 MiB reserved by the task, 4096 MiB free of 4096 MiB | reserve 4096 MiB or less (--reserve-memory), or add a larger node",
    ]);
  });

  test("tells each constraint that does not hold, and the command that makes it hold", () => {
    const Constraints = ["node.labels.zone==a", "node.role==manager", "node.labels.old!=yes"];
    const web = aService("web", { placement: { Constraints } });
    const nodes = [
      aNode({ id: "n1", labels: { zone: "b", old: "yes" } }),
      aNode({ id: "n2", labels: { zone: "a" } }),
    ];
    expect(why(web, nodes)).toEqual([
      "host-n2: constraint | node.role==manager: it has worker | docker node promote host-n2",
      "host-n1: constraint | node.labels.zone==a: it has b | docker node update --label-add zone=a host-n1",
      "host-n1: constraint | node.role==manager: it has worker | docker node promote host-n1",
      "host-n1: constraint | node.labels.old!=yes: it has yes | docker node update --label-rm old host-n1",
    ]);
    const odd = aService("odd", { placement: { Constraints: ["node.nonsense==a"] } });
    expect(why(odd, nodes)[0]).toContain("there is no such attribute | correct node.nonsense");
  });

  test("tells the platform, the port's holder and the limit of replicas", () => {
    const web = aService("web", {
      placement: { MaxReplicas: 1, Platforms: [{ Architecture: "arm64", OS: "linux" }] },
    });
    const ports = [
      { Protocol: "tcp", TargetPort: 80, PublishedPort: 80, PublishMode: "host" as const },
    ];
    const held = aTask(web, { id: "held", nodeId: "n1", ports });
    expect(
      why(web, [aNode({ id: "n1" })], { over: { ports, slot: 2 }, others: [web, [held]] }),
    ).toEqual([
      "host-n1: platform | it is linux/x86_64, the image is for linux/arm64 | use an image for this platform too, or --no-resolve-image if it has one",
      "host-n1: host-port | port 80/tcp of the host is web.1.held's | publish another port, use mode ingress, or fewer replicas than nodes",
      "host-n1: max-replicas | it has 1 of at most 1 tasks of the service | raise --replicas-max-per-node above 1, or add a node",
    ]);
  });

  test("tells why a node cannot carry an encrypted network, and how it could", () => {
    const net = aNetwork("net");
    const networks = [{ ...net, spec: { ...net.spec, Options: { encrypted: "" } } }];
    const web = aService("web");
    const lack = "kernel lacks ESP: load module esp4";
    const node = { ...aNode({ id: "n1" }), encryption: { lack, generations: [], keyIds: [] } };
    const task = aTask(web, {
      id: "t",
      state: "pending",
      networks: [{ networkId: "net", aliases: [] }],
    });
    const { view } = aState({ nodes: [node], networks, services: [web], tasks: [task] });
    const [verdict] = verdictsOn(view, task, START_MS);
    expect(verdict?.reasons).toEqual([
      {
        filter: "encryption",
        text: `it cannot carry encrypted networks: ${lack}`,
        fix: "modprobe esp4 on host-n1, and have it loaded at boot (/etc/modules-load.d); or a network without --opt encrypted",
      },
    ]);
  });

  test("looks at the own node only of a task that is bound to it", () => {
    const nodes = [aNode({ id: "n1" }), aNode({ id: "n2", state: "down" })];
    expect(why(aService("all"), nodes, { over: { nodeId: "n2" } })).toHaveLength(1);
  });

  test("has words of its own for every filter of the scheduler", () => {
    expect(FILTERS.map((filter) => filter.name)).toEqual([
      "ready",
      "resources",
      "plugin",
      "encryption",
      "constraint",
      "platform",
      "host-port",
      "max-replicas",
    ]);
  });
});
