/** What keeps the cluster's nodes sure of each other, on real hosts. The tests build on each other. */
import { beforeAll, describe, expect, test } from "bun:test";
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
      const again = await lab.host(1).tryRun(["docker", "swarm", "ca", "--rotate", "--detach"]);
      expect(again.stderr).toContain("the root CA is being rotated already");
      await lab.host(3).reconnect();
      await waitFor("the rotation to end", async () => !(await isRotating()), {
        timeoutMs: 30_000,
      });
      await waitFor("host 3 to be ready", async () => (await stateOf(3)) === "ready");
      await docker("service update --force web");
    }, 120_000);
  });
});
