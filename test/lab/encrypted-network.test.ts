/**
 * A cluster with an encrypted network, as far as it goes without the kernel's part: who makes the keys, who is
 * told, what each node programs, and that nothing goes in clear. The kernel of the machine that runs tests may
 * have no ESP; `ip xfrm` is a stand-in here that keeps what it is told. What the kernel makes of it is tested in
 * mesh-encryption.test.ts.
 */
import { beforeAll, expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { parseAssociations } from "../../net/mesh/encryption-state.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
const HOSTS = [1, 2];
const read = async (host: number, ...path: string[]) =>
  (await lab.host(host).tryRun(["cat", join("/run/fake-xfrm", ...path)])).stdout;
const associations = async (host: number) => [
  ...parseAssociations(await read(host, "states")).values(),
];
/** What one sends by and the other receives by, in both directions. */
const agreed = async () => {
  const [one = [], two = []] = await Promise.all(HOSTS.map(associations));
  return one.length === 2 && JSON.stringify(sorted(one)) === JSON.stringify(sorted(two))
    ? one
    : undefined;
};
const sorted = (list: { key: string }[]) => list.toSorted((a, b) => (a.key < b.key ? -1 : 1));
const containerOn = async (host: number) =>
  (
    await lab.host(host).engine("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web")
  ).trim();
const addressOn = async (host: number, field: "IPAddress" | "GlobalIPv6Address" = "IPAddress") =>
  (
    await lab
      .host(host)
      .engine(
        "inspect",
        "-f",
        `{{.NetworkSettings.Networks.secret.${field}}}`,
        await containerOn(host),
      )
  ).trim();

describeLab("encrypted network", { hosts: 2 }, (made) => {
  beforeAll(async () => {
    lab = made();
    copyFileSync(join(import.meta.dir, "fake-xfrm/ip"), join(lab.dir, "bin/ip"));
    for (const host of HOSTS) await lab.host(host).startAgent();
    await lab.host(1).docker("swarm", "init");
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "worker");
    await lab.host(2).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    const create = "docker network create -d overlay --ipv6 --opt encrypted secret".split(" ");
    // The nodes have to say that they can, a moment after they joined.
    await waitFor(
      "the network",
      async () => (await lab.host(1).tryRun(create)).code === 0 || undefined,
    );
  }, 60_000);

  test("both nodes derive the same keys, one for each direction", async () => {
    const found = await waitFor("associations", agreed, { timeoutMs: 20_000 });
    expect(new Set(found.map(({ key }) => key)).size).toBe(2);
    expect(found.map(({ source }) => source).toSorted()).toEqual(
      HOSTS.map((host) => lab.host(host).address),
    );
    for (const host of HOSTS) {
      // Towards and from the other, and what drops everything else.
      expect((await read(host, "policies")).trim().split("\n")).toHaveLength(4);
    }
  }, 30_000);

  test("tasks have the smaller MTU and routes over the encrypted device; nothing of theirs goes in clear", async () => {
    const flags = ["--detach", "--no-resolve-image", "--mode", "global", "--network", "secret"];
    await lab
      .host(1)
      .docker("service", "create", ...flags, "--name", "web", "lab:latest", "sleep", "600");
    await waitFor(
      "a task on each host",
      async () => (await Promise.all(HOSTS.map(containerOn))).every((id) => id !== "") || undefined,
      { timeoutMs: 30_000 },
    );
    const there = await addressOn(2);
    const route = await waitFor("the route", async () => {
      const text = await lab.host(1).run(["ip", "route", "show", there]);
      return text.includes("shmeshe") ? text : undefined;
    });
    expect(route).toContain(`via ${lab.host(2).address} dev shmeshe`);
    const there6 = await addressOn(2, "GlobalIPv6Address");
    const route6 = await lab.host(1).run(["ip", "-6", "route", "show", there6]);
    expect(route6).toMatch(/via fe80::\S+ dev shmeshe/);
    const id = await containerOn(1);
    const link = await lab.host(1).engine("exec", id, "cat", "/sys/class/net/eth0/mtu");
    expect(link.trim()).toBe("1416");
    const counter = async (host: number, name: string) =>
      Number(await lab.host(host).run(["cat", `/sys/class/net/shmeshe/statistics/${name}`]));
    const stopped = async () =>
      (await counter(1, "tx_errors")) +
      (await counter(1, "tx_dropped")) +
      (await counter(1, "tx_aborted_errors"));
    const [before, came] = [await stopped(), await counter(2, "rx_packets")];
    for (const address of [there, there6]) {
      const ping = ["docker", "exec", id, "ping", "-c", "2", "-W", "1", address];
      const refused = await lab.host(1).tryRun(ping, { engine: true });
      expect(refused.stdout).toContain("2 packets transmitted, 0 packets received");
    }
    // This kernel does not encrypt: the packets came to the device, and no further.
    expect(await stopped()).toBeGreaterThanOrEqual(before + 4);
    expect([await counter(1, "tx_packets"), await counter(2, "rx_packets")]).toEqual([0, came]);
  }, 60_000);

  test("an association that somebody removes is not made again: another generation takes its place", async () => {
    const before = await agreed();
    const own = before?.find(({ source }) => source === lab.host(1).address);
    const name = `src ${own?.source} dst ${own?.target} proto esp spi 0x${own?.spi.toString(16)}`;
    await lab.host(1).run(["ip", "xfrm", "state", "delete", ...name.split(" ")]);
    const after = await waitFor(
      "another one",
      async () => {
        const list = await associations(1);
        const sends = list.filter(({ source }) => source === lab.host(1).address);
        const heard = await associations(2);
        const [fresh] = sends.filter((one) => heard.some(({ key }) => key === one.key));
        return fresh;
      },
      { timeoutMs: 30_000 },
    );
    expect(before?.map(({ key }) => key)).not.toContain(after.key);
  }, 40_000);

  test("with the network goes all of it, and no key is on a node's disk", async () => {
    const kept = "grep -rl mesh-keys/ /var/lib/shoal/node /var/lib/shoal/mesh";
    // Exit code 1: nothing was found, and everything could be read.
    expect(await lab.host(2).tryRun(kept.split(" "))).toMatchObject({ code: 1, stdout: "" });
    await lab.host(1).docker("service", "rm", "web");
    await waitFor(
      "the network to be free",
      async () =>
        (await lab.host(1).tryRun(["docker", "network", "rm", "secret"])).code === 0 || undefined,
      { timeoutMs: 30_000 },
    );
    await waitFor(
      "nothing of it to be left",
      async () => {
        const left = await Promise.all(
          HOSTS.map(async (host) => (await read(host, "states")) + (await read(host, "policies"))),
        );
        const links = await Promise.all(
          HOSTS.map((host) => lab.host(host).run(["ip", "-br", "link"])),
        );
        return (left.join("").trim() === "" && !links.join("").includes("shmeshe")) || undefined;
      },
      { timeoutMs: 20_000 },
    );
  }, 60_000);
});
