import { expect, test } from "bun:test";
import type { CommandResult } from "../../../net/mesh/backend.ts";
import { planMesh } from "../../../net/mesh/plan.ts";
import { kernelRouting } from "../../../net/mesh/routing.ts";
import { applyAssignments, emptyTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "./ipv6-lab.ts";
import { labTable } from "./lab-state.ts";

const OPTIONS = { underlayMtu: 1500, balance: "random", hasBrNetfilter: true } as const;
const OPEN = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n";

/** A host on which nothing is yet, and what it was asked; `answers` by the command's beginning. */
function recordingHost(answers: Record<string, string> = {}) {
  const asked: { line: string; stdin: string | undefined }[] = [];
  const run = async (argv: string[], stdin?: string): Promise<CommandResult> => {
    const line = argv.join(" ");
    asked.push({ line, stdin });
    const found = Object.entries(answers).find(([start]) => line.startsWith(start));
    const stdout = found?.[1] ?? (argv.includes("-S") ? OPEN : "");
    return { code: 0, stdout, stderr: "" };
  };
  return { run, asked };
}
const isSix = ({ line }: { line: string }) => line.includes("-6") || line.includes("ip6tables");

test("while no network has IPv6 no command of it is run", async () => {
  const { run, asked } = recordingHost();
  const routing = kernelRouting(run);
  const plan = planMesh(labTable(1), new Set(), OPTIONS);
  if (!plan) throw new Error("no plan");
  const found = await routing.observe(false);
  await routing.apply(plan, found, async () => {});
  await routing.mendSysctls(plan, await routing.interfaces());
  await routing.mendFirewall(4789, [], false);
  expect(asked.length).toBeGreaterThan(5);
  expect(asked.filter(isSix)).toEqual([]);
  expect(asked.filter(({ line }) => line.includes("ipv6"))).toEqual([]);
});

test("IPv6 is made after the device is allowed it, and before the filter refers to it", async () => {
  const { run, asked } = recordingHost();
  const routing = kernelRouting(run);
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });
  const plan = planMesh(table, new Set(), OPTIONS);
  if (!plan) throw new Error("no plan");
  const found = await routing.observe(true);
  asked.length = 0;
  await routing.apply(plan, found, async () => {
    asked.push({ line: "filter", stdin: undefined });
  });
  const order = asked.map(({ line }) => line);
  const place = (start: string) => order.findIndex((line) => line.startsWith(start));
  expect(place("ip -force")).toBeLessThan(place("sysctl"));
  expect(order[place("sysctl")]).toContain("shmesh.disable_ipv6=0");
  expect(place("sysctl")).toBeLessThan(place("ip -6 -force"));
  expect(place("ip -6 -force")).toBeLessThan(place("filter"));
});

test("what an earlier run left of IPv6 is seen without being asked for", async () => {
  const shmesh = {
    ifname: "shmesh",
    ifindex: 4,
    flags: ["UP"],
    addr_info: [{ family: "inet6", local: "fd73:686f:616c::aff:ff01", prefixlen: 128 }],
  };
  const { run } = recordingHost({ "ip -j -d addr": JSON.stringify([shmesh]) });
  const { six } = await kernelRouting(run).observe(false);
  expect([...(six?.addresses.keys() ?? [])]).toEqual(["fd73:686f:616c::aff:ff01/128 dev shmesh"]);
});

test("ip6tables is asked only where IPv6 is, and once more at its end", async () => {
  const { run, asked } = recordingHost({
    "ip6tables -w -S": "-P INPUT DROP\n-P FORWARD ACCEPT\n",
  });
  const routing = kernelRouting(run);
  expect(await routing.mendFirewall(4789, [], true)).toBeGreaterThan(0);
  expect(asked.map(({ line }) => line)).toContain(
    "ip6tables -w -I INPUT 1 -i sh+ -p ipv6-icmp -j ACCEPT",
  );
  asked.length = 0;
  await routing.mendFirewall(4789, [], false);
  expect(asked.filter(isSix)).toHaveLength(1);
  asked.length = 0;
  await routing.mendFirewall(4789, [], false);
  expect(asked.filter(isSix)).toEqual([]);
});
