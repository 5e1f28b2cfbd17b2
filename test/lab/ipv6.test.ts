/**
 * Networks with IPv6 on real engines: addresses, names, service addresses, published ports and users'
 * own containers. The rows of the data path themselves: test/net/mesh/ipv6.test.ts.
 */
import { beforeAll, expect, test } from "bun:test";
import { CLIENT_ADDRESS6, hostAddress6 } from "../../scripts/lab/fabric.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const HOSTS = [1, 2, 3] as const;
let lab: Lab;
const docker = (host: number, line: string, ...more: string[]) =>
  lab.host(host).docker(...line.split(" "), ...more);
/** Id of the task's container on this host, as the engine knows it. */
const taskOn = (host: number, service: string) =>
  lab
    .host(host)
    .engine("ps", "-q", "--filter", `label=com.docker.swarm.service.name=${service}`)
    .then((text) => text.split("\n")[0] ?? "");
const fetchFrom = (host: number, container: string, address: string, port = 80) =>
  lab
    .host(host)
    .engine("exec", container, "timeout", "4", "wget", "-qO-", `http://[${address}]:${port}/`);
const clientOf = (answer: string) => /client=(\S+)/.exec(answer)?.[1];
const inspectLeg = (host: number, container: string, network: string, field: string) =>
  docker(
    host,
    "inspect --format",
    `{{(index .NetworkSettings.Networks "${network}").${field}}}`,
    container,
  );
/** Addresses that a name has for a container, by its own resolver. */
async function lookUp(host: number, container: string, name: string): Promise<string[]> {
  const text = await docker(host, `exec ${container} nslookup -type=aaaa ${name} 127.0.0.11`);
  const answers = text
    .split(/^Name:/m)
    .slice(1)
    .join("");
  return [...answers.matchAll(/^Address: (\S+)$/gm)].map((match) => match[1] ?? "").sort();
}

type NetworkJson = {
  EnableIPv6: boolean;
  IPAM: { Config: { Subnet: string; Gateway: string }[] };
};
let vip6 = "";

