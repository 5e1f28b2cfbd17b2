/** A host that has lost power comes back, and finds no manager. */
import { beforeAll, expect, test } from "bun:test";
import { describeLab, type Lab, waitFor } from "./lab.ts";

describeLab("a worker on its own after a power cut", { hosts: 2, agents: true }, (made) => {
  let lab: Lab;
  const docker = (line: string, ...more: string[]) =>
    lab.host(1).docker(...line.split(" "), ...more);
  const containers = (...more: string[]) =>
    lab.host(2).engine("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web", ...more);

  beforeAll(async () => {
    lab = made();
    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    const token = await docker("swarm join-token -q worker");
    await lab.host(2).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
    await lab.host(1).run(["sh", "-c", "printf hidden | docker secret create pass -"]);
    const options = "--secret pass --publish 8080:80 --constraint node.role==worker";
    await docker(`service create --name web --replicas 2 ${options} lab:latest`);
  }, 60_000);

  test("runs again what it had, with its secrets and ports, and the managers find it so", async () => {
    const before = await containers();
    expect(before.split("\n")).toHaveLength(2);
    const tasks = await docker("service ps -q web");
    await lab.host(1).killAgent("SIGKILL");
    await lab.host(2).powerOff();
    await lab.host(2).powerOn();
    await lab.host(2).startDockerd();
    await lab.host(2).startAgent();
    expect(await containers()).toBe("");
    await waitFor("the containers", async () => (await containers()) !== "", { timeoutMs: 45_000 });
    await waitFor("both", async () => (await containers()).split("\n").length === 2);
    const [id = ""] = (await containers()).split("\n");
    expect(before).toContain(id);
    expect(await lab.host(2).engine("exec", id, "cat", "/run/secrets/pass")).toBe("hidden");
    await waitFor("the published port", () =>
      lab.client.curl(`http://${lab.host(2).address}:8080/`),
    );
    await lab.host(1).startAgent();
    await waitFor(
      "the managers to have heard of it",
      async () => (await docker("service ls --format {{.Replicas}}")) === "2/2",
    );
    expect(await docker("service ps -q web")).toBe(tasks);
    expect((await containers()).split("\n").toSorted()).toEqual(before.split("\n").toSorted());
  }, 90_000);
});
