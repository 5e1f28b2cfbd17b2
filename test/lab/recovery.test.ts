/**
 * What an operator does when things have gone wrong, on real engines: full disks, lost state files,
 * moved hosts, no quorum, --force-new-cluster, backup and restore. The tests build on each other, in
 * order, in one lab: h1 to h3 are managers, h4 is a worker. The managers' data directories are small
 * file systems of their own.
 */
import { Database } from "bun:sqlite";
import { beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decodeBackup } from "../../agent/backup.ts";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

const MANAGERS = [1, 2, 3] as const;
const HOSTS = [1, 2, 3, 4] as const;
const DATA_DIR = "/var/lib/shoal";
const DISK_MIB = 224;
let lab: Lab;
/** h3 moves in one of the tests. */
let h3Address = "192.168.77.3";
const addressOf = (host: number) => (host === 3 ? h3Address : lab.host(host).address);

const lines = (text: string) => text.split("\n").filter((line) => line !== "");
const sh = (host: number, script: string) => lab.host(host).run(["sh", "-c", script]);
const ask = (host: number) => lab.client.curl(`http://${addressOf(host)}:8080/`);
const answers = (hosts: readonly number[]) =>
  waitFor(
    `the service to answer through ${hosts.join(", ")}`,
    async () => {
      for (const host of hosts) await ask(host);
      return true;
    },
    { timeoutMs: 40_000 },
  );
const refusal = async (host: number, ...command: string[]) => {
  const result = await lab.host(host).tryRun(command, { timeoutMs: 60_000 });
  expect(result.code).not.toBe(0);
  return `${result.stdout}${result.stderr}`;
};
/** Ids of the task containers that run on a host. */
const containersOn = async (host: number) =>
  lines(
    await lab
      .host(host)
      .engine("ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web"),
  ).sort();
const hasOneEach = async () => {
  for (const host of HOSTS) if ((await containersOn(host)).length !== 1) return false;
  return true;
};
const nodeLs = async (host: number) =>
  lines(
    await lab
      .host(host)
      .docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}"),
  ).map((line) => line.trim());
const leader = async (from: number) => {
  const line = (await nodeLs(from)).find((line) => line.endsWith(" Leader"));
  if (!line) throw new Error("There is no leader");
  return Number(line.slice(1).split(" ")[0]);
};
const fromAgent = (host: number, path: string) =>
  fetch(`http://lab${path}`, { unix: lab.host(host).agentSocket() });
type Status = {
  node: { leaderLostMs?: number; error?: string; disk?: { state: string; freeBytes: number } };
  raft: { leaderId: string | null } | null;
};
const status = async (host: number) =>
  (await (await fromAgent(host, "/shoal/v1/status")).json()) as Status;
const backupOf = async (host: number) =>
  decodeBackup(new Uint8Array(await (await fromAgent(host, "/shoal/v1/backup")).arrayBuffer()));
const diskState = (host: number, wanted: string) =>
  waitFor(`h${host}'s disk to be ${wanted}`, async () => {
    const { node } = await status(host);
    return node.disk?.state === wanted;
  });
/** Fills the data directory up to `leaveMib`. */
const fill = (host: number, leaveMib: number) =>
  sh(
    host,
    `free=$(df -m --output=avail ${DATA_DIR} | tail -1); dd if=/dev/zero of=${DATA_DIR}/filler bs=1M count=$((free - ${leaveMib})) 2>/dev/null || true`,
  );
const empty = (host: number) => sh(host, `rm -f ${DATA_DIR}/filler`);
const write = (host: number, name: string) =>
  lab.host(host).docker("network", "create", "-d", "overlay", name);

