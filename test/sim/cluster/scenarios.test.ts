/**
 * What seeds of the control-plane simulator have found, each as a story of its own. A story is told with a
 * few seeds, since which manager is asked first and who leads is theirs to decide.
 */
import "reflect-metadata";
import { describe, expect, test } from "bun:test";
import { newId } from "../../../core/ids.ts";
import type { NodeRole } from "../../../core/objects/node.ts";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import { START_FIRST_LABEL } from "./checkers/slots.ts";
import { networkAction, type Session, write } from "./clients.ts";
import { type ClusterFaults, QUIET } from "./faults.ts";
import type { SimHost } from "./host.ts";
import { type ScenarioControl, simulateCluster } from "./simulate.ts";

const SEEDS = [1, 2, 3, 4, 5];
/** Of a scenario, which takes a second or so by itself. */
const TIMEOUT_MS = 60_000;

function scenario(
  title: string,
  script: (control: ScenarioControl) => void,
  faults: Partial<ClusterFaults> = {},
): void {
  test(title, { timeout: TIMEOUT_MS }, () => {
    for (const seed of SEEDS) {
      const { violations } = simulateCluster({ seed, faults: { ...QUIET, ...faults }, script });
      expect({ seed, violations }).toEqual({ seed, violations: [] });
    }
  });
}

function setRole(host: SimHost, Role: NodeRole) {
  return async ({ manager }: Session) => {
    const id = host.identity?.nodeId ?? "";
    const node = await manager.read((view) => view.node(id));
    if (!node || node.spec.Role === Role) return;
    const set = { spec: { ...node.spec, Role } };
    await manager.propose([{ type: "update", table: "node", id, set, ifVersion: node.version }]);
  };
}

const aSpec = (over: Partial<ServiceSpec>, image: string, constraint?: string): ServiceSpec => ({
  Name: "web",
  Mode: { Replicated: { Replicas: 2 } },
  TaskTemplate: {
    ContainerSpec: { Image: image },
    RestartPolicy: { Delay: 8e9 },
    ...(constraint === undefined ? {} : { Placement: { Constraints: [constraint] } }),
  },
  ...over,
});

/** Creates the service, or gives it this spec. */
function deploy(spec: ServiceSpec) {
  return async ({ manager, random }: Session) => {
    const service = await manager.read((view) => view.serviceByName(spec.Name));
    if (!service) {
      await manager.propose([
        { type: "create", table: "service", object: { id: newId(random), spec } },
      ]);
      return;
    }
    await manager.propose([
      {
        type: "update",
        table: "service",
        id: service.id,
        ifVersion: service.version,
        set: { spec, previousSpec: service.spec, previousSpecVersion: service.specVersion },
        unset: ["updateStatus"],
      },
    ]);
  };
}

describe("Cluster: dispatcher", () => {
  scenario("the last message before a long silence is dropped, and comes all the same", (c) => {
    c.at(5_000, () => {
      c.faults.noteDropRate = 1;
      const subnet = { subnet: "10.9.0.0/24", gateway: "10.9.0.1" };
      c.user(async ({ manager, random }) => {
        await manager.propose([networkAction(random, "late", subnet, 5_000)]);
      });
    });
    c.at(7_000, () => {
      c.faults.noteDropRate = 0;
    });
  });
});

describe("Cluster: proposals", () => {
  scenario(
    "one whose answer is lost on the way from a slow leader is applied once, and said so",
    (c) => {
      for (let round = 0; round < 60; round++) {
        c.at(5_000 + round * 200, () => {
          c.user(async (session) => {
            const mode = { Replicated: { Replicas: 0 } };
            const spec = { ...aSpec({}, "app:1"), Name: `web${round}`, Mode: mode };
            const object = { id: newId(session.random), spec };
            await write(session, [{ type: "create", table: "service", object }]);
          });
        });
        c.at(5_010 + round * 200, () => c.breakConnections(10));
      }
      c.at(18_000, () => {
        c.faults.fsyncMsMax = 1;
      });
    },
    { managerCount: 5, fsyncMsMax: 700 },
  );
});

