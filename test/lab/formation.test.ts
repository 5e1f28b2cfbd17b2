/** A cluster that forms by itself: the same options on every host, no init, no token, no join. */
import { beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const MANAGERS = [1, 2, 3];
const DATA_DIR = "/var/lib/shoal";
let lab: Lab;

describeLab("formation", { hosts: 4 }, (made) => {
  const start = (host: number, secret = "secret") =>
    lab
      .host(host)
      .startAgent([
        `--cluster-peers=${MANAGERS.map((index) => lab.host(index).name).join(",")}`,
        `--cluster-secret-file=${join(lab.dir, secret)}`,
      ]);
  const swarmOf = async (host: number) => {
    const info = await lab.host(host).docker("info", "--format", "{{json .Swarm}}");
    // As the CLI prints it.
    return JSON.parse(info) as { LocalNodeState: string; Error: string };
  };
  const ready = (host: number) => `h${host} Ready Reachable`;
  const nodes = async (host: number) => {
    const format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
    const result = await lab.host(host).tryRun(["docker", "node", "ls", "--format", format]);
    return result.stdout
      .split("\n")
      .map((line) => line.trim().replace("Leader", "Reachable"))
      .filter((line) => line !== "")
      .sort();
  };
  beforeAll(() => {
    lab = made();
    writeFileSync(join(lab.dir, "secret"), `${"5ea1".repeat(8)}\n`);
    writeFileSync(join(lab.dir, "other"), `${"0ddc".repeat(8)}\n`);
  });

  test("nothing is founded while one of the managers is missing, or has another secret", async () => {
    await Promise.all([start(1), start(2)]);
    await waitFor("h1 to say that it waits for h3 only", async () => {
      const { Error: error, LocalNodeState } = await swarmOf(1);
      expect(LocalNodeState).toBe("inactive");
      return error.includes("the cluster is founded when all answer: h3: Cannot connect to h3");
    });
    await start(3, "other");
    await waitFor("h1 to say what is wrong with h3", async () =>
      (await swarmOf(1)).Error.includes("h3: the formation secrets of the two hosts differ"),
    );
    expect((await swarmOf(2)).Error).toContain("h1 is to found the cluster");
    await lab.host(3).killAgent();
  }, 60_000);

  test("the hosts of the list become managers, another host a worker", async () => {
    await Promise.all([start(3), start(4)]);
    await waitFor(
      "three managers and a worker",
      async () => (await nodes(1)).join() === [...MANAGERS.map(ready), "h4 Ready"].join(),
      { timeoutMs: 40_000 },
    );
    const make = "service create -d --name web --mode global --publish 8080:80 lab:latest";
    await lab.host(2).docker(...make.split(" "));
    await waitFor("the service to answer by the worker", async () => {
      const url = `http://${lab.host(4).address}:8080/`;
      return (await lab.client.tryRun(["curl", "-sf", "-m", "2", url])).code === 0;
    });
    expect(await swarmOf(4)).toMatchObject({ LocalNodeState: "active", Error: "" });
  }, 60_000);

  test("a founder that lost its disk joins as a new manager in the place of the old one", async () => {
    const [h1] = lab.hosts;
    const idOfH1 = () => lab.host(2).docker("node", "ls", "-q", "--filter", "name=h1");
    const before = await idOfH1();
    await h1?.killAgent("SIGKILL");
    await h1?.run(["sh", "-c", `rm -rf ${DATA_DIR}/*`]);
    await start(1);
    await waitFor("the old one to be gone", async () => !(await idOfH1()).includes(before), {
      timeoutMs: 60_000,
    });
    expect(await nodes(2)).toEqual([...MANAGERS.map(ready), "h4 Ready"]);
    // What ran there for the node that was goes with it.
    await waitFor("one task of the service on each host", async () => {
      const mine = await lab.host(1).engine("ps", "-q", "--filter", "name=web");
      const tasks = await lab.host(1).docker("node", "ps", "-q", "self");
      return mine.split("\n").length === 1 && tasks.split("\n").length === 1;
    });
  }, 90_000);

  test("who leaves stays out, also after a restart", async () => {
    const h4 = lab.host(4);
    await h4.docker("swarm", "leave");
    await h4.killAgent();
    await start(4);
    await waitFor("h4 down at the managers", async () => (await nodes(2)).includes("h4 Down"));
    expect(await swarmOf(4)).toMatchObject({ LocalNodeState: "inactive", Error: "" });
    // And comes back when told to.
    const token = await lab.host(2).docker("swarm", "join-token", "-q", "worker");
    await h4.docker("swarm", "join", "--token", token, `${lab.host(2).address}:2377`);
    expect((await swarmOf(4)).LocalNodeState).toBe("active");
  }, 60_000);
});
