/** The lab itself: if one of these fails, the other lab tests say nothing about shoal. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { createLab, findTraces, openLab, removeLab } from "../../scripts/lab/lab.ts";
import { isAlive, readProcessId } from "../../scripts/lab/processes.ts";
import { describeLab, labObstacle } from "./lab.ts";

describeLab("lab", { hosts: 3 }, (lab) => {
  test("hosts have names, addresses and engines of their own", async () => {
    const names = await Promise.all(lab().hosts.map((host) => host.run(["hostname"])));
    expect(names).toEqual(["h1", "h2", "h3"]);
    const ids = await Promise.all(lab().hosts.map((host) => host.engine("info", "-f", "{{.ID}}")));
    expect(new Set(ids).size).toBe(3);
    expect(await lab().host(2).engine("info", "-f", "{{.CgroupDriver}} {{.Name}}")).toBe(
      "cgroupfs h2",
    );
  });

  test("hosts reach each other by address and by name", async () => {
    await lab().host(2).engine("run", "-d", "--name", "web", "-p", "80:80", "lab:latest");
    const answer = await lab().host(1).run(["curl", "-s", "--max-time", "3", "http://h2/"]);
    expect(answer).toContain("client=192.168.77.1 ");
  });

  test("the client is behind the router and keeps its address", async () => {
    expect(await lab().client.curl("http://192.168.77.2/")).toContain("client=203.0.113.9 ");
  });

  test("hosts are strict: reverse paths are checked, forwarding is dropped unless allowed", async () => {
    const host = lab().host(3);
    expect(await host.run(["cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter"])).toBe("1");
    expect(await host.run(["iptables", "-S", "FORWARD"])).toContain("-P FORWARD DROP");
  });

  test("nothing leads out of the lab", async () => {
    const route = await lab().host(1).run(["ip", "route", "get", "198.51.100.1"]);
    expect(route).toContain("via 192.168.77.254");
    const beyond = await lab()
      .client.tryRun(["nsenter", `--net=/run/netns/${lab().name}-rtr`, "ip", "route"])
      .then(({ stdout }) => stdout);
    expect(beyond).not.toContain("default");
  });

  test("what a host writes to /etc, /run and /var/lib stays in it", async () => {
    const paths = ["/etc/shoal-lab-probe", "/run/shoal-lab-probe", "/var/lib/shoal-lab-probe"];
    await lab()
      .host(1)
      .run(["touch", ...paths]);
    for (const path of paths) {
      expect(existsSync(path)).toBe(false);
      expect((await lab().host(2).tryRun(["test", "-e", path])).code).toBe(1);
    }
  });

  test("containers live on while the engine is killed and started again", async () => {
    const host = lab().host(2);
    await host.killDockerd();
    expect(await lab().client.curl("http://192.168.77.2/")).toContain("client=");
    await host.startDockerd();
    expect(await host.engine("ps", "--format", "{{.Names}}")).toBe("web");
  }, 60_000);

  test("cutOff() takes a host off the network and reconnect() brings it back", async () => {
    await lab().host(2).cutOff();
    const curl = ["curl", "-s", "--max-time", "1", "http://192.168.77.2/"];
    expect((await lab().client.tryRun(curl)).code).not.toBe(0);
    await lab().host(2).reconnect();
    expect(await lab().client.curl("http://192.168.77.2/", "--retry", "5")).toContain("client=");
  });
});

const obstacle = labObstacle();
describe.skipIf(obstacle !== undefined)(
  `removeLab()${obstacle ? ` (skipped: ${obstacle})` : ""}`,
  () => {
    test("leaves nothing of a lab with running containers, even without its state file", async () => {
      const lab = await createLab({ hosts: 1 });
      const host = lab.host(1);
      await host.engine("run", "-d", "lab:latest");
      const engine = readProcessId(`${lab.dir}/h1/dockerd.pid`);
      expect(isAlive(engine)).toBe(true);
      expect(openLab(lab.name)?.isComplete).toBe(true);
      await host.run(["rm", "-f", `${lab.dir}/state.json`]);
      expect(await removeLab(lab.name)).toEqual([]);
      expect(await findTraces(lab.name)).toEqual([]);
      expect(isAlive(engine)).toBe(false);
    }, 60_000);
  },
);