describe("Cluster: roles", () => {
  scenario("a node follows its demotion although a manager that it asks is behind", (c) => {
    c.at(5_000, () => {
      const leader = c.leader();
      const [behind, demoted] = [c.host(1), c.host(2), c.host(3)].filter((h) => h !== leader);
      if (!leader || !behind || !demoted) throw new Error("There is no leader yet");
      c.cut(leader, behind, 800);
      c.user(setRole(demoted, "worker"));
    });
  });

  scenario("a manager taken out and promoted again while it was away is a member again", (c) => {
    const away = c.host(3);
    c.at(4_000, () => c.crash(away));
    c.at(10_000, () => c.user(setRole(away, "worker")));
    c.at(13_000, () => c.user(setRole(away, "manager")));
    c.at(16_000, () => c.start(away));
  });

  for (const delayMs of [10, 30, 60, 120]) {
    scenario(`a demotion taken back after ${delayMs} ms leaves a member`, (c) => {
      c.at(5_000, () => c.user(setRole(c.host(3), "worker")));
      c.at(5_000 + delayMs, () => c.user(setRole(c.host(3), "manager")));
    });
  }

  scenario("a manager that returns finds the one that leads now, which joined meanwhile", (c) => {
    const [away, newcomer] = [c.host(3), c.host(4)];
    c.at(4_000, () => c.crash(away));
    c.at(5_000, () => c.user(setRole(newcomer, "manager")));
    c.at(10_000, () => {
      const handOver = async () => {
        await c.leader()?.life?.manager()?.transferLeadership(newcomer.identity?.nodeId);
      };
      const { life } = c.leader() ?? {};
      if (life) c.user(async () => handOver());
    });
    c.at(14_000, () => c.start(away));
  });
});

describe("Cluster: services", () => {
  const startFirst = {
    Labels: { [START_FIRST_LABEL]: "1" },
    UpdateConfig: { Order: "start-first", Parallelism: 0 },
  } as const;

  scenario(
    "start-first updates in a row leave one old task a slot while the newest has no place",
    (c) => {
      c.at(3_000, () => c.user(deploy(aSpec(startFirst, "app:1"))));
      c.at(8_000, () => c.user(deploy(aSpec(startFirst, "app:2"))));
      c.at(8_150, () => c.user(deploy(aSpec(startFirst, "app:3", "node.labels.zone==nowhere"))));
    },
  );

  scenario("a task that waits for a place is replaced when its service asks for less", (c) => {
    c.at(3_000, () => c.user(deploy(aSpec({}, "app:1", "node.labels.zone==nowhere"))));
    c.at(6_000, () => c.user(deploy(aSpec({}, "app:1"))));
  });

  scenario(
    "a plan that is long in coming is not made twice",
    (c) => {
      for (let round = 0; round < 30; round++) {
        const spec = { ...aSpec({}, "app:1"), Name: `s${round}` };
        c.at(5_000 + round * 1_500, () => c.user(deploy(spec)));
      }
      c.at(60_000, () => {
        c.faults.threadDelayMsMax = 0.3;
      });
    },
    { managerCount: 1, workerCount: 2, threadDelayMsMax: 2_600, safetyMs: 61_000 },
  );

  scenario(
    "a task that has ended stays so, although a power cut takes its node's memory of it",
    (c) => {
      const worker = c.host(4);
      c.at(3_000, () => c.user(deploy(aSpec({}, "app:1", "node.role==worker"))));
      for (let round = 0; round < 8; round++) {
        const atMs = 5_000 + round * 1_600;
        c.at(atMs, () => c.user(deploy(aSpec({}, `app:${round}`, "node.role==worker"))));
        c.at(atMs + 600 + round * 40, () => c.powerCut(worker));
        c.at(atMs + 1_200, () => c.start(worker));
      }
    },
    { stateLossRate: 1 },
  );

  scenario(
    "the restart delay holds although a later leader's clock is behind",
    (c) => {
      // The task of the first leader is then newer, by its time, than the one that takes its place.
      c.at(4_900, () => {
        for (const number of [1, 2, 3]) {
          c.host(number).clock.offsetMs = c.host(number) === c.leader() ? 1_000 : -1_000;
        }
        c.user(deploy(aSpec({}, "app:1")));
      });
      c.at(5_500, () => c.user(async () => c.leader()?.life?.manager()?.transferLeadership()));
      c.at(5_900, () => c.user(deploy(aSpec({ UpdateConfig: { Parallelism: 0 } }, "app:2"))));
      c.at(8_000, () => {
        for (const number of [1, 2, 3, 4]) c.host(number).engine.endOne();
      });
    },
    { clockSkewMsMax: 2_000 },
  );
});
