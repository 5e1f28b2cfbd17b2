import { describe, expect, test } from "bun:test";
import type { RunCommand } from "../../../net/mesh/backend.ts";
import { ipvsBackend, ipvsSysctls } from "../../../net/mesh/ipvs.ts";
import { encodeIpvsCommand, type Ipvs } from "../../../net/mesh/ipvs-netlink.ts";
import {
  diffIpvs,
  type IpvsCommand,
  type IpvsService,
  renderIpvs,
} from "../../../net/mesh/ipvs-services.ts";
import { ipvsAddressMark, ipvsPortMark } from "../../../net/mesh/names.ts";
import { parseAttributes } from "../../../net/mesh/netlink.ts";
import { randomPlan } from "./random-plan.ts";

const SEEDS = Array.from({ length: 100 }, (_, seed) => seed);
type State = Map<number, { mark: number; scheduler: string; targets: Map<string, number> }>;

/** What the kernel does with the commands; throws where it would refuse. */
function execute(state: State, commands: readonly IpvsCommand[]): void {
  for (const command of commands) {
    const service = state.get(command.mark);
    if (command.kind === "add-service") {
      if (service) throw new Error("EEXIST");
      state.set(command.mark, { ...command, targets: new Map() });
      continue;
    }
    if (!service) throw new Error("ESRCH");
    if ("scheduler" in command) service.scheduler = command.scheduler;
    else if (!("target" in command)) state.delete(command.mark);
    else {
      const isThere = service.targets.has(command.target);
      if (isThere === (command.kind === "add-target")) throw new Error(command.kind);
      if ("weight" in command) service.targets.set(command.target, command.weight);
      else service.targets.delete(command.target);
    }
  }
}
const plain = (services: ReadonlyMap<number, IpvsService>) =>
  [...services].map(([mark, { scheduler, targets }]) => [
    mark,
    scheduler,
    [...targets].sort(([a], [b]) => (a < b ? -1 : 1)),
  ]);
const sorted = (services: ReadonlyMap<number, IpvsService>) =>
  plain(services).sort((a, b) => Number(a[0]) - Number(b[0]));

describe("IPVS services", () => {
  test("the change from any plan to any other, on what the first gave, gives the second", () => {
    for (const seed of SEEDS) {
      const before = renderIpvs(randomPlan(seed, 0));
      const after = renderIpvs(randomPlan(seed, 1));
      const state: State = new Map();
      execute(state, diffIpvs(new Map(), before).commands);
      expect(sorted(state)).toEqual(sorted(before));
      const { commands, removals } = diffIpvs(state, after);
      execute(state, [...commands, ...removals]);
      expect(sorted(state)).toEqual(sorted(after));
    }
  });

  test("a task that is not ready stays with weight 0, so that its connections go on", () => {
    const plan = randomPlan(1, 0);
    const virtualIp = {
      serviceId: "service-web",
      hasAffinity: false,
      bridge: "sh00000000",
      address: "10.101.0.2",
      chain: "x",
      targets: ["10.101.0.21"],
      unready: ["10.101.0.22"],
    };
    const services = renderIpvs({ ...plan, virtualIps: [virtualIp], ports: [] });
    expect(services.get(0x4a65_0002)?.targets).toEqual(
      new Map([
        ["10.101.0.21:0", 1],
        ["10.101.0.22:0", 0],
      ]),
    );
  });

  test("marks of addresses and ports differ, and have the bits by which the filter knows them", () => {
    expect(ipvsAddressMark("10.101.0.2")).toBe(0x4a65_0002);
    expect(ipvsPortMark({ protocol: "tcp", publishedPort: 8080 })).toBe(0x6006_1f90);
    expect(ipvsPortMark({ protocol: "sctp", publishedPort: 65_535 })).toBe(0x6084_ffff);
    expect(ipvsAddressMark("192.168.0.1")).not.toBe(ipvsAddressMark("172.16.0.1"));
  });

  test("a command is encoded as the kernel's interface has it", () => {
    const body = encodeIpvsCommand({
      kind: "add-target",
      mark: 0x4a65_0002,
      target: "10.101.0.21:80",
      weight: 1,
    });
    const outer = parseAttributes(body);
    const service = parseAttributes(outer.get(1) ?? Buffer.alloc(0));
    const target = parseAttributes(outer.get(2) ?? Buffer.alloc(0));
    expect(service.get(5)?.toString("hex")).toBe("0200654a");
    expect(target.get(1)?.toString("hex")).toBe(`0a650015${"00".repeat(12)}`);
    expect(target.get(2)?.toString("hex")).toBe("0050");
    expect(target.get(4)?.readUInt32LE(0)).toBe(1);
  });
});

