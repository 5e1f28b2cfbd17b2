/**
 * A client that goes on sending from one port, as loggers and game clients do, while the service behind the
 * published port comes, changes and goes. The kernel translates a flow by its first packet only.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";
import { bunMounts } from "./traffic/bun-container.ts";

const PORT = 9_000;
let lab: Lab;

describeLab("UDP clients that go on sending", { hosts: 2, agents: true }, (made) => {
  /** The newest answer through each host. */
  const newest = new Map<number, string>();
  const clients: Bun.Subprocess[] = [];
  const docker = (line: string, ...more: string[]) =>
    lab.host(1).docker(...line.split(" "), ...more);
  const create = (name: string, version: number) =>
    docker(
      `service create -d --name ${name} --publish ${PORT}:${PORT}/udp --env UDP_PORT=${PORT} --env VERSION=${version}`,
      ...bunMounts(),
      "lab:latest",
      "/bin/bun",
      "/traffic/server.ts",
    );
  const answers = (version: number) =>
    waitFor(`version ${version} to answer through both hosts`, () =>
      [1, 2].every((host) => newest.get(host) === `x ${version} ${lab.client.address}`),
    );
  beforeAll(async () => {
    lab = made();
    const [first, second] = lab.hosts;
    const address = first?.address ?? "";
    await docker(`swarm init --advertise-addr ${address}`);
    const token = await docker("swarm join-token -q worker");
    await second?.docker("swarm", "join", "--token", token, `${address}:2377`);
    for (const host of [1, 2]) {
      const sender = join(import.meta.dir, "traffic", "udp-sender.ts");
      const command = [process.execPath, sender, lab.host(host).address, String(PORT)];
      const child = Bun.spawn(lab.client.enter(command), { stdout: "pipe" });
      clients.push(child);
      void (async () => {
        const decoder = new TextDecoder();
        for await (const chunk of child.stdout) {
          const lines = decoder.decode(chunk, { stream: true }).trim().split("\n");
          newest.set(host, lines.at(-1) ?? "");
        }
      })();
    }
  }, 90_000);
  afterAll(() => {
    for (const client of clients) client.kill();
  });

  test("reach a service that comes after them, its next version, and its successor", async () => {
    await create("one", 1);
    await answers(1);
    // One replica, stopped first: for a moment nobody is behind the port.
    await docker("service update -d --env-add VERSION=2 one");
    await answers(2);
    await docker("service rm one");
    await create("two", 3);
    await answers(3);
    await docker("service scale -d two=0");
    await waitFor("nobody to answer", async () => {
      newest.clear();
      await Bun.sleep(500);
      return newest.size === 0;
    });
    await docker("service scale -d two=1");
    await answers(3);
    expect(newest.size).toBe(2);
  }, 120_000);
});
