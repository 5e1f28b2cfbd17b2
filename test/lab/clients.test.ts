/** The clients that people use besides the CLI, unchanged, against shoal's socket: docker-py and dockerode. */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import Dockerode from "dockerode";
import { run } from "../../scripts/lab/command.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

let lab: Lab;

describeLab("clients", { hosts: 1, agents: true, tools: ["python3"] }, (made) => {
  beforeAll(async () => {
    lab = made();
    await lab.host(1).docker("swarm", "init", "--advertise-addr", lab.host(1).address);
  }, 60_000);

  test("docker-py creates, watches, changes and removes what a swarm has", async () => {
    const script = join(import.meta.dir, "clients/swarm.py");
    const printed = await run(["/usr/bin/python3", script], {
      env: { DOCKER_HOST: `unix://${lab.host(1).agentSocket()}`, PATH: "/usr/bin:/bin" },
      timeoutMs: 90_000,
    });
    expect(JSON.parse(printed)).toEqual({
      state: "active",
      nodes: ["manager"],
      version: true,
      replicas: 2,
      scaled: { Warnings: null },
      labels: { tier: "two" },
      logs: true,
      answer: true,
      found: ["py"],
      refusal: [409, true],
    });
  }, 120_000);

  test("dockerode does as well", async () => {
    const docker = new Dockerode({ socketPath: lab.host(1).agentSocket() });
    const created = await docker.createService({
      Name: "node",
      TaskTemplate: { ContainerSpec: { Image: "lab:latest", Env: ["A=1"] } },
      Mode: { Replicated: { Replicas: 1 } },
    });
    const service = docker.getService(created.id);
    const filters = { service: ["node"], "desired-state": ["running"] };
    await waitFor("a running task", async () => {
      const tasks = await docker.listTasks({ filters: JSON.stringify(filters) });
      return tasks.some((task: { Status: { State: string } }) => task.Status.State === "running");
    });
    const before = await service.inspect();
    await service.update({
      ...before.Spec,
      version: before.Version.Index,
      Mode: { Replicated: { Replicas: 2 } },
    });
    const after = await service.inspect();
    expect(after.Spec.Mode.Replicated.Replicas).toBe(2);
    expect(after.Version.Index).toBeGreaterThan(before.Version.Index);
    expect((await docker.listNodes()).length).toBe(1);
    const secret = await docker.createSecret({ Name: "dode", Data: btoa("hidden") });
    expect(await docker.getSecret(secret.id).inspect()).toMatchObject({ Spec: { Name: "dode" } });
    const stale = service.update({ ...before.Spec, version: 1 });
    expect(await stale.then(String, String)).toContain("update out of sequence");
    await docker.getSecret(secret.id).remove();
    await service.remove();
    expect(await docker.listServices()).toEqual([]);
  }, 60_000);
});
