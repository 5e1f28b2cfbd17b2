import { describe, expect, test } from "bun:test";
import { chooseTargets, ENDPOINTS_MAX, PEERS_MAX, window } from "../../../agent/doctor/targets.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { emptyTable } from "../../../net/mesh/table.ts";
import { labTable, networkId } from "../../net/mesh/lab-state.ts";

describe("targets", () => {
  test("peers, ready tasks behind published TCP ports, the ports, DNS of networks that are here", () => {
    const devices = new Set([bridgeName(networkId("netA"))]);
    const targets = chooseTargets(labTable(1), devices, 0);
    expect(targets.self).toMatchObject({ nodeId: "node1", dataPathAddr: "192.168.77.1" });
    expect(targets.peers.map(({ nodeId }) => nodeId)).toEqual(["node2", "node3"]);
    const web = targets.endpoints.filter(({ service }) => service === "web");
    expect(web.map(({ address, port }) => `${address}:${port}`).toSorted()).toEqual([
      "10.101.0.21:80",
      "10.101.0.21:9000",
      "10.101.0.22:80",
      "10.101.0.22:9000",
      "10.101.0.23:80",
      "10.101.0.23:9000",
    ]);
    expect(web.filter(({ isLocal }) => isLocal).map(({ address }) => address)).toEqual([
      "10.101.0.21",
      "10.101.0.21",
    ]);
    // Its internal leg is not where the port leads.
    const mixed = targets.endpoints.filter(({ service }) => service === "mixed");
    expect(mixed.map(({ address }) => address)).toEqual(["10.105.0.13"]);
    const ports = targets.ports.map(({ publishedPort }) => publishedPort);
    expect(ports).toContain(8080);
    // Of a service without tasks; UDP and SCTP have no connection to try.
    expect(ports).not.toContain(8083);
    expect(ports).not.toContain(9002);
    expect(targets.published.get(8083)).toBe("empty");
    expect(targets.dns).toMatchObject([{ network: "netA", gateway: "10.101.0.1" }]);
    // A task of this node, which must find its own service.
    expect(["web", "cli"]).toContain(targets.dns[0]?.task?.name ?? "");
    expect(targets.leftOut).toEqual({ peers: 0, endpoints: 0, ports: 0, networks: 0 });
  });

  test("an empty table has none", () => {
    const targets = chooseTargets(emptyTable(), new Set(), 3);
    expect([targets.peers, targets.managers, targets.endpoints, targets.ports]).toEqual([
      [],
      [],
      [],
      [],
    ]);
    expect(targets.self).toBeUndefined();
  });

  test("samples are bounded, and by turns everything comes up", () => {
    const table = labTable(1);
    const [peer] = table.peers.values();
    const [endpoint] = [...table.endpoints.values()].filter((one) => one.name.startsWith("web"));
    if (!peer || !endpoint) throw new Error("the lab has both");
    for (let i = 0; i < 250; i++) {
      const nodeId = `more${i}`;
      table.peers.set(`peer/${nodeId}`, { ...peer, nodeId });
      table.endpoints.set(`endpoint/${i}`, { ...endpoint, taskId: `t${i}` });
    }
    const seen = new Set<string>();
    for (let turn = 0; turn < 3; turn++) {
      const { peers, endpoints, leftOut } = chooseTargets(table, new Set(), turn);
      expect([peers.length, endpoints.length]).toEqual([PEERS_MAX, ENDPOINTS_MAX]);
      expect(leftOut.peers).toBe(252 - PEERS_MAX);
      for (const { nodeId } of peers) seen.add(nodeId);
    }
    expect(seen.size).toBe(252);
  });

  test("a window goes round the end", () => {
    expect([0, 1, 2].map((turn) => window([1, 2, 3, 4, 5], 2, turn))).toEqual([
      [1, 2],
      [3, 4],
      [5, 1],
    ]);
  });
});
