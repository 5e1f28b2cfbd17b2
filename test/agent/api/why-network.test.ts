import { expect, test } from "bun:test";
import { listenerNotes, meshPortsOf } from "../../../agent/api/why-network.ts";
import type { NetFinding, NetReport } from "../../../net/rpc/methods.ts";
import { aService } from "../../fixtures/cluster.ts";

const finding = (check: string, about: string): NetFinding => ({
  check,
  about,
  severity: "error",
  count: 1,
  seen: `nginx listens on ${about}`,
  fix: "stop it",
});
const report: NetReport = {
  scope: "cluster",
  cluster: [],
  nodes: [
    {
      nodeId: "n1",
      hostname: "h1",
      findings: [finding("listeners", "80/tcp"), finding("listeners", "81/tcp")],
    },
    {
      nodeId: "n2",
      hostname: "h2",
      findings: [finding("ports", "80/tcp")],
    },
  ],
  checks: 3,
  warnings: 0,
  errors: 3,
};

test("a program that listens on a port of the service is named with its node", () => {
  expect(listenerNotes(report, [80, 443])).toEqual(["h1: nginx listens on 80/tcp: stop it"]);
  expect(listenerNotes(report, [443])).toEqual([]);
});

test("the ports of every node are those of TCP in ingress mode", () => {
  const port = { Protocol: "tcp", TargetPort: 80, PublishedPort: 8_080, PublishMode: "ingress" };
  const service = aService("web");
  service.endpoint = {
    specVersion: 1,
    mode: "vip",
    virtualIps: [],
    ports: [
      {
        ...port,
        Protocol: "tcp",
        PublishMode: "ingress",
      },
      {
        ...port,
        Protocol: "udp",
        PublishMode: "ingress",
        PublishedPort: 53,
      },
      {
        ...port,
        Protocol: "tcp",
        PublishMode: "host",
        PublishedPort: 90,
      },
    ],
  };
  expect(meshPortsOf(service)).toEqual([8_080]);
  expect(meshPortsOf(aService("none"))).toEqual([]);
});
