/** What dockerode can say to a swarm, on DOCKER_HOST; prints one JSON object a line: step, and answer or error. */
import Dockerode from "dockerode";

const socketPath = (process.env["DOCKER_HOST"] ?? "").replace("unix://", "");
const docker = new Dockerode({ socketPath });

async function show(step, call) {
  let value;
  try {
    value = await call();
    if (Buffer.isBuffer(value)) value = value.toString();
  } catch (error) {
    value = { error: String(error) };
  }
  console.log(JSON.stringify({ step, value: value ?? null }));
}

/** Without what differs from run to run. */
const names = (list) => list.map((one) => one.Spec?.Name).sort();
const keys = (value) => Object.keys(value).sort();
/** Bytes, or what is text already. */
const asText = (value) => Buffer.from(value).toString();
const until = async (isDone) => {
  for (let tries = 0; tries < 200 && !(await isDone()); tries += 1) await Bun.sleep(100);
};
const bytesOf = async (stream, untilText) => {
  let text = "";
  for await (const chunk of stream) {
    text += chunk.toString();
    if (untilText !== undefined && text.includes(untilText)) break;
  }
  return text;
};

await show("ping", () => docker.ping());
await show("swarm", async () => keys(await docker.swarmInspect()));
await show("init again", () => docker.swarmInit({ ListenAddr: "0.0.0.0:2377" }));
await show("leave", () => docker.swarmLeave());
const swarm = await docker.swarmInspect();
await show("update", () => docker.swarmUpdate({ version: swarm.Version.Index, ...swarm.Spec }));
await show("update, stale", () => docker.swarmUpdate({ version: 1, ...swarm.Spec }));

const [first] = await docker.listNodes();
const node = docker.getNode(first?.ID ?? "");
await show("nodes", async () => (await docker.listNodes({ filters: { role: ["manager"] } })).length);
await show("node", async () => keys(await node.inspect()));
const { Version, Spec } = await node.inspect();
await show("node update", () =>
  node.update({ ...Spec, version: Version.Index, Labels: { node: "1" } }),
);
const again = await node.inspect();
await show("node labels", async () => again.Spec.Labels);
await show("node update back", () => node.update({ ...Spec, version: again.Version.Index }));
await show("node removed", () => node.remove());
await show("no node", () => docker.getNode("nosuch").inspect());

const secret = await docker.createSecret({ Name: "dodes", Data: btoa("hidden"), Labels: { a: "b" } });
const config = await docker.createConfig({ Name: "dodec", Data: btoa("shown") });
await show("secrets", async () => names(await docker.listSecrets({ filters: { name: ["dodes"] } })));
await show("configs", async () => names(await docker.listConfigs({ filters: { name: ["dodec"] } })));
await show("secret", () => docker.getSecret(secret.id).inspect());
await show("config", () => docker.getConfig(config.ID ?? config.id).inspect());
const found = await docker.getSecret(secret.id).inspect();
await show("secret update", () =>
  docker.getSecret(secret.id).update({ version: found.Version.Index, ...found.Spec, Labels: { c: "d" } }),
);
await show("secret updated", async () => (await docker.getSecret(secret.id).inspect()).Spec.Labels);

const network = await docker.createNetwork({ Name: "doden", Driver: "overlay", Attachable: true });
await until(async () => (await network.inspect()).Driver === "overlay");
await show("network", async () => keys(await network.inspect()));
await show("networks", async () =>
  (await docker.listNetworks({ filters: { driver: ["overlay"] } })).map((one) => one.Name).sort(),
);

const service = await docker.createService({
  Name: "dode",
  TaskTemplate: {
    ContainerSpec: {
      Image: "lab:latest",
      Command: ["sh", "-c", "echo one; echo two >&2; sleep 600"],
      StopGracePeriod: 1_000_000_000,
      Secrets: [
        { SecretID: secret.id, SecretName: "dodes", File: { Name: "s", UID: "0", GID: "0", Mode: 292 } },
      ],
    },
    Networks: [{ Target: "doden" }],
  },
  Mode: { Replicated: { Replicas: 1 } },
});
const isRunning = async () => {
  const tasks = await docker.listTasks({ filters: JSON.stringify({ service: ["dode"] }) });
  return tasks.some((task) => task.Status.State === "running");
};
await until(isRunning);
await show("service", async () => (await docker.getService(service.id).inspect()).Spec);
await show("services", async () => names(await docker.listServices({ filters: { name: ["dode"] } })));
const logs = { stdout: true, stderr: true };
await until(async () => {
  const stream = await docker.getService("dode").logs({ ...logs, follow: false });
  return asText(stream).includes("two");
});
await show("logs", async () =>
  asText(await docker.getService("dode").logs({ ...logs, follow: false })).match(/one|two/g)?.sort(),
);
await show("logs, followed", async () =>
  (await bytesOf(await docker.getService("dode").logs({ stdout: true, follow: true }), "one")).includes("one"),
);
const [task] = await docker.listTasks({ filters: JSON.stringify({ service: ["dode"] }) });
await show("task", async () => keys(await docker.getTask(task.ID).inspect()));
await show("task logs", async () =>
  asText(await docker.getTask(task.ID).logs({ ...logs, follow: false })).match(/one|two/g)?.sort(),
);
await show("no task", () => docker.getTask("nosuch").inspect());
await show("exec", async () => {
  const box = docker.getContainer(task.Status.ContainerStatus.ContainerID);
  const exec = await box.exec({ Cmd: ["echo", "inside"], AttachStdout: true });
  return (await bytesOf(await exec.start({}), "inside")).includes("inside");
});
const stream = await docker.getEvents({ filters: JSON.stringify({ type: ["service"] }) });
const seen = bytesOf(stream, '"remove"');
await docker.getService("dode").remove();
await show("events", async () =>
  (await seen)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .filter((event) => event.Action === "remove")
    .map((event) => [event.Type, event.Action, event.scope, event.Actor.Attributes]),
);
await show("no service", () => docker.getService("dode").inspect());
await show("secret removed", () => docker.getSecret(secret.id).remove());
await show("config removed", () => docker.getConfig(config.ID ?? config.id).remove());
await show("prune", () => docker.pruneNetworks({ filters: JSON.stringify({ label: ["nosuch"] }) }));
process.exit(0);
