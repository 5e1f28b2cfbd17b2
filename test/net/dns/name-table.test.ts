import { describe, expect, test } from "bun:test";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import type { Task } from "../../../core/objects/task.ts";
import { type Random, seededRandom } from "../../../core/random.ts";
import { answerQuestion } from "../../../net/dns/answer.ts";
import { changeTable } from "../../../net/dns/name-change.ts";
import {
  changeNames,
  createNameTable,
  type NameTable,
  nameserversOf,
  nameTable,
} from "../../../net/dns/name-table.ts";
import { emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import { labItems, labNetwork, labService, labTable, networkId } from "../mesh/lab-state.ts";

const NETWORKS = ["netA", "netB", "netI"];
const addressOf = (place: number) => `10.10${1 + (place % 3)}.0.${10 + place}`;

/** Items of a small world in which names, addresses and networks collide all the time. */
function randomItem(random: Random): AssignmentItem {
  const pick = (count: number) => Math.floor(random.next() * count);
  const number = pick(6);
  const networks = NETWORKS.filter(() => random.next() < 0.5);
  switch (pick(5)) {
    case 0: {
      const body = labNetwork(NETWORKS[pick(3)] ?? "");
      return { key: `network/${body.id}`, kind: "network", body };
    }
    case 1:
    case 2: {
      const body = {
        serviceId: `s${number % 4}`,
        name: `service${number % 3}`,
        mode: random.next() < 0.5 ? ("vip" as const) : ("dnsrr" as const),
        virtualIps: networks.map((name) => ({
          networkId: networkId(name),
          address: addressOf(pick(4)),
        })),
        ports: [],
        aliases: networks.map((name) => ({ networkId: networkId(name), names: ["Both", "x"] })),
      };
      return { key: `service/${number}`, kind: "service", body };
    }
    default: {
      const body = {
        taskId: `t${number}`,
        serviceId: number === 5 ? "" : `s${number % 4}`,
        name: `task${number}`,
        nodeId: "node1",
        addresses: networks.map((name) => ({
          networkId: networkId(name),
          address: addressOf(pick(8)),
        })),
        isReady: random.next() < 0.7,
        ...(number === 5 ? { aliases: ["both", "task5"] } : {}),
      };
      return { key: `endpoint/t${number}`, kind: "endpoint", body };
    }
  }
}

/** All that can be asked in that world. */
function allAnswers(names: NameTable): string[] {
  const asked = ["both", "x", "nobody", "both.netb", "service0.neta"];
  for (let number = 0; number < 6; number += 1) {
    asked.push(`task${number}`, `service${number}`, `tasks.service${number}`);
  }
  const answers: string[] = [];
  for (let place = 0; place < 9; place += 1) {
    const asker = addressOf(place);
    const pointer = `${asker.split(".").reverse().join(".")}.in-addr.arpa`;
    for (const name of [...asked, pointer]) {
      const type = name === pointer ? "PTR" : "A";
      const answer = answerQuestion({ name, type }, names, asker, () => 0);
      const data =
        answer.type === "reply" ? answer.records.map((record) => record.data).sort() : [];
      const life = answer.type === "reply" ? answer.records[0]?.ttlS : "";
      const code = answer.type === "reply" ? answer.code : "forward";
      answers.push(`${asker} ${name}: ${code} ${data.join(" ")} ${life}`);
    }
  }
  return answers;
}

describe("name table", () => {
  test("changed item by item it answers as one that is made anew", () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const random = seededRandom(seed);
      const table = emptyTable();
      const names = createNameTable();
      for (let turn = 0; turn < 60; turn += 1) {
        const put = Array.from({ length: 2 }, () => randomItem(random));
        const known = [...table.networks.keys(), ...table.services.keys()];
        known.push(...table.endpoints.keys());
        const removed = known.filter(() => random.next() < 0.1);
        changeNames(names, changeTable(table, { isComplete: turn === 30, put, removed }).names);
        if (turn % 5 === 0) expect(allAnswers(names)).toEqual(allAnswers(nameTable(table)));
      }
      changeNames(names, changeTable(table, { isComplete: true, put: [], removed: [] }).names);
      // Nothing is left behind.
      expect(names).toEqual(createNameTable());
    }
  });

  test("a complete set that is what was known is no change for names", () => {
    const table = labTable(1);
    const again = changeTable(table, { isComplete: true, put: labItems(1), removed: [] });
    expect(again.names).toEqual({ put: [], removed: [] });
    const web = { ...labService("web"), ports: [] };
    const item = { key: "service/service-web", kind: "service" as const, body: web };
    // Ports are nothing to a name.
    expect(changeTable(table, { isComplete: false, put: [item], removed: [] }).names.put).toEqual(
      [],
    );
  });

  test("a task's own name servers are known by its addresses, and go with it", () => {
    const table: MeshTable = emptyTable();
    const names = createNameTable();
    // Only what is read of a task.
    const task = {
      id: "t",
      spec: { ContainerSpec: { Image: "x", DNSConfig: { Nameservers: ["192.0.2.7"] } } },
      networks: [{ networkId: "n", address: "10.101.0.9", aliases: [] }],
    } as unknown as Task;
    const put: AssignmentItem[] = [{ key: "task/t", kind: "task", body: task }];
    const change = changeTable(table, { isComplete: false, put, removed: [] });
    expect(change.isChanged).toBeTrue();
    changeNames(names, change.names);
    expect(nameserversOf(names, "10.101.0.9")).toEqual(["192.0.2.7"]);
    // Its status changes often, its servers do not.
    expect(changeTable(table, { isComplete: false, put, removed: [] })).toEqual({
      isChanged: false,
      names: { put: [], removed: [] },
    });
    const gone = changeTable(table, { isComplete: false, put: [], removed: ["task/t"] });
    changeNames(names, gone.names);
    expect(nameserversOf(names, "10.101.0.9")).toBeUndefined();
  });
});