/** A kernel with IPVS and an iptables that takes everything. */
function fakeHost() {
  const state: State = new Map();
  const log: string[] = [];
  const saved = { timeouts: { tcpS: 900, finS: 120, udpS: 300 }, refusals: 0 };
  const ipvs: Ipvs = {
    services: () => [...state.values()],
    targets: (mark) => new Map(state.get(mark)?.targets),
    execute: (commands) => {
      if (commands.length > 0) log.push(commands.map(({ kind }) => kind).join(" "));
      if (saved.refusals > 0) {
        saved.refusals -= 1;
        throw new Error("refused");
      }
      execute(state, commands);
    },
    timeouts: () => saved.timeouts,
    setTimeouts: (timeouts) => {
      saved.timeouts = timeouts;
    },
    close: () => undefined,
  };
  const run: RunCommand = async (argv) => {
    if (argv[0] === "iptables-restore") log.push("chains");
    const stdout = argv.includes("-S") ? "-A SI-POST -j MASQUERADE" : "";
    return { code: 0, stdout, stderr: "" };
  };
  return { state, log, saved, backend: ipvsBackend(run, () => ipvs) };
}

describe("IPVS back-end", () => {
  test("programs services before chains, and only what differs after that", async () => {
    const { state, log, saved, backend } = fakeHost();
    const plan = randomPlan(7, 0);
    await backend.apply(plan);
    expect(log.at(-1)).toBe("chains");
    expect(sorted(state)).toEqual(sorted(renderIpvs(plan)));
    expect(saved.timeouts.tcpS).toBe(432_000);
    log.length = 0;
    const first = plan.virtualIps.find(({ targets }) => targets.length > 1);
    if (!first) throw new Error("no service with two tasks");
    const next = {
      ...plan,
      virtualIps: plan.virtualIps.map((vip) =>
        vip === first
          ? { ...vip, targets: vip.targets.slice(1), unready: vip.targets.slice(0, 1) }
          : vip,
      ),
    };
    await backend.apply(next);
    // One message, no process.
    expect(log).toEqual(["set-target"]);
    await backend.apply(next);
    expect(log).toHaveLength(1);
  });

  test("any sequence of plans leaves what the last one wants", async () => {
    const { state, backend } = fakeHost();
    for (const seed of [1, 2, 3, 2, 5]) {
      for (const change of [0, 1, 2]) {
        await backend.apply(randomPlan(seed, change));
        expect(sorted(state)).toEqual(sorted(renderIpvs(randomPlan(seed, change))));
        expect(await backend.mend()).toMatchObject({ ipvs: 0 });
      }
    }
  });

  test("a refused change is followed by a comparison with the kernel", async () => {
    const { state, saved, backend } = fakeHost();
    await backend.apply(randomPlan(1, 0));
    saved.refusals = 1;
    state.clear();
    await backend.apply(randomPlan(1, 1));
    expect(sorted(state)).toEqual(sorted(renderIpvs(randomPlan(1, 1))));
  });

  test("what others change is mended and counted, others' services are left alone", async () => {
    const { state, saved, backend } = fakeHost();
    const plan = randomPlan(2, 0);
    await backend.apply(plan);
    const [service] = [...state.values()].filter(({ targets }) => targets.size > 0);
    if (!service) throw new Error("no service with a task");
    service.targets.clear();
    saved.timeouts = { tcpS: 900, finS: 120, udpS: 300 };
    state.set(0x4bad_0000, { mark: 0x4bad_0000, scheduler: "rr", targets: new Map() });
    const mended = await backend.mend();
    expect(mended.ipvs).toBeGreaterThanOrEqual(3);
    expect(sorted(state)).toEqual(sorted(renderIpvs(plan)));
  });

  test("ports are scheduled anew only where that costs no delay", () => {
    const reuse = (release: string) =>
      ipvsSysctls(release).find(({ key }) => key.endsWith("conn_reuse_mode"))?.value;
    expect(reuse("4.19.0-21-amd64")).toBe(0);
    expect(reuse("5.8.0")).toBe(0);
    expect(reuse("5.10.0-8")).toBe(1);
    expect(reuse("6.1.176")).toBe(1);
  });
});
