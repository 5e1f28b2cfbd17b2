/** Three managers of the bench as processes (raft-member.ts), their CA, and the load's certificate. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { foundCluster } from "../../agent/found-cluster.ts";
import { systemRandom } from "../../agent/random.ts";
import { assert } from "../../core/assert.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { CreateAction } from "../../core/store/action.ts";
import { createKeyAndCsr, issueCertificate } from "../../net/pki/issue.ts";
import type { TlsIdentity } from "../../net/rpc/peer.ts";
import { waitFor } from "../lab/command.ts";
import type { MemberConfig } from "./raft-member.ts";

export type ShoalMember = {
  nodeId: string;
  addr: string;
  pid: number;
  isUp: boolean;
  status: RaftStatus | undefined;
};
export type ShoalCluster = {
  members: ShoalMember[];
  clusterId: string;
  /** A manager's certificate of this cluster's CA, valid for 127.0.0.1. */
  issue(name: string): Promise<TlsIdentity>;
  leader(): Promise<ShoalMember>;
  kill(member: ShoalMember): Promise<void>;
  /** Starts a killed member again; resolves when it has the leader's log. */
  start(member: ShoalMember): Promise<void>;
  residentMiB(member: ShoalMember): number;
  stop(): Promise<void>;
};

const HOST = "127.0.0.1";

/** Ports that nobody listens on just now. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
      return server;
    }),
  );
  return Promise.all(
    servers.map(async (server) => {
      const address = server.address();
      await new Promise<unknown>((resolve) => server.close(resolve));
      assert(typeof address === "object" && address, "A listening TCP server has an address");
      return address.port;
    }),
  );
}

export function residentMiB(pid: number): number {
  const line = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(line?.[1]) / 1024;
}

/** Processor time that a process has used, all threads, in ms. */
export function processorMs(pid: number): number {
  // After the command in parentheses, which may hold spaces: state is field 3, utime 14, stime 15.
  const [, fields = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
  const [utime = Number.NaN, stime = Number.NaN] = fields.split(" ").slice(11, 13).map(Number);
  return (utime + stime) * CLOCK_TICK_MS;
}
/** USER_HZ is 100 on every Linux. */
const CLOCK_TICK_MS = 10;

export async function startShoal(dir: string): Promise<ShoalCluster> {
  const [port1, port2, port3] = (await freePorts(3)) as [number, number, number]; // asked for three
  const founded = await foundCluster({
    request: {},
    addresses: {
      listen: { host: HOST, port: port1 },
      advertise: { host: HOST, port: port1 },
      dataPath: HOST,
    },
    nowMs: Date.now(),
    random: systemRandom,
  });
  const { clusterId, proposal } = founded;
  const rootCa = proposal.actions
    .map((action) =>
      action.type === "create" && action.table === "cluster" ? action.object : undefined,
    )
    .find((cluster) => cluster)?.rootCa;
  assert(rootCa, "A founding proposal has the cluster with its CA");
  const issue = async (name: string): Promise<TlsIdentity> => {
    const { keyPem, csrPem } = await createKeyAndCsr();
    const certificatePem = await issueCertificate({
      ca: rootCa,
      csrPem,
      nodeId: name,
      role: "manager",
      clusterId,
      lifetimeMs: 86_400_000,
      nowMs: Date.now(),
      sans: [HOST],
    });
    return { certificatePem, keyPem, caCertificatePem: rootCa.certificatePem };
  };
  const places = [
    { nodeId: founded.nodeId, port: port1, tls: founded.tls },
    { nodeId: "member2", port: port2, tls: await issue("member2") },
    { nodeId: "member3", port: port3, tls: await issue("member3") },
  ];
  const members: ShoalMember[] = places.map(({ nodeId, port }) => ({
    nodeId,
    addr: `${HOST}:${port}`,
    pid: 0,
    isUp: false,
    status: undefined,
  }));
  const joined = places.slice(1).map(
    ({ nodeId, port }, i): CreateAction => ({
      type: "create",
      table: "node",
      object: {
        id: nodeId,
        spec: { Labels: {}, Role: "manager", Availability: "active" },
        status: { state: "unknown", message: "", addr: HOST },
        role: "manager",
        managerAddr: `${HOST}:${port}`,
        index: i + 2,
        meshAddress: `10.255.0.${i + 2}`,
        dataPathAddr: HOST,
      },
    }),
  );
  const founding = { ...proposal, actions: [...proposal.actions, ...joined] };
  for (const [i, place] of places.entries()) {
    const config: MemberConfig = {
      nodeId: place.nodeId,
      clusterId,
      dataDir: join(dir, place.nodeId),
      host: HOST,
      port: place.port,
      tls: place.tls,
      ...(i === 0 ? { founding } : {}),
      members: members.map(({ nodeId, addr }) => ({ nodeId, addr })),
    };
    mkdirSync(config.dataDir, { recursive: true });
    writeFileSync(join(dir, `${place.nodeId}.json`), JSON.stringify(config), { mode: 0o600 });
  }

  const processes = new Map<string, Bun.Subprocess>();
  const spawn = (member: ShoalMember) => {
    const config = join(dir, `${member.nodeId}.json`);
    const child = Bun.spawn(
      [process.execPath, ...profileFlags(), join(import.meta.dir, "raft-member.ts"), config],
      {
        stdin: "ignore",
        stdout: "inherit",
        stderr: "inherit",
        // Only raft-member.ts writes there.
        ipc: (message: { type: string; status?: RaftStatus }) => {
          if (message.status) member.status = message.status;
        },
      },
    );
    processes.set(member.nodeId, child);
    member.pid = child.pid;
    member.isUp = true;
  };
  const ask = (member: ShoalMember) => processes.get(member.nodeId)?.send("status");
  const leader = () =>
    waitFor("a leader", () => members.find((m) => m.isUp && m.status?.isLeader), {
      intervalMs: 10,
    });
  const caughtUp = (member: ShoalMember) =>
    waitFor(
      `${member.nodeId} to catch up`,
      async () => {
        const leading = await leader();
        ask(leading);
        const found = leading.status?.members.find((m) => m.nodeId === member.nodeId);
        const isCaughtUp =
          found?.isLearner === false &&
          found.isReachable === true &&
          (found.matchIndex ?? 0) >= (leading.status?.commitIndex ?? Infinity);
        return isCaughtUp && member.status?.leaderId === leading.nodeId;
      },
      { intervalMs: 20 },
    );
  const stop = async () => {
    for (const child of processes.values()) {
      // A profile is written at an exit of its own.
      if (profileFlags().length > 0) child.disconnect();
      else child.kill("SIGKILL");
    }
    await Promise.all([...processes.values()].map((child) => child.exited));
  };
  try {
    for (const member of members) {
      spawn(member);
      await leader();
    }
    for (const member of members) await caughtUp(member);
  } catch (error) {
    await stop();
    throw error;
  }

  return {
    members,
    clusterId,
    issue,
    leader,
    kill: async (member) => {
      const child = processes.get(member.nodeId);
      member.isUp = false;
      member.status = undefined;
      child?.kill("SIGKILL");
      await child?.exited;
    },
    start: async (member) => {
      spawn(member);
      await caughtUp(member);
    },
    residentMiB: (member) => residentMiB(member.pid),
    stop,
  };
}

/** For finding out where time goes: SHOAL_BENCH_PROFILE="--cpu-prof-md --cpu-prof-dir=/tmp/profiles". */
function profileFlags(): string[] {
  return (process.env["SHOAL_BENCH_PROFILE"] ?? "").split(" ").filter((flag) => flag !== "");
}
