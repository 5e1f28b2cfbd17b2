/** Containers that users put on overlay networks by hand, on a manager and on a worker. */
import { beforeAll, expect, test } from "bun:test";
import { describeLab, type Lab, waitFor } from "./lab.ts";

let lab: Lab;
const docker = (host: number, line: string, ...more: string[]) =>
  lab.host(host).docker(...line.split(" "), ...more);
const fetchFrom = (host: number, container: string, url: string) =>
  docker(host, `exec ${container} timeout 3 wget -qO-`, url);

describeLab("attachable networks", { hosts: 2, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker(1, `swarm init --advertise-addr ${lab.host(1).address}`);
    const token = await docker(1, "swarm join-token -q worker");
    await docker(2, `swarm join --token ${token} ${lab.host(1).address}:2377`);
    await docker(1, "network create -d overlay --attachable shop");
    await docker(1, "network create -d overlay closed");
    await docker(
      1,
      "service create --name web --network shop --constraint node.role==manager lab:latest",
    );
  }, 60_000);

  test("docker run on a worker reaches services and other nodes' containers by name", async () => {
    await docker(2, "run -d --name tool --network shop --network-alias toolbox lab:latest");
    await docker(1, "run -d --name other --network shop lab:latest");
    const answer = await waitFor("the service", () => fetchFrom(2, "tool", "http://web/"));
    const address = await docker(
      2,
      "inspect --format",
      "{{.NetworkSettings.Networks.shop.IPAddress}}",
      "tool",
    );
    expect(answer).toContain(`client=${address} `);
    for (const name of ["tool", "toolbox"]) {
      const seen = await waitFor(name, () => fetchFrom(1, "other", `http://${name}/`));
      expect(seen).toContain("client=");
    }
  }, 60_000);

  test("docker network connect gives a running container a leg", async () => {
    await docker(2, "run -d --name late lab:latest");
    await docker(2, "network connect shop late");
    const web = await docker(1, "service inspect --format", "{{json .Endpoint.VirtualIPs}}", "web");
    const vip = /"Addr":"([0-9.]+)\//.exec(web)?.[1] ?? "";
    expect(await fetchFrom(2, "late", `http://${vip}/`)).toContain("client=");
  }, 60_000);

  test("what cannot be is refused, in words", async () => {
    for (const [flags, text] of [
      ["--network closed", "not manually attachable"],
      ["--network nowhere", "network nowhere not found"],
      ["--network shop --ip 10.9.9.9", "choose another one"],
    ] as const) {
      const command = ["docker", "run", "--rm", ...flags.split(" "), "lab:latest", "true"];
      const result = await lab.host(2).tryRun(command);
      expect(result.code).not.toBe(0);
      expect(result.stderr).toContain(text);
    }
    const removal = await lab.host(1).tryRun(["docker", "network", "rm", "shop"]);
    expect(removal.stderr).toContain("in use by");
  }, 60_000);

  test("a container keeps its address over a restart of itself and of the agent", async () => {
    const format = "{{.NetworkSettings.Networks.shop.IPAddress}}";
    const before = await docker(2, "inspect --format", format, "tool");
    await lab.host(2).killAgent("SIGKILL");
    await lab.host(2).startAgent();
    await docker(2, "restart -t 0 tool");
    expect(await docker(2, "inspect --format", format, "tool")).toBe(before);
    await waitFor("the container by its name", () => fetchFrom(1, "other", "http://tool/"));
  }, 60_000);

  test("the network can go as soon as its containers have", async () => {
    await docker(2, "rm -f tool late");
    await docker(1, "rm -f other");
    await docker(1, "run --rm --network shop lab:latest true");
    await docker(1, "service rm web");
    await waitFor("the network to go", () => docker(1, "network rm shop"), { timeoutMs: 10_000 });
  }, 60_000);
});