describeLab("recovery", { hosts: 4 }, (made) => {
  beforeAll(async () => {
    lab = made();
    for (const host of MANAGERS) {
      await sh(host, `mount -t tmpfs -o size=${DISK_MIB}m,mode=700 recovery ${DATA_DIR}`);
    }
    await Promise.all(HOSTS.map((host) => lab.host(host).startAgent()));
    await lab.host(1).docker("swarm", "init");
    for (const [role, hosts] of [
      ["manager", [2, 3]],
      ["worker", [4]],
    ] as const) {
      const token = await lab.host(1).docker("swarm", "join-token", "-q", role);
      for (const host of hosts) {
        await lab.host(host).docker("swarm", "join", "--token", token, `${addressOf(1)}:2377`);
      }
    }
    await lab.host(1).docker("network", "create", "-d", "overlay", "net1");
    await lab
      .host(1)
      .run(["sh", "-c", "echo 'what nobody knows' | docker secret create the-secret -"]);
    await lab
      .host(1)
      .docker(
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        "web",
        "--replicas",
        "4",
        "--network",
        "net1",
        "--secret",
        "the-secret",
        "-p",
        "8080:80",
        "lab:latest",
      );
    await waitFor("a task on each host", hasOneEach, { timeoutMs: 60_000 });
    await answers(HOSTS);
  }, 180_000);

  test("a leader without room hands over, and leads no more until there is room", async () => {
    const full = await leader(1);
    const other = (full % 3) + 1;
    await fill(full, 40);
    try {
      await waitFor("another leader", async () => (await leader(other)) !== full);
      // The others know it sooner than the one that has handed over says so.
      await waitFor("its word of it", () =>
        lab.host(full).agentLog().includes("Leadership handed over for want of space"),
      );
      await write(full, "while-low");
      expect((await status(full)).node.error).toContain(`the file system of ${DATA_DIR} has`);
    } finally {
      // The tests after this one need the room.
      await empty(full);
    }
    await diskState(full, "ok");
  }, 60_000);

  test("a manager whose disk is full takes no part, reads on, and catches up when there is room", async () => {
    const full = ((await leader(1)) % 3) + 1;
    const other = (full % 3) + 1;
    await fill(full, 0);
    await diskState(full, "critical");
    await write(other, "while-full");
    const stale = await waitFor("a stale answer", async () => {
      const answer = await fromAgent(full, "/services");
      return answer.headers.get("shoal-stale") === null ? undefined : answer;
    });
    expect(await stale.json()).toHaveLength(1);
    const before = lab.host(full).pid("agent");
    expect(existsSync(`/proc/${before}/root${DATA_DIR}/raft/ballast`)).toBe(false);
    await empty(full);
    await diskState(full, "ok");
    await waitFor("the network made meanwhile", async () =>
      (await lab.host(full).docker("network", "ls", "--format", "{{.Name}}")).includes(
        "while-full",
      ),
    );
    expect(lab.host(full).pid("agent")).toBe(before);
    await waitFor("the ballast", () => existsSync(`/proc/${before}/root${DATA_DIR}/raft/ballast`));
  }, 90_000);

  test("a damaged or lost state.db is rebuilt from snapshot and log at the next start", async () => {
    for (const harm of [
      `dd if=/dev/urandom of=${DATA_DIR}/state/state.db bs=1024 seek=6 count=20 conv=notrunc`,
      `rm -f ${DATA_DIR}/state/state.db*`,
    ]) {
      await lab.host(2).killAgent();
      await sh(2, harm);
      await lab.host(2).startAgent();
      await waitFor("equal states", async () => {
        const [one, two] = [await backupOf(1), await backupOf(2)];
        return (
          one.header.index === two.header.index &&
          Buffer.from(one.snapshot).equals(Buffer.from(two.snapshot))
        );
      });
    }
    const log = lab.host(2).agentLog();
    expect(log).toContain("state.db is rebuilt from snapshot and log");
    expect(log).toContain("it was empty or missing");
  }, 60_000);

  test("a manager that was away for more changes than the log keeps catches up by a snapshot", async () => {
    await lab.host(2).killAgent();
    const { index } = (await backupOf(1)).header;
    const startMs = performance.now();
    // A snapshot after 300 entries, of which 500 are kept before it (by default 10,000).
    await lab.host(1).docker("swarm", "update", "--snapshot-interval", "300");
    const count = 1_700;
    let next = 0;
    const writer = async () => {
      while (next < count) {
        const body = JSON.stringify({ Name: `many-${next++}`, Data: "eA==" });
        const answer = await fetch("http://lab/configs/create", {
          unix: lab.host(1).agentSocket(),
          method: "POST",
          headers: { "content-type": "application/json" },
          body,
        });
        if (answer.status !== 201) throw new Error(await answer.text());
        await answer.arrayBuffer();
      }
    };
    await Promise.all(Array.from({ length: 64 }, writer));
    const tookMs = performance.now() - startMs;
    await lab.host(2).startAgent();
    const two = await waitFor("equal states", async () => {
      const [one, two] = [await backupOf(1), await backupOf(2)];
      const isEqual = Buffer.from(one.snapshot).equals(Buffer.from(two.snapshot));
      return one.header.index === two.header.index && isEqual ? two : undefined;
    });
    expect(two.header.index).toBeGreaterThanOrEqual(index + count);
    // The log that it was sent begins behind where its own ended.
    await lab.host(2).killAgent();
    await sh(2, `cp ${DATA_DIR}/raft/raft.db ${join(lab.dir, "raft-h2.db")}`);
    const log = new Database(join(lab.dir, "raft-h2.db"), { readonly: true });
    const row = log.query<{ first: number }, []>("SELECT min(log_index) AS first FROM entry").get();
    log.close();
    expect(row?.first).toBeGreaterThan(index + 1);
    await lab.host(2).startAgent();
    console.log(
      `${count} writes in ${Math.round(tookMs)} ms; the log of h2 begins at ${row?.first}`,
    );
  }, 180_000);

  test("a manager with a new address is found by who it is, also when the quorum needs it, and the others learn it", async () => {
    await Promise.all([2, 3].map((host) => lab.host(host).killAgent()));
    h3Address = "192.168.77.13";
    await sh(
      3,
      `ip addr flush dev eth0 && ip addr add ${h3Address}/24 dev eth0 && ip route add default via 192.168.77.254`,
    );
    // h2 stays away: without h3 there is no quorum, and h1 knows its old address only.
    await lab.host(3).startAgent(["--advertise-addr", h3Address]);
    const startMs = performance.now();
    await waitFor("the new address", async () => {
      const text = await lab
        .host(1)
        .docker(
          "node",
          "inspect",
          "h3",
          "--format",
          "{{.ManagerStatus.Addr}} {{.ManagerStatus.Reachability}} {{.Status.State}} {{.Status.Addr}}",
        );
      return text === `${h3Address}:2377 reachable ready ${h3Address}`;
    });
    console.log(`address changed: found after ${Math.round(performance.now() - startMs)} ms`);
    await write(1, "with-the-moved");
    await lab.host(2).startAgent();
    await waitFor("all to be ready", async () => {
      const list = await nodeLs(1);
      return list.filter((line) => / Ready (Leader|Reachable)$/.test(line)).length === 3;
    });
    await waitFor("h2 and the worker to know the address", async () => {
      const known = await Promise.all([2, 4].map((host) => sh(host, `cat ${DATA_DIR}/node.json`)));
      return known.every((text) => text.includes(`${h3Address}:2377`));
    });
    await answers(HOSTS);
  }, 120_000);

  let workerContainers: string[];
  test("without a quorum reads are stale and say so, writes name the managers missed", async () => {
    // The worker may have been too long without a leader before: its task is elsewhere then.
    await waitFor("the worker to be ready", async () => (await nodeLs(1)).includes("h4 Ready"));
    if (!(await hasOneEach())) {
      await lab.host(1).docker("service", "update", "--detach", "--force", "web");
    }
    await waitFor("a task on each host", hasOneEach, { timeoutMs: 60_000 });
    workerContainers = await containersOn(4);
    await Promise.all([2, 3].map((host) => lab.host(host).killAgent("SIGKILL")));
    const startMs = performance.now();
    const listed = await nodeLs(1);
    const tookMs = performance.now() - startMs;
    expect(listed).toHaveLength(4);
    expect(tookMs).toBeLessThan(10_000);
    expect(lines(await lab.host(1).docker("service", "ls", "-q"))).toHaveLength(1);
    const answer = await fromAgent(1, "/services");
    expect(answer.headers.get("shoal-stale")).toMatch(/^index=\d+, leader-lost-ms=\d+$/);
    const text = await refusal(1, "docker", "service", "scale", "-d", "web=5");
    expect(text).toContain("The swarm does not have a leader");
    expect(text).toContain(`at 192.168.77.2:2377`);
    expect(text).toContain(`at ${h3Address}:2377`);
    expect(text).toContain("2 of 3 are needed, 1 answer");
    expect(text).toContain("--force-new-cluster");
    const { node, raft } = await status(1);
    expect(node.leaderLostMs).toBeGreaterThan(2_000);
    expect(raft?.leaderId).toBeNull();
    const info = await lab.host(1).docker("info", "--format", "{{.Swarm.Error}}");
    expect(info).toContain("missing: h");
    const backup = await lab.host(1).run(["shoal", "backup", "--output", "-"]);
    expect(backup.slice(0, 15)).toBe("shoal-backup 2\n");
    expect(
      await waitFor("h2 shown as unreachable", async () => {
        const list = await nodeLs(1);
        return list.find((line) => line.startsWith("h2 ") && line.endsWith("Unreachable"));
      }),
    ).toBeDefined();
    console.log(`quorum lost: first read after ${Math.round(tookMs)} ms`);
  }, 90_000);

  test("--force-new-cluster on a survivor keeps services, workers and their containers", async () => {
    const startMs = performance.now();
    await lab.host(1).docker("swarm", "init", "--force-new-cluster");
    await write(1, "after-force");
    const tookMs = performance.now() - startMs;
    expect(tookMs).toBeLessThan(10_000);
    await waitFor("the worker to be ready", async () => (await nodeLs(1)).includes("h4 Ready"));
    expect(await nodeLs(1)).toContain("h1 Ready Leader");
    await answers([1, 4]);
    expect(await containersOn(4)).toEqual(expect.arrayContaining(workerContainers));
    expect(await lab.host(1).docker("secret", "ls", "--format", "{{.Name}}")).toBe("the-secret");
    await waitFor(
      "the tasks of the lost managers on those that are left",
      async () => (await containersOn(1)).length + (await containersOn(4)).length === 4,
      { timeoutMs: 40_000 },
    );
    expect(await containersOn(4)).toEqual(expect.arrayContaining(workerContainers));
    console.log(`force-new-cluster: writable after ${Math.round(tookMs)} ms`);
  }, 90_000);

  test("a former manager comes back as a worker, or leaves and joins again", async () => {
    await lab.host(2).startAgent();
    await waitFor("h2 as a worker", async () => (await nodeLs(1)).includes("h2 Ready"), {
      timeoutMs: 40_000,
    });
    await waitFor("h2 to know it", async () => {
      const result = await lab.host(2).tryRun(["docker", "node", "ls"]);
      return result.stderr.includes("Worker nodes can't be used");
    });
    await lab.host(3).startAgent(["--advertise-addr", h3Address]);
    await lab.host(3).docker("swarm", "leave", "--force");
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "manager");
    await lab
      .host(3)
      .docker(
        "swarm",
        "join",
        "--token",
        token,
        "--advertise-addr",
        h3Address,
        `${addressOf(1)}:2377`,
      );
    await waitFor("h3 as a manager", async () => (await nodeLs(1)).includes("h3 Ready Reachable"));
    expect(await refusal(1, "docker", "swarm", "init", "--force-new-cluster")).toContain(
      "this one has a leader and a quorum",
    );
    await answers(HOSTS);
  }, 120_000);

  test("former managers that come back together cannot overwrite the new cluster", async () => {
    await lab.host(1).docker("node", "promote", "h2");
    await waitFor("three managers", async () => {
      const list = await nodeLs(1);
      return list.filter((line) => / Ready (Leader|Reachable)$/.test(line)).length === 3;
    });
    await waitFor(
      "h2 to be a raft member",
      async () => (await lab.host(2).tryRun(["docker", "node", "ls"])).code === 0,
    );
    await Promise.all([2, 3].map((host) => lab.host(host).killAgent("SIGKILL")));
    await lab.host(1).docker("swarm", "init", "--force-new-cluster");
    await write(1, "kept");
    await Promise.all([
      lab.host(2).startAgent(),
      lab.host(3).startAgent(["--advertise-addr", h3Address]),
    ]);
    // They are a majority of what they remember, or find themselves workers first: both may be.
    const pid = lab.host(1).pid("agent");
    for (let i = 0; i < 10; i++) {
      await write(1, `kept-${i}`);
      await Bun.sleep(500); // time in which the others elect and send
    }
    expect(lab.host(1).pid("agent")).toBe(pid);
    expect(lines(await lab.host(1).docker("network", "ls", "--format", "{{.Name}}"))).toEqual(
      expect.arrayContaining(["kept", "kept-0", "kept-9"]),
    );
    expect(await nodeLs(1)).toContain("h1 Ready Leader");
    for (const host of [2, 3]) await lab.host(host).docker("swarm", "leave", "--force");
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "manager");
    for (const host of [2, 3]) {
      await lab
        .host(host)
        .docker(
          "swarm",
          "join",
          "--token",
          token,
          "--advertise-addr",
          addressOf(host),
          `${addressOf(1)}:2377`,
        );
    }
    await answers(HOSTS);
  }, 120_000);

  test("a backup is one file for its owner, and tells what it holds", async () => {
    writeFileSync(join(lab.dir, "passphrase"), "correct horse battery\n");
    writeFileSync(join(lab.dir, "wrong"), "incorrect horse\n");
    const path = join(lab.dir, "cluster.backup");
    const said = await lab
      .host(1)
      .tryRun([
        "shoal",
        "backup",
        "--output",
        path,
        "--passphrase-file",
        join(lab.dir, "passphrase"),
      ]);
    expect(said.code).toBe(0);
    expect(said.stderr).toContain("with 1 services");
    expect(said.stderr).toContain("key of the cluster's CA");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readFileSync(path).includes("PRIVATE KEY")).toBe(false);
    expect(await refusal(1, "shoal", "restore", path)).toContain("it is encrypted");
    expect(
      await refusal(1, "shoal", "restore", path, "--passphrase-file", join(lab.dir, "wrong")),
    ).toContain("the passphrase is wrong");
    expect(
      await refusal(1, "shoal", "restore", path, "--passphrase-file", join(lab.dir, "passphrase")),
    ).toContain("already part of a swarm");
    expect(await refusal(4, "shoal", "backup", "--output", join(lab.dir, "no"))).toContain(
      "Worker nodes can't be used",
    );
    expect(existsSync(join(lab.dir, "no"))).toBe(false);
  }, 60_000);

  test("a backup is restored on one of the hosts after all managers are lost; workers come back", async () => {
    const path = join(lab.dir, "cluster.backup");
    const passphrase = ["--passphrase-file", join(lab.dir, "passphrase")];
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "worker");
    // After the backup, so not in it.
    await write(1, "after-backup");
    const before = await containersOn(4);
    await Promise.all(MANAGERS.map((host) => lab.host(host).killAgent("SIGKILL")));
    for (const host of MANAGERS) await sh(host, `rm -rf ${DATA_DIR}/*`);

    await lab.host(1).startAgent();
    const damaged = join(lab.dir, "damaged.backup");
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(damaged, bytes);
    expect(await refusal(1, "shoal", "restore", damaged, ...passphrase)).toContain(
      "its checksum differs",
    );
    rmSync(damaged);
    expect(await sh(1, `find ${DATA_DIR} -type f`)).toBe("");

    const startMs = performance.now();
    const said = await lab.host(1).run(["shoal", "restore", path, ...passphrase]);
    expect(said).toContain("1 services");
    await write(1, "after-restore");
    const tookMs = performance.now() - startMs;
    await waitFor("the worker to be ready", async () => (await nodeLs(1)).includes("h4 Ready"), {
      timeoutMs: 40_000,
    });
    expect(await nodeLs(1)).toContain("h1 Ready Leader");
    const networks = await lab.host(1).docker("network", "ls", "--format", "{{.Name}}");
    expect(networks).toContain("net1");
    expect(networks).not.toContain("after-backup");
    expect(await lab.host(1).docker("swarm", "join-token", "-q", "worker")).toBe(token);
    expect(await containersOn(4)).toEqual(expect.arrayContaining(before));
    await waitFor(
      "four running tasks",
      async () => (await containersOn(1)).length + (await containersOn(4)).length === 4,
      { timeoutMs: 60_000 },
    );
    await answers([1, 4]);
    const old = await containersOn(4);
    // A new task, so that its secret comes from the restored state.
    await lab.host(1).docker("service", "update", "-d", "--force", "web");
    await waitFor(
      "the secret in a new task",
      async () => {
        const fresh = (await containersOn(4)).find((id) => !old.includes(id));
        if (fresh === undefined) return false;
        const read = ["exec", fresh, "cat", "/run/secrets/the-secret"];
        return (await lab.host(4).engine(...read)) === "what nobody knows";
      },
      { timeoutMs: 60_000 },
    );
    await lab.host(2).startAgent();
    await lab.host(2).docker("swarm", "join", "--token", token, `${addressOf(1)}:2377`);
    console.log(`restored: writable after ${Math.round(tookMs)} ms`);
  }, 150_000);

  test("the only manager with a full disk refuses writes, reads on, loses nothing, and recovers by itself", async () => {
    const acknowledged: string[] = [];
    let isOver = false;
    const writer = (async () => {
      for (let i = 0; !isOver; i++) {
        const result = await lab
          .host(1)
          .tryRun(["sh", "-c", `head -c 100000 /dev/urandom | docker config create c${i} -`]);
        if (result.code === 0) acknowledged.push(`c${i}`);
      }
    })();
    let text: string;
    let attempts = 0;
    try {
      await waitFor("some writes", () => acknowledged.length >= 3);
      await fill(1, 0);
      text = await waitFor("the refusal", async () => {
        // A write in this very moment may have ended it; on a real host systemd starts it again.
        if (!lab.host(1).isAgentAlive()) await lab.host(1).startAgent();
        const name = `x${attempts++}`;
        const result = await lab
          .host(1)
          .tryRun(["docker", "network", "create", "-d", "overlay", name]);
        return result.stderr.includes("takes no changes") ? result.stderr : undefined;
      });
    } finally {
      isOver = true;
      await writer;
    }
    expect(text).toContain(`takes no changes: the file system of ${DATA_DIR} has`);
    expect(text).toContain("MiB left");
    await diskState(1, "critical");
    expect(lines(await lab.host(1).docker("service", "ls", "-q"))).toHaveLength(1);

    // It also starts so.
    await lab.host(1).killAgent("SIGKILL");
    await lab.host(1).startAgent();
    await diskState(1, "critical");
    // It also reads before it leads.
    await waitFor("h1 to lead", async () => (await nodeLs(1)).includes("h1 Ready Leader"));

    // Without any room, also of the ballast, it waits for some.
    await lab.host(1).killAgent("SIGKILL");
    await sh(1, `dd if=/dev/zero of=${DATA_DIR}/filler2 bs=4k 2>/dev/null || true`);
    await lab.host(1).startAgent();
    await waitFor("the node to say so", async () =>
      (await lab.host(1).docker("info", "--format", "{{.Swarm.Error}}")).startsWith(
        "This node waits for room on disk",
      ),
    );
    const pid = lab.host(1).pid("agent");
    await sh(1, `rm -f ${DATA_DIR}/filler2`);
    await empty(1);
    await diskState(1, "ok");
    await write(1, "room-again");
    expect(lab.host(1).pid("agent")).toBe(pid);
    const configs = lines(await lab.host(1).docker("config", "ls", "--format", "{{.Name}}"));
    expect(configs).toEqual(expect.arrayContaining(acknowledged));
    console.log(`full disk: ${acknowledged.length} acknowledged writes, all there`);
  }, 120_000);
});
