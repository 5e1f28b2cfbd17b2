/** What keeps the cluster's nodes sure of each other, on real hosts. The tests build on each other. */
import { beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join as joinPath } from "node:path";
import { decodeBackup, readBackupHeader } from "../../agent/backup.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

let lab: Lab;
const docker = (line: string, ...more: string[]) => lab.host(1).docker(...line.split(" "), ...more);
const join = async (host: number, role: "worker" | "manager") => {
  const token = await docker(`swarm join-token -q ${role}`);
  await lab.host(host).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
};
const stateOf = (host: number) =>
  docker(`node inspect --format {{.Status.State}} ${lab.host(host).name}`);

describeLab("a cluster's certificates", { hosts: 4, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    await join(2, "manager");
    await join(3, "worker");
    await docker("service create --name web --replicas 3 --publish 8080:80 lab:latest");
  }, 60_000);

  describe("docker swarm ca --rotate", () => {
    test("replaces root, certificates and tokens; services go on", async () => {
      const before = await docker("swarm ca");
      const oldToken = await docker("swarm join-token -q worker");
      const containers = await docker("service ps -q web");
      let isOver = false;
      const lost: unknown[] = [];
      const asking = (async () => {
        while (!isOver) {
          await lab.client.curl(`http://${lab.host(2).address}:8080/`).catch((e) => lost.push(e));
        }
      })();
      const printed = await docker("swarm ca --rotate");
      isOver = true;
      await asking;
      expect(lost).toEqual([]);
      expect(printed).toContain("BEGIN CERTIFICATE");
      expect(printed).not.toContain(before.split("\n")[1] ?? "");
      expect(await docker("swarm ca")).toContain(printed.split("\n").at(-3) ?? "-");
      expect(await docker("service ps -q web")).toBe(containers);
      for (const host of [1, 2, 3]) expect(await stateOf(host)).toBe("ready");
      const refused = await lab
        .host(4)
        .tryRun(["docker", "swarm", "join", "--token", oldToken, `${lab.host(1).address}:2377`]);
      expect(refused.stderr).toContain("remote CA does not match fingerprint");
      await join(4, "worker");
      await waitFor("host 4 to be ready", async () => (await stateOf(4)) === "ready");
    }, 120_000);

    test("waits for a node that is down, which is believed when it returns", async () => {
      await lab.host(3).cutOff();
      await waitFor("host 3 to be down", async () => (await stateOf(3)) === "down");
      await docker("swarm ca --rotate --detach --quiet");
      const isRotating = async () => {
        const format = "{{json .Swarm.Cluster.RootRotationInProgress}}";
        return (await docker("info --format", format)) === "true";
      };
      expect(await isRotating()).toBe(true);
      // Another one takes its place.
      await docker("swarm ca --rotate --detach --quiet");
      expect(await isRotating()).toBe(true);
      await lab.host(3).reconnect();
      await waitFor("the rotation to end", async () => !(await isRotating()), {
        timeoutMs: 30_000,
      });
      await waitFor("host 3 to be ready", async () => (await stateOf(3)) === "ready");
      await docker("service update --force web");
    }, 120_000);
  });
});

