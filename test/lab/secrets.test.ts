/**
 * Secrets at rest and in use, on three managers: sealed in every file of every host, in clear only in
 * the tmpfs of a task that uses them, and there for a leader that was not there when they were made.
 */
import { beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { decodeBackup } from "../../agent/backup.ts";
import { openSigningCa, openTokens } from "../../agent/cluster-secrets.ts";
import type { VaultStatus } from "../../agent/data-keys.ts";
import { openByKeys } from "../../agent/vault.ts";
import { decodeSnapshot, encodeSnapshot } from "../../core/store/sqlite-snapshot.ts";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

/** In no other text of this machine. */
const SECRET = "swordfish-4f1c9d27e8";
const AUTH = "c3dvcmRmaXNoLWF1dGgtNzcxMmRl";
const WORDS = [SECRET, Buffer.from(SECRET).toString("base64").slice(0, 24), AUTH];

let lab: Lab;
const docker = (host: number, ...args: string[]) => lab.host(host).docker(...args);

/** The host's file system, seen from outside. */
const rootOf = (host: number) => `/proc/${lab.host(host).pid("holder")}/root`;

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Files of a host's agent in which one of the words is. */
function search(host: number, words: readonly string[] = WORDS): string[] {
  return filesBelow(join(rootOf(host), "var/lib/shoal")).filter((file) => {
    const bytes = readFileSync(file);
    return words.some((word) => bytes.includes(word));
  });
}
/** Of the config: in a backup that is not encrypted it is as it was given. */
const CONTROL = Buffer.from('p={{secret "p"}}').toString("base64").slice(0, 16);

async function backupOf(host: number) {
  const answer = await fetch("http://lab/shoal/v1/backup", { unix: lab.host(host).agentSocket() });
  return decodeBackup(new Uint8Array(await answer.arrayBuffer()));
}

/** The running container of a service, wherever it is. */
const containerOf = (service: string) =>
  waitFor(
    `${service} to run`,
    async () => {
      for (const host of lab.hosts) {
        const filter = `label=com.docker.swarm.service.name=${service}`;
        const id = await host.engine("ps", "-q", "--filter", filter).catch(() => "");
        if (id !== "") return { host, id: id.split("\n")[0] ?? "" };
      }
      throw new Error(await docker(1, "service", "ps", "--no-trunc", service).catch(String));
    },
    { timeoutMs: 30_000 },
  );

const create = (host: number, name: string, ...rest: string[]) =>
  docker(
    host,
    "service",
    "create",
    "--detach",
    "--no-resolve-image",
    "--stop-grace-period",
    "0s",
    "--name",
    name,
    ...rest,
    "lab:latest",
    "sleep",
    "600",
  );

describeLab("secrets", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker(1, "swarm", "init");
    const token = await docker(1, "swarm", "join-token", "-q", "manager");
    for (const host of [2, 3]) {
      await docker(host, "swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    }
    const make = `printf %s ${SECRET} | docker secret create pass -`;
    // On a follower: the key is everywhere from the first moment.
    await lab.host(2).run(["sh", "-c", make]);
    const template =
      "printf 'p={{secret \"p\"}} s={{.Service.Name}}' | docker config create --template-driver golang conf -";
    await lab.host(3).run(["sh", "-c", template]);
    await fetch("http://lab/services/create", {
      unix: lab.host(1).agentSocket(),
      method: "POST",
      headers: { "x-registry-auth": AUTH },
      body: JSON.stringify({
        Name: "private",
        TaskTemplate: {
          ContainerSpec: { Image: "lab:latest", Command: ["sleep", "600"], StopGracePeriod: 0 },
        },
      }),
    });
    await create(
      1,
      "user",
      "--secret",
      "source=pass,target=p,uid=7,gid=8,mode=0440",
      "--config",
      "source=conf,target=/etc/conf",
    );
  }, 90_000);

  test("a task has its secret on a tmpfs, with owner and mode, and in a template", async () => {
    const { host, id } = await containerOf("user");
    expect(await host.engine("exec", id, "cat", "/run/secrets/p")).toBe(SECRET);
    expect(await host.engine("exec", id, "stat", "-c", "%u:%g %a", "/run/secrets/p")).toBe(
      "7:8 440",
    );
    expect(await host.engine("exec", id, "stat", "-f", "-c", "%T", "/run/secrets/p")).toBe("tmpfs");
    expect(await host.engine("exec", id, "cat", "/etc/conf")).toBe(`p=${SECRET} s=user`);
  }, 60_000);

  test("no file of any agent has it in clear, nor what is printed of it", async () => {
    await containerOf("private");
    for (const host of [1, 2, 3]) {
      expect(search(host)).toEqual([]);
      // The search finds what is there: the cluster's id.
      const clusterId = await docker(host, "info", "--format", "{{.Swarm.Cluster.ID}}");
      expect(search(host, [clusterId]).length).toBeGreaterThan(0);
      const keys = join(rootOf(host), "var/lib/shoal/pki/data-keys.json");
      expect(statSync(keys).mode & 0o777).toBe(0o600);
    }
    const printed = [
      await docker(2, "secret", "inspect", "pass"),
      await docker(2, "service", "inspect", "user", "private"),
      ...lab.hosts.map((host) => readFileSync(join(lab.dir, host.name, "agent.log"), "utf8")),
    ].join("\n");
    // Snapshots are compressed, so what is in one is looked at unpacked.
    const rows = JSON.stringify(decodeSnapshot((await backupOf(2)).snapshot).rows);
    for (const word of WORDS) expect((printed + rows).includes(word)).toBe(false);
    expect(rows.includes(CONTROL)).toBe(true);
  }, 60_000);

  test("a new leader opens what was sealed before it led", async () => {
    const leader = await docker(1, "node", "ls", "--format", "{{.ManagerStatus}} {{.Hostname}}");
    const name = /Leader (h\d)/.exec(leader)?.[1];
    const dead = lab.hosts.find((host) => host.name === name) ?? lab.host(1);
    const asked = Number(lab.hosts.find((host) => host !== dead)?.name.slice(1));
    await dead.killAgent("SIGKILL");
    await waitFor(
      "a service to be taken",
      async () =>
        (await create(
          asked,
          "later",
          "--secret",
          "pass",
          "--constraint",
          `node.hostname!=${name}`,
        )) !== "",
      { timeoutMs: 30_000 },
    );
    const { host, id } = await containerOf("later");
    expect(await host.engine("exec", id, "cat", "/run/secrets/pass")).toBe(SECRET);
    // And again from its own journal and keys, after a kill.
    await dead.startAgent();
    await waitFor(
      "the killed manager to answer",
      async () => (await dead.docker("secret", "ls", "-q")) !== "",
      { timeoutMs: 30_000 },
    );
    expect(search(Number(name?.slice(1)))).toEqual([]);
  }, 90_000);

  test("shoal vault rotate seals everything by a new key, also while a manager is away", async () => {
    const vault = async (host: number) =>
      JSON.parse(
        await lab
          .host(host)
          .run([
            "curl",
            "-sSf",
            "--unix-socket",
            "/run/shoal/docker.sock",
            "http://x/shoal/v1/vault",
          ]),
      ) as VaultStatus;
    const rotate = (host: number) => lab.host(host).run(["shoal", "vault", "rotate"]);
    const before = await backupOf(1);
    const oldKeys = before.dataKeys.map(({ id }) => id);
    const usesOldKey = async (host: number) => {
      const text = JSON.stringify(decodeSnapshot((await backupOf(host)).snapshot).rows);
      return oldKeys.some((id) => text.includes(`${id}.`));
    };
    expect(await usesOldKey(1)).toBe(true);
    expect(await rotate(1)).toMatch(/^Everything is sealed by data key [0-9a-f]{16}\.$/);
    const { sealingKeyId } = await vault(2);
    expect(await usesOldKey(2)).toBe(false);
    const services = await docker(1, "service", "ls", "--format", "{{.Name}} {{.Replicas}}");
    await lab.host(3).killAgent("SIGKILL");
    await waitFor(
      "h3 to be down",
      async () =>
        (await docker(1, "node", "inspect", "--format", "{{.Status.State}}", "h3")) === "down",
    );
    await rotate(2);
    expect((await vault(1)).sealingKeyId).not.toBe(sealingKeyId);
    await lab.host(3).startAgent();
    await waitFor("h3 to have the key", async () => {
      await lab.host(3).run(["sh", "-c", "echo late | docker secret create late -"]);
      return true;
    });
    await docker(1, "secret", "rm", "late");
    // Nobody was replaced for it.
    expect(await docker(1, "service", "ls", "--format", "{{.Name}} {{.Replicas}}")).toBe(services);
    await create(2, "rotated", "--secret", "pass");
    const { host, id } = await containerOf("rotated");
    expect(await host.engine("exec", id, "cat", "/run/secrets/pass")).toBe(SECRET);
    for (const { name } of lab.hosts) expect(search(Number(name.slice(1)))).toEqual([]);
  }, 90_000);

  test("a demoted manager keeps no key", async () => {
    const keys = join(rootOf(3), "var/lib/shoal/pki/data-keys.json");
    await waitFor(
      "h3 to be demoted: the one that was killed must be back for it",
      async () => (await docker(2, "node", "demote", "h3")) !== "",
      { timeoutMs: 30_000 },
    );
    await waitFor(
      "the keys to be gone",
      () => Promise.resolve(!filesBelow(join(keys, "..")).includes(keys)),
      {
        timeoutMs: 30_000,
      },
    );
  }, 60_000);

  test("a backup from before secrets were sealed is restored, and they are sealed then", async () => {
    const { header, snapshot, dataKeys } = await backupOf(2);
    const { index, rows } = decodeSnapshot(snapshot);
    const keys = { open: (context: string, text: string) => openByKeys(dataKeys, context, text) };
    const bodies = rows.map((row) => {
      const { table, object } = row;
      if (row.table === "cluster") {
        const rootCa = openSigningCa(keys, row.object);
        const joinTokens = openTokens(keys, row.object);
        return { table, body: JSON.stringify({ ...object, rootCa, joinTokens }) };
      }
      const inClear = { Name: "pass", Labels: {}, Data: Buffer.from(SECRET).toString("base64") };
      const body = table === "secret" ? { ...object, spec: inClear } : object;
      return { table, body: JSON.stringify(body) };
    });
    const old = Buffer.concat([
      Buffer.from(`shoal-backup 1\n${JSON.stringify(header)}\n`),
      encodeSnapshot(index, bodies),
    ]);
    await docker(3, "swarm", "leave", "--force");
    const answer = await fetch("http://lab/shoal/v1/restore", {
      unix: lab.host(3).agentSocket(),
      method: "POST",
      body: Buffer.concat([old, createHash("sha256").update(old).digest()]),
    });
    expect([answer.status, answer.ok ? "" : await answer.text()]).toEqual([200, ""]);
    const stored = await waitFor(
      "the secret to be sealed",
      async () => {
        const restored = decodeSnapshot((await backupOf(3)).snapshot);
        const text = JSON.stringify(restored.rows.filter((row) => row.table === "secret"));
        return text.includes('"Sealed":"') && !text.includes('"Data"') ? text : undefined;
      },
      { timeoutMs: 20_000 },
    );
    for (const word of WORDS) expect(stored.includes(word)).toBe(false);
    await create(3, "restored", "--secret", "pass", "--constraint", "node.hostname==h3");
    const { host, id } = await containerOf("restored");
    expect(await host.engine("exec", id, "cat", "/run/secrets/pass")).toBe(SECRET);
  }, 60_000);
});
