import { expect, test } from "bun:test";
import { parseFlowSources, strayFlowSources } from "../../../net/mesh/flows.ts";
import { planMesh } from "../../../net/mesh/plan.ts";
import { labTable } from "./lab-state.ts";

// Printed by conntrack 1.4.7; addresses changed.
const LISTING = `tcp      6 86397 ESTABLISHED src=203.0.113.9 dst=192.0.2.1 sport=40000 dport=8080 src=10.101.0.77 dst=203.0.113.9 sport=80 dport=40000 [ASSURED] mark=536870912 use=1
udp      17 20 src=203.0.113.9 dst=192.0.2.1 sport=40001 dport=9000 [UNREPLIED] src=172.17.0.2 dst=203.0.113.9 sport=9000 dport=40001 mark=0 use=1
cut off src=1`;

test("the sources of answers are those of the second tuple", () => {
  expect([...parseFlowSources(LISTING)]).toEqual(["10.101.0.77", "172.17.0.2"]);
  expect(parseFlowSources("").size).toBe(0);
});

test("stray are addresses of the cluster's networks that no task, service or gateway has", () => {
  const options = { underlayMtu: 1_500, balance: "random", hasBrNetfilter: true } as const;
  const plan = planMesh(labTable(1), new Set(), options);
  if (!plan) throw new Error("no plan");
  const task = plan.legs[0]?.split("@")[0] ?? "";
  const others = ["10.101.0.77", "172.17.0.2", "fd00::1", ""];
  const held = [task, ...plan.filter.gateways, ...plan.filter.virtualIps.map((ip) => ip.address)];
  expect(strayFlowSources(plan, [...held, ...others])).toEqual(["10.101.0.77"]);
});
