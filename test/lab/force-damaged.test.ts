/** --force-new-cluster on managers whose logs are damaged, when the others are gone. The tests build on each other. */
import { beforeAll, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, statSync, writeSync } from "node:fs";
import { join as joinPath } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";

describeLab("a new cluster by force, from a damaged log", { hosts: 3, agents: true }, (made) => {
  let lab: Lab;
  const docker = (host: number, ...args: string[]) => lab.host(host).docker(...args);
  const raftDir = (host: number) => `/proc/${lab.host(host).pid("holder")}/root/var/lib/shoal/raft`;
  const force = (host: number) => {
    const command = ["docker", "swarm", "init", "--force-new-cluster", "--advertise-addr"];
    return lab.host(host).tryRun([...command, lab.host(host).address]);
  };
  const logOf = (host: number) =>
    Bun.file(joinPath(lab.dir, lab.host(host).name, "agent.log")).text();
  const overwrite = (path: string, at: number, bytes: number) => {
    const file = openSync(path, "r+");
    writeSync(file, Buffer.alloc(bytes, 0x5a), 0, bytes, at);
    closeSync(file);
  };
  const waitsForOthers = (host: number) =>
    waitFor(`host ${host} to wait for the others`, async () =>
      (await logOf(host)).includes("it is rebuilt from the others"),
    );

  beforeAll(async () => {
    lab = made();
    await docker(1, "swarm", "init", "--advertise-addr", lab.host(1).address);
    const token = await docker(1, "swarm", "join-token", "-q", "manager");
    for (const host of [2, 3]) {
      await docker(host, "swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    }
    await docker(
      1,
      "service",
      "create",
      "--detach",
      "--name",
      "web",
      "--mode",
      "global",
      "lab:latest",
    );
    await docker(2, "config", "ls");
    await waitFor(
      "the service everywhere",
      async () => (await docker(3, "service", "ls", "--format", "{{.Replicas}}")) === "3/3",
    );
    await Promise.all([1, 2, 3].map((host) => lab.host(host).killAgent("SIGTERM")));
  }, 90_000);

  test("is made of state.db where nothing of the log can be read", async () => {
    for (const name of readdirSync(raftDir(1)).filter((name) => name.startsWith("raft.db"))) {
      const path = joinPath(raftDir(1), name);
      overwrite(path, 0, statSync(path).size);
    }
    await lab.host(1).startAgent();
    await waitsForOthers(1);
    expect(await force(1)).toMatchObject({ code: 0 });
    expect(await logOf(1)).toContain("The log begins anew from state.db");
    expect(await docker(1, "service", "ls", "--format", "{{.Name}}")).toBe("web");
    await docker(1, "config", "create", "after", "/etc/hostname");
    await lab.host(1).killAgent("SIGKILL");
    await lab.host(1).startAgent();
    await waitFor(
      "host 1 to have all of it",
      async () => (await docker(1, "config", "ls", "--format", "{{.Name}}")) === "after",
    );
    await lab.host(1).killAgent("SIGTERM");
  }, 60_000);

  test("is made of what can be read of the log", async () => {
    // The end of the file: entries, or the snapshot's pieces.
    const path = joinPath(raftDir(2), "raft.db");
    overwrite(path, statSync(path).size - 300, 200);
    await lab.host(2).startAgent();
    await waitsForOthers(2);
    expect(await force(2)).toMatchObject({ code: 0 });
    expect(await docker(2, "service", "ls", "--format", "{{.Name}}")).toBe("web");
    expect(
      await docker(2, "node", "ls", "--filter", "role=manager", "--format", "{{.Hostname}}"),
    ).toBe("h2");
  }, 60_000);
});
