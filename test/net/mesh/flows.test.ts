import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { commandRunner } from "../../../net/mesh/backend.ts";
import { flowSource, kernelFlows, strayFlowSources } from "../../../net/mesh/flows.ts";
import { planMesh } from "../../../net/mesh/plan.ts";
import { labTable } from "./lab-state.ts";

test("stray are addresses of the cluster's networks that no task, service or gateway has", () => {
  const options = { underlayMtu: 1_500, balance: "random", hasBrNetfilter: true } as const;
  const plan = planMesh(labTable(1), new Set(), options);
  if (!plan) throw new Error("no plan");
  const task = plan.legs[0]?.split("@")[0] ?? "";
  const others = ["10.101.0.77", "172.17.0.2", "fd00::1", ""];
  const held = [task, ...plan.filter.gateways, ...plan.filter.virtualIps.map((ip) => ip.address)];
  expect(strayFlowSources(plan, [...held, ...others])).toEqual(["10.101.0.77"]);
});

const NAMESPACE = `shoal-flows-${process.pid}`;
const run = commandRunner(["nsenter", `--net=/run/netns/${NAMESPACE}`]);
const must = async (argv: string[]) => {
  const result = await run(argv);
  if (result.code !== 0) throw new Error(`${argv.join(" ")}: ${result.stderr}`);
  return result.stdout;
};
type Made = { from: string; to: string; task: string; port: number; zone?: number };
/** A translated connection, as an agent's rules would have made it. */
const insert = ({ from, to, task, port, zone }: Made) => {
  const ends = `-s ${from} -d ${to} --sport ${port} --dport 8080`;
  const reply = `-r ${task} -q ${from} --reply-port-src 80 --reply-port-dst ${port}`;
  const where = zone === undefined ? "" : ` --orig-zone ${zone}`;
  const line = `conntrack -I -p tcp --state ESTABLISHED -u ASSURED -t 300 ${ends} ${reply} --dst-nat ${task}`;
  return must((line + where).split(" "));
};
/** Client ports of the flows that are answered from `task`. */
const portsTo = async (task: string) => {
  const family = task.includes(":") ? "ipv6" : "ipv4";
  const listing = await must(["conntrack", "-L", "-f", family, "--reply-src", task]);
  return [...listing.matchAll(/sport=(\d+) dport=8080/g)].map(([, port]) => Number(port));
};

describe.skipIf(process.getuid?.() !== 0 || !Bun.which("conntrack"))("the kernel's flows", () => {
  const six = { from: "fd09::9", to: "fd02::1" };
  const four = { from: "203.0.113.9", to: "192.0.2.1" };
  const flows = kernelFlows(`/run/netns/${NAMESPACE}`);
  beforeAll(async () => {
    const made = Bun.spawnSync(["ip", "netns", "add", NAMESPACE]);
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
  });
  afterAll(async () => {
    await flows.close();
    Bun.spawnSync(["ip", "netns", "del", NAMESPACE]);
  });

  test("those of one task are found and forgotten, of either family and in any zone", async () => {
    await insert({ ...four, task: "10.101.0.5", port: 40_000 });
    await insert({ ...four, task: "10.101.0.5", port: 40_001, zone: 7 });
    await insert({ ...four, task: "10.101.0.50", port: 40_002 });
    await insert({ ...six, task: "fd01::5", port: 40_003 });
    await insert({ ...six, task: "fd01::50", port: 40_004 });
    expect(await flows.translatedSources()).toEqual(new Set(["10.101.0.5", "10.101.0.50"]));
    const found = await flows.find(new Set(["10.101.0.5", "fd01::5", "10.101.0.99"]));
    expect(found.map(flowSource).sort()).toEqual(["10.101.0.5", "10.101.0.5", "fd01::5"]);
    expect(await flows.forget(found)).toBe(3);
    expect(await portsTo("10.101.0.5")).toEqual([]);
    expect(await portsTo("10.101.0.50")).toEqual([40_002]);
    expect(await portsTo("fd01::5")).toEqual([]);
    expect(await portsTo("fd01::50")).toEqual([40_004]);
  });

  test("a client's next flow from the same port to another task is left alone", async () => {
    const client = { ...four, port: 41_000 };
    await insert({ ...client, task: "10.101.0.6" });
    const found = await flows.find(new Set(["10.101.0.6"]));
    expect(found).toHaveLength(1);
    await must(["conntrack", "-D", "--reply-src", "10.101.0.6"]);
    await insert({ ...client, task: "10.101.0.7" });
    expect(await flows.forget(found)).toBe(0);
    expect(await portsTo("10.101.0.7")).toEqual([41_000]);
  });

  test("UDP that began while nobody was behind a port is found by address and port, and nothing else", async () => {
    const udp = (to: string, port: number, task: string, dport: number) =>
      must(
        `conntrack -I -p udp -t 300 -s 203.0.113.9 -d ${to} --sport ${port} --dport ${dport} -r ${task} -q 203.0.113.9 --reply-port-src ${dport} --reply-port-dst ${port}`.split(
          " ",
        ),
      );
    await udp("192.0.2.1", 43_000, "192.0.2.1", 9_000);
    await udp("192.0.2.1", 43_001, "10.101.0.5", 9_000);
    await udp("192.0.2.1", 43_002, "192.0.2.1", 9_001);
    await udp("192.0.2.7", 43_003, "192.0.2.7", 9_000);
    await insert({ ...four, task: "192.0.2.1", port: 43_004 });
    const wanted = { addresses: new Set(["c0000201"]), ports: new Set([9_000, 8_080]) };
    const found = await flows.findUntranslatedUdp({ ...wanted, family: "ipv4" });
    expect(found.map(({ askedPort, asked }) => `${asked}:${askedPort}`)).toEqual(["c0000201:9000"]);
    expect(await flows.forget(found)).toBe(1);
    expect(await flows.findUntranslatedUdp({ ...wanted, family: "ipv4" })).toEqual([]);
  });

  test("more than one datagram of them are all forgotten", async () => {
    const lines = Array.from({ length: 300 }, (_, i) => 42_000 + i);
    for (const port of lines) await insert({ ...four, task: "10.101.0.8", port });
    // So many addresses are not asked for one by one.
    const many = Array.from({ length: 20 }, (_, i) => `10.101.0.${8 + i}`);
    expect(await flows.forget(await flows.find(new Set(many)))).toBe(lines.length);
    expect(await portsTo("10.101.0.8")).toEqual([]);
  });
});