describeLab("networks with IPv6", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    // One engine that filters IPv6, as newer ones do unasked.
    await lab.host(2).stopDockerd();
    await lab.host(2).startDockerd({ experimental: true, ip6tables: true });
    expect(await lab.host(2).run(["ip6tables", "-S"])).toContain("-P FORWARD DROP");
    await docker(1, `swarm init --advertise-addr ${lab.host(1).address}`);
    const token = await docker(1, "swarm join-token -q worker");
    for (const host of [2, 3]) {
      await docker(host, `swarm join --token ${token} ${lab.host(1).address}:2377`);
    }
    await docker(1, "network create -d overlay --attachable --ipv6 shop");
    await docker(
      1,
      "service create --quiet --no-resolve-image --name web --network shop -p 8080:80 --mode global lab:latest",
    );
    await docker(
      1,
      "service create --quiet --no-resolve-image --name one --network shop -p 8081:80 --constraint node.hostname==h3 lab:latest",
    );
    for (const host of HOSTS) await waitFor("a task of web", () => taskOn(host, "web"));
  }, 120_000);

  test("a network gets a subnet of the cluster's own, or the user's", async () => {
    const inspect = async (name: string) => {
      // What the CLI prints of one network.
      const [found] = JSON.parse(await docker(1, `network inspect ${name}`)) as NetworkJson[];
      return { isSix: found?.EnableIPv6, six: found?.IPAM.Config[1] };
    };
    const own = await inspect("shop");
    expect(own.isSix).toBe(true);
    expect(own.six?.Subnet).toMatch(/^fd[0-9a-f]{2}:[0-9a-f:]+\/64$/);
    await docker(
      1,
      "network create -d overlay --ipv6 --subnet 10.99.0.0/24 --subnet fd99::/64 --gateway fd99::fe mine",
    );
    expect(await inspect("mine")).toEqual({
      isSix: true,
      six: { Subnet: "fd99::/64", Gateway: "fd99::fe" },
    });
    for (const [flags, text] of [
      ["--ipv6 --subnet fd99:0:0:0::/56", "overlaps"],
      ["--subnet fd98::/64", "add --ipv6"],
      ["--ipv6 --subnet fd98::/127", "choose one from 48 to 120"],
    ]) {
      const command = `network create -d overlay ${flags} other`.split(" ");
      const result = await lab.host(1).tryRun(["docker", ...command]);
      expect(result.stderr).toContain(text ?? "");
    }
    await docker(1, "network rm mine");
  }, 30_000);

  test("a service has one address a family, and its tasks, too", async () => {
    const text = await docker(
      1,
      "service inspect --format",
      "{{json .Endpoint.VirtualIPs}}",
      "web",
    );
    const addresses = [...text.matchAll(/"Addr":"([^"]+)"/g)].map((match) => match[1] ?? "");
    // On shop both, on the ingress network one.
    expect(addresses).toHaveLength(3);
    vip6 = addresses.find((address) => address.includes(":"))?.replace("/64", "") ?? "";
    expect(vip6).toMatch(/^fd.*::2$/);
    const tool = await taskOn(1, "web");
    const [four, six] = await Promise.all([
      inspectLeg(1, tool, "shop", "IPAddress"),
      inspectLeg(1, tool, "shop", "GlobalIPv6Address"),
    ]);
    expect(six).toBe(vip6.replace(/2$/, Number(four.split(".")[3]).toString(16)));
  }, 30_000);

  test("AAAA records: a service is its address, tasks are theirs; a name of no IPv6 has none", async () => {
    const tool = await taskOn(2, "web");
    expect(await lookUp(2, tool, "web")).toEqual([vip6]);
    const tasks = await waitFor("the tasks", async () => {
      const found = await lookUp(2, tool, "tasks.web");
      return found.length === 3 ? found : undefined;
    });
    expect(tasks).not.toContain(vip6);
    const byName = await docker(2, `exec ${tool} timeout 4 wget -qO- http://web/`);
    expect(byName).toContain("client=");
  }, 30_000);

  test("tasks reach each other and the service address, on one and on other hosts", async () => {
    const tool = await taskOn(1, "web");
    const own = await inspectLeg(1, tool, "shop", "GlobalIPv6Address");
    for (const host of HOSTS) {
      const other = await inspectLeg(host, await taskOn(host, "web"), "shop", "GlobalIPv6Address");
      const answer = await waitFor(`the task on h${host}`, () => fetchFrom(1, tool, other));
      expect(clientOf(answer)).toBe(own);
    }
    const seen = new Set<string | undefined>();
    await waitFor("all tasks by the service address", async () => {
      const answer = await fetchFrom(1, tool, vip6);
      seen.add(answer.split(" ")[0]);
      return seen.size === 3;
    });
  }, 40_000);

  test("a published port answers at every host by IPv6 and keeps the client's address", async () => {
    for (const host of HOSTS) {
      const url = `http://[${hostAddress6(host)}]:8081/`;
      const answer = await waitFor(`port 8081 of h${host}`, () =>
        lab.client.run(["curl", "-sS", "--max-time", "4", url]),
      );
      expect([host, clientOf(answer)]).toEqual([host, CLIENT_ADDRESS6]);
    }
    // Of the host that has the task, over another: its own address would never come back to it.
    const looped = await lab
      .host(3)
      .run(["curl", "-sS", "--max-time", "4", `http://[${hostAddress6(1)}]:8081/`]);
    expect(looped).toContain("client=");
    const local = await lab
      .host(1)
      .run(["curl", "-sS", "--max-time", "4", "http://localhost:8080"]);
    expect(local).toContain("client=");
  }, 40_000);

  test("docker run and docker network connect give both addresses", async () => {
    await docker(2, "run -d --name tool --network shop lab:latest");
    const own = await inspectLeg(2, "tool", "shop", "GlobalIPv6Address");
    expect(own).toMatch(/^fd/);
    const answer = await waitFor("the service", () => fetchFrom(2, "tool", vip6));
    expect(clientOf(answer)).toBe(own);
    await docker(3, "run -d --name late lab:latest");
    await docker(3, "network connect shop late");
    expect(await inspectLeg(3, "late", "shop", "GlobalIPv6Address")).toMatch(/^fd/);
    expect(clientOf(await waitFor("tool", () => fetchFrom(3, "late", own)))).toMatch(/^fd/);
    const wish = "run --rm --network shop --ip6 fd99::5 lab:latest true".split(" ");
    const refused = await lab.host(2).tryRun(["docker", ...wish]);
    expect(refused.stderr).toContain("leave --ip6 out");
    await docker(2, "rm -f tool");
    await docker(3, "rm -f late");
  }, 60_000);

  test("no route and no proxy was repaired, and IPv6 goes with its network", async () => {
    for (const host of HOSTS) {
      const lines = lab.host(host).agentLog().split("\n");
      const wrong = lines.filter(
        (line) =>
          line.includes("Mesh could not be programmed") ||
          (line.includes("drift mended") && /"(proxy|route|rule|address|neighbour):/.test(line)),
      );
      expect([host, wrong]).toEqual([host, []]);
    }
    await docker(1, "service rm web one");
    await waitFor("the network to go", () => docker(1, "network rm shop"), { timeoutMs: 20_000 });
    await waitFor("the routes to go", async () => {
      const shown = await lab.host(1).run(["ip", "-6", "route", "show", "proto", "117"]);
      return shown === "" ? "gone" : undefined;
    });
  }, 60_000);

  test("an ingress network made again with IPv6 publishes services of no network in it", async () => {
    const ask = "curl -sS --unix-socket /run/shoal/docker.sock -X DELETE http://docker/networks/";
    await waitFor("the ingress network to go", async () => {
      const answer = await lab.host(1).run(`${ask}ingress`.split(" "));
      return answer === "" || answer.includes("not found") ? "gone" : undefined;
    });
    await docker(1, "network create -d overlay --ingress --ipv6 ingress");
    await docker(
      1,
      "service create --quiet --no-resolve-image --name pub -p 8090:80 --constraint node.hostname==h2 lab:latest",
    );
    for (const host of HOSTS) {
      const url = `http://[${hostAddress6(host)}]:8090/`;
      const answer = await waitFor(`port 8090 of h${host}`, () =>
        lab.client.run(["curl", "-sS", "--max-time", "4", url]),
      );
      expect([host, clientOf(answer)]).toEqual([host, CLIENT_ADDRESS6]);
    }
  }, 60_000);
});
