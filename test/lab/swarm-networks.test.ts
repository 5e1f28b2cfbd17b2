/** Networks of the cluster that each node makes with a driver of its engine, from a configuration of its own. */
import { beforeAll, expect, test } from "bun:test";
import { describeLab, type Lab, waitFor } from "./lab.ts";

let lab: Lab;
const docker = (host: number, line: string, ...more: string[]) =>
  lab.host(host).docker(...line.split(" "), ...more);
const tryDocker = (host: number, line: string) =>
  lab.host(host).tryRun(["docker", ...line.split(" ")]);
const configure = (host: number, ipRange: string) =>
  docker(
    host,
    `network create --config-only --subnet 192.168.90.0/24 --gateway 192.168.90.1 --ip-range ${ipRange} -o parent=eth0 mv-cfg`,
  );
const running = (name: string) =>
  docker(1, `service ps ${name} --filter desired-state=running --format`, "{{.CurrentState}}");
const untilRunning = (name: string, count: number) =>
  waitFor(`${name}: ${count} tasks run`, async () => {
    const states = (await running(name))
      .split("\n")
      .filter((state) => state.startsWith("Running "));
    return states.length === count;
  });
const containerOf = (host: number, service: string) =>
  docker(host, `ps -q --filter label=com.docker.swarm.service.name=${service}`);
const addressOf = (host: number, container: string, network: string) =>
  docker(
    host,
    "inspect --format",
    `{{(index .NetworkSettings.Networks "${network}").IPAddress}}`,
    container,
  );
const engineNetworks = async (host: number) =>
  (await lab.host(host).engine("network", "ls", "--format", "{{.Name}}")).split("\n");

describeLab("networks of local drivers", { hosts: 2, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker(1, `swarm init --advertise-addr ${lab.host(1).address}`);
    const token = await docker(1, "swarm join-token -q worker");
    await docker(2, `swarm join --token ${token} ${lab.host(1).address}:2377`);
    await configure(1, "192.168.90.64/28");
    await docker(1, "network create -d macvlan --scope swarm --config-from mv-cfg --attachable mv");
  }, 60_000);

  test("a node without the configuration rejects its task, and says what to do", async () => {
    const line = "service create -d --no-resolve-image --name web --network mv --mode global";
    await docker(1, `${line} lab:latest`);
    const error = await waitFor("the rejected task", async () => {
      const shown = await docker(1, "service ps web --no-trunc --format", "{{.Node}} {{.Error}}");
      return /h2 "configuration network.*/.exec(shown)?.[0];
    });
    expect(error).toContain(
      'configuration network "mv-cfg" does not exist on this node: create it',
    );
    await configure(2, "192.168.90.128/28");
    await untilRunning("web", 2);
  }, 60_000);

  test("tasks on two hosts talk over the parent's segment, with addresses of each engine", async () => {
    const [one, two] = [await containerOf(1, "web"), await containerOf(2, "web")];
    const address = await addressOf(2, two, "mv");
    expect([await addressOf(1, one, "mv"), address]).toEqual(["192.168.90.64", "192.168.90.128"]);
    const answer = await docker(1, `exec ${one} timeout 3 wget -qO- http://${address}/`);
    expect(answer).toContain("client=192.168.90.64 ");
    // The engine knows the names of what runs on its own node.
    for (const name of ["web", "tasks.web"]) {
      expect(await docker(1, `exec ${one} nslookup ${name}`)).toContain("192.168.90.64");
    }
    for (const host of [1, 2]) {
      const shown = await docker(
        host,
        "network inspect --format",
        "{{.Scope}} {{.Driver}} {{.ConfigFrom.Network}} {{.Options.parent}} {{len .Containers}}",
        "mv",
      );
      expect(shown).toBe("swarm macvlan mv-cfg eth0 1");
    }
    const endpoint = await docker(1, "service inspect --format", "{{json .Endpoint}}", "web");
    expect(endpoint).not.toContain("Addr");
  }, 60_000);

  test("docker run joins it on any node, with an address of the engine's or of the user's", async () => {
    await docker(2, "run -d --name tool --network mv --ip 192.168.90.140 lab:latest");
    expect(await addressOf(2, "tool", "mv")).toBe("192.168.90.140");
    const one = await containerOf(1, "web");
    const url = "http://192.168.90.140/";
    expect(await docker(1, `exec ${one} timeout 3 wget -qO- ${url}`)).toContain("client=");
  }, 60_000);

  test("it and its configuration stay while they are used, and go from a node when they are not", async () => {
    for (const [line, text] of [
      ["network rm mv", "is in use by container tool"],
      ["network rm mv-cfg", 'configuration network "mv-cfg" is in use by network mv'],
    ] as const) {
      expect((await tryDocker(1, line)).stderr).toContain(text);
    }
    await docker(1, "network prune -f");
    expect(await engineNetworks(1)).toContain("mv");
    await docker(1, "service rm web");
    await waitFor("it to go from host 1", async () => !(await engineNetworks(1)).includes("mv"));
    // A container of a user keeps it.
    expect(await engineNetworks(2)).toContain("mv");
    await docker(2, "rm -f tool");
    await waitFor("it to go from host 2", async () => !(await engineNetworks(2)).includes("mv"));
    await waitFor("its removal", () => docker(1, "network rm mv"));
    for (const host of [1, 2]) await docker(host, "network rm mv-cfg");
  }, 60_000);

  test("a bridge on every node, and a published port beside it where its name leaves the route", async () => {
    for (const name of ["br", "plain"]) {
      await docker(1, `network create -d bridge --scope swarm ${name}`);
      await docker(
        1,
        `service create -d --no-resolve-image --name on-${name} --network ${name} --mode global`,
        "-p",
        name === "br" ? "8080:80" : "8081:80",
        "lab:latest",
      );
    }
    await untilRunning("on-plain", 2);
    const one = await containerOf(1, "on-plain");
    expect(await addressOf(1, one, "plain")).toMatch(/^172\./);
    for (const host of [1, 2]) {
      const url = `http://${lab.host(host).address}:8081/`;
      await waitFor(`the port on host ${host}`, () => lab.client.curl(url));
    }
    const version = await docker(1, "version --format", "{{.Server.Version}}");
    // Later engines are told which network has the default route.
    if (Number.parseInt(version, 10) >= 28) return;
    await waitFor("the refusal", async () =>
      (await docker(1, "service ps on-br --no-trunc")).includes("give the network a later name"),
    );
  }, 60_000);
});
