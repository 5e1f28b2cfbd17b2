import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "bun:test";
import { startAttachments } from "../../agent/attachments.ts";
import { createLogger } from "../../agent/logger.ts";
import { until } from "../net/rpc/identities.ts";
import type { AssignmentItem, AssignmentsMessage } from "../../core/dispatcher/assignment.ts";

const endpoint = (
  id: string,
  serviceId: string,
  nodeId: string,
  address: string,
): AssignmentItem => ({
  key: `endpoint/${id}`,
  kind: "endpoint",
  body: {
    taskId: id,
    serviceId,
    name: id,
    nodeId,
    addresses: [{ networkId: "net", address }],
    isReady: true,
  },
});
const complete = (...put: AssignmentItem[]): AssignmentsMessage => ({
  type: "complete",
  generation: 1,
  put,
  removed: [],
});

test("gives back what the engine made nothing of, and what it made once that is gone", async () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-attach-"));
  const engineSocket = join(dir, "engine.sock");
  const server = Bun.serve({ unix: engineSocket, fetch: () => Response.json([]) });
  const asked: unknown[] = [];
  const attachments = startAttachments({
    nodeId: () => "n1",
    engineSocket,
    ask: async (_method, params) => {
      asked.push(params);
      return {};
    },
    log: createLogger("silent"),
  });
  attachments.settle("failed", false);
  expect(asked).toEqual([{ ids: ["failed"] }]);
  attachments.take(
    complete(endpoint("made", "", "n1", "10.0.1.2"), endpoint("being made", "", "n1", "10.0.1.3")),
  );
  attachments.settle("made", true);
  attachments.containerGone();
  await until("the address is given back", () => asked.length === 2);
  expect(asked[1]).toEqual({ ids: ["made"] });
  attachments.stop();
  await server.stop(true);
  rmSync(dir, { recursive: true });
});

test("gives back the addresses that no container of this node has, and no others", async () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-attach-"));
  const engineSocket = join(dir, "engine.sock");
  const containers = [
    { NetworkSettings: { Networks: { shop: { IPAddress: "10.0.1.2" } } } },
    // Stopped: only its configuration has the address.
    { NetworkSettings: { Networks: { shop: { IPAMConfig: { IPv4Address: "10.0.1.3" } } } } },
  ];
  const server = Bun.serve({ unix: engineSocket, fetch: () => Response.json(containers) });
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const attachments = startAttachments({
    nodeId: () => "n1",
    engineSocket,
    ask: async (method, params) => {
      resolve([method, params]);
      return {};
    },
    log: createLogger("silent"),
    checkPeriodMs: 5,
    graceMs: 0,
  });
  attachments.take(
    complete(
      endpoint("running", "", "n1", "10.0.1.2"),
      endpoint("stopped", "", "n1", "10.0.1.3"),
      endpoint("gone", "", "n1", "10.0.1.4"),
      endpoint("elsewhere", "", "n2", "10.0.1.5"),
      endpoint("task", "service", "n1", "10.0.1.6"),
    ),
  );
  expect(await promise).toEqual(["detach", { ids: ["gone"] }]);
  attachments.stop();
  await server.stop(true);
  rmSync(dir, { recursive: true });
});

test("a network of a local driver is used while a container of a user is on it", async () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-attach-"));
  const engineSocket = join(dir, "engine.sock");
  const task = { Labels: { "shoal.task.id": "t1" }, NetworkSettings: { Networks: { mv: {} } } };
  const containers: object[] = [task, { NetworkSettings: { Networks: { mv: {} } } }];
  const networks = [{ Id: "d1", Name: "mv", Labels: { "shoal.network.id": "mv1" } }];
  const server = Bun.serve({
    unix: engineSocket,
    fetch: ({ url }) => Response.json(url.endsWith("/networks") ? networks : containers),
  });
  const asked: unknown[] = [];
  let passes = 0;
  const attachments = startAttachments({
    nodeId: () => "n1",
    engineSocket,
    ask: async (method, params) => {
      asked.push([method, params]);
      return { id: "a1", networkName: "mv", address: "", gateway: "" };
    },
    log: createLogger("silent"),
    checkPeriodMs: 5,
    graceMs: 0,
  });
  const item = endpoint("a1", "", "n1", "");
  if (item.kind === "endpoint") Object.assign(item.body, { addresses: [], localNetworkId: "mv1" });
  attachments.take(complete(item));
  await attachments.attach({ network: "mv", name: "", aliases: [] });
  // One that could not be made: the other one still uses it.
  attachments.settle("a1", false);
  await until("some looks", () => ++passes > 10);
  expect(asked).toHaveLength(1);
  containers.pop();
  await until("it is given back", () => asked.length > 1);
  expect(asked[1]).toEqual(["detach", { ids: ["a1"] }]);
  attachments.stop();
  await server.stop(true);
  rmSync(dir, { recursive: true });
});