describeLab("autolock", { hosts: 3, agents: true }, (made) => {
  const HOSTS = [1, 2, 3] as const;
  const LOCKED = "Swarm is encrypted and needs to be unlocked before it can be used.";
  const sh = (host: number, line: string) => lab.host(host).tryRun(["sh", "-c", line]);
  const unlock = (host: number, key: string) => sh(host, `echo ${key} | docker swarm unlock`);
  const keyFrom = (host: number) => lab.host(host).docker("swarm", "unlock-key", "-q");
  const stateOn = (host: number) =>
    lab.host(host).docker("info", "--format", "{{.Swarm.LocalNodeState}}");
  const dataDir = (host: number) => `${rootOf(host)}/var/lib/shoal`;
  const lockPath = (host: number) => joinPath(dataDir(host), "pki/lock.json");
  const lockFile = (host: number) => readFileSync(lockPath(host), "utf8");
  const restart = async (host: number, how: "SIGTERM" | "SIGKILL" = "SIGTERM") => {
    await lab.host(host).killAgent(how);
    await lab.host(host).startAgent();
  };
  const filesWith = (host: number, words: readonly string[]) =>
    readdirSync(dataDir(host), { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => joinPath(entry.parentPath, entry.name))
      .filter((file) => words.some((word) => readFileSync(file).includes(word)));
  const tasksOn = (host: number) =>
    lab.host(host).engine("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web");
  const rootOf = (host: number) => `/proc/${lab.host(host).pid("holder")}/root`;
  let key = "";
  let backupKey = "";

  beforeAll(async () => {
    lab = made();
    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    for (const host of [2, 3]) await join(host, "manager");
    await docker("service create --name web --mode global --publish 8080:80 lab:latest");
  }, 60_000);

  test("swarm update --autolock seals every manager's lock, and prints the key", async () => {
    const printed = await docker("swarm update --autolock");
    key = await keyFrom(3);
    expect(key).toMatch(/^SWMKEY-1-[A-Za-z0-9+/]{43}$/);
    expect(printed).toContain(key);
    for (const host of HOSTS) {
      await waitFor(`host ${host} to follow`, async () => lockFile(host).includes("sealed"));
    }
    expect((await unlock(1, key)).stderr).toContain("swarm is not locked");
  }, 30_000);

  test("a manager that starts is locked: its containers and ports go on, the others too", async () => {
    const before = await tasksOn(2);
    expect(before).not.toBe("");
    await restart(2);
    expect(await stateOn(2)).toBe("locked");
    for (const line of ["docker node ls", "docker swarm unlock-key", "docker service ls"]) {
      expect((await sh(2, line)).stderr).toContain(LOCKED);
    }
    expect((await sh(2, "docker ps -q")).code).toBe(0);
    const status = await lab.host(2).run(["shoal", "status"]);
    expect(JSON.parse(status)).toMatchObject({ node: { state: "locked", isManager: false } });
    await lab.client.curl(`http://${lab.host(2).address}:8080/`);
    expect(await tasksOn(2)).toBe(before);
    await docker("service update --detach --label-add a=b web");
    await lab.client.curl(`http://${lab.host(2).address}:8080/`);
    const left = await sh(2, "docker swarm leave");
    expect(left.stderr).toContain("Swarm is encrypted and locked. Please unlock it first");
  }, 60_000);

  test("nothing on a manager's disk has a key, a token, a spec or a config in clear", async () => {
    const token = await docker("swarm join-token -q manager");
    const words = ["PRIVATE KEY", key, key.slice(-40), token.slice(-25)];
    for (const host of HOSTS) expect(filesWith(host, words)).toEqual([]);
    // Nor what users have written, but for what runs on it, and names of services.
    const spec = "service create --detach --replicas 0 --name hush --env PASS=quiet-word";
    await docker(`${spec} --label quiet-label=1 lab:latest`);
    await sh(1, "echo quiet-config | docker config create conf -");
    const base64 = Buffer.from("quiet-config").toString("base64").slice(0, 12);
    await waitFor(
      "host 3 to have it",
      async () => (await lab.host(3).docker("config", "ls", "-q")) !== "",
    );
    for (const host of HOSTS) expect(filesWith(host, ["quiet-", base64])).toEqual([]);
    expect(filesWith(2, ["BEGIN CERTIFICATE"])).not.toEqual([]);
  });

  test("a backup is encrypted by the unlock key", async () => {
    await lab.host(1).run(["shoal", "backup", "--output", "/etc/cluster.backup"]);
    const bytes = readFileSync(`${rootOf(1)}/etc/cluster.backup`);
    backupKey = key;
    expect(readBackupHeader(bytes).encryption).not.toBeNull();
    // One from before the lock, one since.
    expect(decodeBackup(bytes, key).dataKeys.length).toBe(2);
  });

  test("another key is refused, the right one lets it go on", async () => {
    const other = `SWMKEY-1-${Buffer.alloc(32, 7).toString("base64").replace("=", "")}`;
    expect((await unlock(2, other)).stderr).toContain(
      "swarm could not be unlocked: invalid key provided",
    );
    expect((await unlock(2, "abc")).stderr).toContain("invalid key string");
    expect(await stateOn(2)).toBe("locked");
    expect(await unlock(2, key)).toMatchObject({ code: 0 });
    expect(await stateOn(2)).toBe("active");
    await lab.host(2).docker("service", "update", "--detach", "--label-add", "c=d", "web");
    await waitFor("host 2 to be ready", async () => (await stateOf(2)) === "ready");
    expect((await unlock(2, key)).stderr).toContain("swarm is not locked");
  }, 60_000);

  test("after unlock-key --rotate only the new key opens, also after a crash", async () => {
    const old = key;
    const files = HOSTS.map(lockFile);
    const printed = await lab.host(3).docker("swarm", "unlock-key", "--rotate");
    key = await keyFrom(1);
    expect(key).not.toBe(old);
    expect(printed).toContain(key);
    for (const host of HOSTS) {
      await waitFor(`host ${host} to follow`, async () => lockFile(host) !== files[host - 1]);
    }
    await restart(1, "SIGKILL");
    expect((await unlock(1, old)).stderr).toContain("invalid key provided");
    expect(await unlock(1, key)).toMatchObject({ code: 0 });
  }, 60_000);

  test("a demoted manager drops its lock, a promoted worker gets one", async () => {
    await docker("node demote h3");
    await waitFor("host 3 to drop its lock", async () => !existsSync(lockPath(3)));
    await restart(3);
    expect(await stateOn(3)).toBe("active");
    expect(filesWith(3, ["PRIVATE KEY"])).not.toEqual([]);
    await docker("node promote h3");
    await waitFor(
      "host 3 to be locked again",
      async () => existsSync(lockPath(3)) && lockFile(3).includes("sealed"),
    );
    expect(filesWith(3, ["PRIVATE KEY"])).toEqual([]);
  }, 60_000);

  test("a locked manager can be made to leave; switched off, managers start by themselves", async () => {
    await restart(3, "SIGKILL");
    await lab.host(3).docker("swarm", "leave", "--force");
    expect(await stateOn(3)).toBe("inactive");
    await docker("swarm update --autolock=false");
    for (const host of [1, 2]) {
      await waitFor(`host ${host} to follow`, async () => lockFile(host).includes("keys"));
    }
    await restart(2, "SIGKILL");
    await waitFor("host 2 to go on", async () => (await stateOn(2)) === "active");
    await lab.host(2).docker("node", "ls");
    expect((await sh(2, "docker swarm unlock-key")).stderr).toContain("no unlock key is set");
  }, 60_000);

  test("a restored cluster is locked as the backup's was", async () => {
    for (const host of [1, 2]) await lab.host(host).killAgent("SIGKILL");
    copyFileSync(`${rootOf(1)}/etc/cluster.backup`, `${rootOf(3)}/etc/cluster.backup`);
    writeFileSync(`${rootOf(3)}/etc/key`, `${backupKey}\n`);
    const from = "/etc/cluster.backup --passphrase-file /etc/key";
    const restored = await sh(3, `shoal restore ${from} --advertise-addr ${lab.host(3).address}`);
    expect(restored).toMatchObject({ code: 0 });
    expect(lockFile(3)).toContain("sealed");
    await restart(3);
    expect(await stateOn(3)).toBe("locked");
    expect(await unlock(3, backupKey)).toMatchObject({ code: 0 });
    expect(await keyFrom(3)).toBe(backupKey);
  }, 60_000);

  test("swarm init --autolock prints the key, and locks at once", async () => {
    await lab.host(2).startAgent();
    await lab.host(2).docker("swarm", "leave", "--force");
    const printed = await lab.host(2).docker("swarm", "init", "--autolock");
    expect(printed).toContain(await keyFrom(2));
    expect(lockFile(2)).toContain("sealed");
  }, 30_000);
});
