import { describe, expect, test } from "bun:test";
import type { RunCommand } from "../../../net/mesh/backend.ts";
import { ipvsBackend, ipvsSysctls } from "../../../net/mesh/ipvs.ts";
import { encodeIpvsCommand, type Ipvs } from "../../../net/mesh/ipvs-netlink.ts";
import {
  diffIpvs,
  type IpvsCommand,
  type IpvsScheduling,
  type IpvsService,
  renderIpvs,
} from "../../../net/mesh/ipvs-services.ts";
import { ipvsAddressMark, ipvsPortMark } from "../../../net/mesh/names.ts";
import { parseAttributes } from "../../../net/mesh/netlink.ts";
import { randomPlan } from "./random-plan.ts";

const SEEDS = Array.from({ length: 100 }, (_, seed) => seed);
type Held = IpvsScheduling & { mark: number; targets: Map<string, number> };
type State = Map<number, Held>;
const SCHEDULING = { scheduler: "rr", flags: 0, timeoutS: 0 };

/** What the kernel does with the commands; throws where it would refuse. */
function execute(state: State, commands: readonly IpvsCommand[]): void {
  for (const command of commands) {
    const service = state.get(command.mark);
    if (command.kind === "add-service") {
      if (service) throw new Error("EEXIST");
      const { mark, scheduler, flags, timeoutS } = command;
      state.set(mark, { mark, scheduler, flags, timeoutS, targets: new Map() });
      continue;
    }
    if (!service) throw new Error("ESRCH");
    if ("scheduler" in command) {
      const { scheduler, flags, timeoutS } = command;
      Object.assign(service, { scheduler, flags, timeoutS });
    } else if (!("target" in command)) state.delete(command.mark);
    else {
      const isThere = service.targets.has(command.target);
      if (isThere === (command.kind === "add-target")) throw new Error(command.kind);
      if ("weight" in command) service.targets.set(command.target, command.weight);
      else service.targets.delete(command.target);
    }
  }
}
const plain = (services: ReadonlyMap<number, IpvsService>) =>
  [...services].map(([mark, { scheduler, flags, timeoutS, targets }]) => [
    mark,
    `${scheduler} ${flags} ${timeoutS}`,
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
      execute(state, diffIpvs("ipv4", new Map(), before).commands);
      expect(sorted(state)).toEqual(sorted(before));
      const { commands, removals } = diffIpvs("ipv4", state, after);
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
        ["10.101.0.21 0", 1],
        ["10.101.0.22 0", 0],
      ]),
    );
  });

  test("marks of addresses and ports differ, and have the bits by which the filter knows them", () => {
    expect(ipvsAddressMark("10.101.0.2")).toBe(0x4a65_0002);
    expect(ipvsPortMark({ protocol: "tcp", publishedPort: 8080 })).toBe(0x6006_1f90);
    expect(ipvsPortMark({ protocol: "sctp", publishedPort: 65_535 })).toBe(0x6084_ffff);
    expect(ipvsAddressMark("192.168.0.1")).not.toBe(ipvsAddressMark("172.16.0.1"));
  });

  test("affinity is a scheduler, and changes in place", () => {
    const plan = randomPlan(1, 0);
    const [first] = plan.ports;
    if (!first) throw new Error("no port");
    const served = (hasAffinity: boolean) =>
      renderIpvs({ ...plan, virtualIps: [], ports: [{ ...first, hasAffinity }] });
    const mark = ipvsPortMark(first);
    expect(served(true).get(mark)).toMatchObject({ scheduler: "mh", flags: 8, timeoutS: 0 });
    expect(diffIpvs("ipv4", served(false), served(true)).commands).toEqual([
      { kind: "set-service", family: "ipv4", mark, scheduler: "mh", flags: 8, timeoutS: 0 },
    ]);
  });

  test("a service of IPv6 has its family, all of a client's address, and long addresses", () => {
    const scheduling = { scheduler: "mh", flags: 8, timeoutS: 0 };
    const command = { family: "ipv6", mark: 0x4a65_0002 } as const;
    const outer = parseAttributes(
      encodeIpvsCommand({ kind: "add-service", ...command, ...scheduling }),
    );
    const service = parseAttributes(outer.get(1) ?? Buffer.alloc(0));
    expect(service.get(1)?.readUInt16LE(0)).toBe(10);
    expect(service.get(6)?.toString()).toBe("mh\0");
    expect(service.get(7)?.toString("hex")).toBe("08000000ffffffff");
    expect(service.get(9)?.readUInt32LE(0)).toBe(128);
    const body = encodeIpvsCommand({ kind: "delete-target", ...command, target: "fd00::15 80" });
    const target = parseAttributes(parseAttributes(body).get(2) ?? Buffer.alloc(0));
    expect(target.get(1)?.toString("hex")).toBe(`fd00${"00".repeat(13)}15`);
    expect(target.get(2)?.readUInt16BE(0)).toBe(80);
  });

  test("a command is encoded as the kernel's interface has it", () => {
    const body = encodeIpvsCommand({
      kind: "add-target",
      family: "ipv4",
      mark: 0x4a65_0002,
      target: "10.101.0.21 80",
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
  const saved = {
    timeouts: { tcpS: 900, finS: 120, udpS: 300 },
    refusals: 0,
    refusedScheduler: "",
    connections: 0,
  };
  const ipvs: Ipvs = {
    services: (family) =>
      family === "ipv4"
        ? [...state.values()].map((held) => ({ ...held, connections: saved.connections }))
        : [],
    targets: (_family, mark) => new Map(state.get(mark)?.targets),
    execute: (commands) => {
      if (commands.length > 0) log.push(commands.map(({ kind }) => kind).join(" "));
      if (saved.refusals > 0) {
        saved.refusals -= 1;
        throw new Error("refused");
      }
      const isRefused = (command: IpvsCommand) =>
        "scheduler" in command && command.scheduler === saved.refusedScheduler;
      if (commands.some(isRefused)) throw new Error("no such scheduler");
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
    const stdout = argv.includes("-S") ? "-A SI-POST -o sh+ -j SI-HAIRPIN" : "";
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
    state.set(0x4bad_0000, { mark: 0x4bad_0000, ...SCHEDULING, targets: new Map() });
    const mended = await backend.mend();
    expect(mended.ipvs).toBeGreaterThanOrEqual(3);
    expect(sorted(state)).toEqual(sorted(renderIpvs(plan)));
  });

  test("a kernel without the hash scheduler remembers clients, and says so", async () => {
    const { state, saved, backend } = fakeHost();
    saved.refusedScheduler = "mh";
    const plan = randomPlan(2, 0);
    await backend.probe(plan);
    expect(backend.notes().join()).toContain("ip_vs_mh");
    const ports = plan.ports.map((port) => ({ ...port, hasAffinity: true }));
    await backend.apply({ ...plan, ports });
    const [port] = ports;
    if (!port) throw new Error("no port");
    expect(state.get(ipvsPortMark(port))).toMatchObject({
      scheduler: "wlc",
      flags: 1,
      timeoutS: 10_800,
    });
    expect(await backend.mend()).toMatchObject({ ipvs: 0 });
  });

  test("connections are those of the marks", async () => {
    const { saved, backend } = fakeHost();
    const plan = randomPlan(2, 0);
    await backend.apply(plan);
    saved.connections = 7;
    const counts = await backend.readConnections();
    expect(counts).toHaveLength(plan.virtualIps.length + plan.ports.length);
    expect(counts.every(({ connections }) => connections === 7)).toBeTrue();
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
