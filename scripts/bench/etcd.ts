/** Three members of Debian's etcd-server on loopback, mutual TLS for clients and peers, default timing. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TlsIdentity } from "../../net/rpc/peer.ts";
import { run, waitFor } from "../lab/command.ts";
import { freePorts, residentMiB } from "./raft-cluster.ts";

export type EtcdMember = { name: string; addr: string; pid: number; isUp: boolean };
export type EtcdCluster = {
  members: EtcdMember[];
  leader(): Promise<EtcdMember>;
  kill(member: EtcdMember): Promise<void>;
  start(member: EtcdMember): Promise<void>;
  /** etcd's own load tool, 500 clients: writes/s. Takes a minute. */
  checkPerf(): Promise<number | undefined>;
  residentMiB(member: EtcdMember): number;
  stop(): Promise<void>;
};

export function isEtcdInstalled(): boolean {
  return Bun.which("etcd") !== null && Bun.which("etcdctl") !== null;
}

export async function startEtcd(
  dir: string,
  issue: (name: string) => Promise<TlsIdentity>,
): Promise<EtcdCluster> {
  const names = ["etcd1", "etcd2", "etcd3"];
  const ports = await freePorts(names.length * 2);
  const peers = names.map((name, i) => ({
    name,
    clientUrl: `https://127.0.0.1:${ports[i]}`,
    peerUrl: `https://127.0.0.1:${ports[names.length + i]}`,
  }));
  const initialCluster = peers.map((p) => `${p.name}=${p.peerUrl}`).join(",");
  const files = (name: string) => ({
    cert: join(dir, `${name}.crt`),
    key: join(dir, `${name}.key`),
    ca: join(dir, "ca.crt"),
  });
  mkdirSync(dir, { recursive: true });
  for (const name of [...names, "ctl"]) {
    const tls = await issue(name);
    writeFileSync(files(name).cert, tls.certificatePem);
    writeFileSync(files(name).key, tls.keyPem, { mode: 0o600 });
    writeFileSync(files(name).ca, tls.caCertificatePem);
  }
  const processes = new Map<string, Bun.Subprocess>();
  const members: EtcdMember[] = names.map((name, i) => ({
    name,
    addr: `127.0.0.1:${ports[i]}`,
    pid: 0,
    isUp: false,
  }));

  const spawn = (member: EtcdMember) => {
    const urls = peers.find((p) => p.name === member.name);
    const { cert, key, ca } = files(member.name);
    const child = Bun.spawn(
      [
        "setpriv", // however the bench ends, etcd ends with it
        "--pdeathsig=KILL",
        "etcd",
        `--name=${member.name}`,
        `--data-dir=${join(dir, member.name)}`,
        `--listen-client-urls=${urls?.clientUrl}`,
        `--advertise-client-urls=${urls?.clientUrl}`,
        `--listen-peer-urls=${urls?.peerUrl}`,
        `--initial-advertise-peer-urls=${urls?.peerUrl}`,
        `--initial-cluster=${initialCluster}`,
        "--initial-cluster-state=new",
        `--cert-file=${cert}`,
        `--key-file=${key}`,
        `--trusted-ca-file=${ca}`,
        "--client-cert-auth",
        `--peer-cert-file=${cert}`,
        `--peer-key-file=${key}`,
        `--peer-trusted-ca-file=${ca}`,
        "--peer-client-cert-auth",
        "--log-level=error",
      ],
      // etcd refuses nothing but warns much; its data directory keeps what matters.
      { stdin: "ignore", stdout: "ignore", stderr: Bun.file(join(dir, `${member.name}.log`)) },
    );
    processes.set(member.name, child);
    member.pid = child.pid;
    member.isUp = true;
  };
  const ctl = (args: string[], endpoints: EtcdMember[], timeoutMs?: number) => {
    const { cert, key, ca } = files("ctl");
    return run(
      [
        "etcdctl",
        `--endpoints=${endpoints.map((m) => m.addr).join(",")}`,
        `--cacert=${ca}`,
        `--cert=${cert}`,
        `--key=${key}`,
        "--dial-timeout=1s",
        ...args,
      ],
      { env: { ETCDCTL_API: "3" }, ...(timeoutMs === undefined ? {} : { timeoutMs }) },
    );
  };
  const status = async (member: EtcdMember) => {
    type Status = { Status: { header: { member_id: number }; leader?: number; raftIndex: number } };
    // etcdctl's own output; one endpoint gives one element. Ids lose low bits, alike on both sides.
    const [found] = JSON.parse(await ctl(["endpoint", "status", "-w=json"], [member])) as Status[];
    return found?.Status;
  };
  const leader = () =>
    waitFor("an etcd leader", async () => {
      for (const member of members.filter((m) => m.isUp)) {
        const found = await status(member);
        if (found?.leader && found.leader === found.header.member_id) return member;
      }
      return undefined;
    });

  const stop = async () => {
    for (const child of processes.values()) child.kill("SIGKILL");
    await Promise.all([...processes.values()].map((child) => child.exited));
  };
  for (const member of members) spawn(member);
  try {
    await leader();
  } catch (error) {
    await stop();
    throw error;
  }

  return {
    members,
    leader,
    kill: async (member) => {
      const child = processes.get(member.name);
      member.isUp = false;
      child?.kill("SIGKILL");
      await child?.exited;
    },
    start: async (member) => {
      spawn(member);
      // It takes part again when it knows a leader and has the leader's log.
      await waitFor(
        `${member.name} to catch up`,
        async () => {
          const [own, leading] = await Promise.all([status(member), status(await leader())]);
          return own?.leader && leading && own.raftIndex >= leading.raftIndex;
        },
        { intervalMs: 50 },
      );
    },
    checkPerf: async () => {
      const shown = await ctl(["check", "perf", "--load=l"], members, 120_000).catch(
        // It exits with 1 when etcd fails its bar, having printed the figures.
        (error: unknown) => String(error),
      );
      const found = /Throughput[^:]*?(?:is|low:) (\d+) writes/.exec(shown);
      return found ? Number(found[1]) : undefined;
    },
    residentMiB: (member) => residentMiB(member.pid),
    stop,
  };
}
