import { describe, expect, test } from "bun:test";
import { seededRandom } from "../../../core/random.ts";
import { parseAddress6 } from "../../../core/store/cidr6.ts";
import { answerQuestion, type DnsAnswer, LIST_TTL_S } from "../../../net/dns/answer.ts";
import { nameTable } from "../../../net/dns/name-table.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "../mesh/ipv6-lab.ts";
import { labEndpoint, labService, labTable, networkId } from "../mesh/lab-state.ts";

const random = () => seededRandom(7).next();
const A1 = "10.101.0.11";
const B1 = "10.102.0.11";
const AB2 = "10.102.0.12";

function ask(table: MeshTable, asker: string, name: string, type = "A"): DnsAnswer {
  return answerQuestion({ name, type }, nameTable(table), asker, random);
}
/** Data of the records, `NXDOMAIN`, `none` or `forward`. */
function seen(table: MeshTable, asker: string, name: string, type = "A"): string {
  const answer = ask(table, asker, name, type);
  if (answer.type === "forward") return "forward";
  if (answer.code === "NXDOMAIN") return "NXDOMAIN";
  const data = answer.records.map((record) => record.data);
  data.sort();
  return data.join(" ") || "none";
}

describe("answerQuestion", () => {
  const table = labTable(1);

  test("a service is its address, its tasks are the ready ones", () => {
    expect(seen(table, A1, "web")).toBe("10.101.0.2");
    expect(seen(table, A1, "tasks.web")).toBe("10.101.0.21 10.101.0.22 10.101.0.23");
    const drained = labTable(1);
    const web2 = { name: "web2", service: "web", node: 2, legs: { netA: "10.101.0.22" } };
    drained.endpoints.set("endpoint/task-web2", labEndpoint(web2, false));
    expect(seen(drained, A1, "tasks.web")).toBe("10.101.0.21 10.101.0.23");
    // By its own name a task is found while it starts or stops as well.
    expect(seen(drained, A1, "web.1.web2")).toBe("10.101.0.22");
  });

  test("only the names of the asker's networks exist", () => {
    expect(seen(table, A1, "far")).toBe("10.101.0.3");
    expect(seen(table, B1, "far")).toBe("10.102.0.3");
    expect(seen(table, B1, "web")).toBe("NXDOMAIN");
    expect(seen(table, A1, "solo")).toBe("NXDOMAIN");
    // On two networks, the first by name answers; the other can be named.
    expect(seen(table, AB2, "far")).toBe("10.101.0.3");
    expect(seen(table, AB2, "far.netB")).toBe("10.102.0.3");
    expect(seen(table, A1, "far.netB")).toBe("forward");
  });

  test("a container made by hand is known by the network its address lies in", () => {
    expect(seen(table, "10.101.0.200", "web")).toBe("10.101.0.2");
    expect(seen(table, "192.0.2.1", "web")).toBe("NXDOMAIN");
    expect(seen(table, "not an address", "web")).toBe("NXDOMAIN");
  });

  test("case does not matter and is given back, a final dot neither", () => {
    const answer = ask(table, A1, "WeB");
    expect(answer.type === "reply" && answer.records[0]?.name).toBe("WeB");
    expect(seen(table, A1, "web.")).toBe("10.101.0.2");
  });

  test("other types of our names are empty, unknown single labels do not exist", () => {
    for (const type of ["AAAA", "TXT", "MX", "SRV"]) {
      expect(seen(table, A1, "web", type)).toBe("none");
    }
    expect(seen(table, A1, "nothing", "AAAA")).toBe("NXDOMAIN");
    expect(seen(table, A1, "tasks.nothing")).toBe("NXDOMAIN");
    expect(seen(table, A1, "example.com")).toBe("forward");
    expect(seen(table, A1, "", "NS")).toBe("forward");
  });

  test("dnsrr gives the ready tasks in varying order, with a short life", () => {
    const rr = labTable(1);
    rr.services.set("service/web", { ...labService("web"), mode: "dnsrr", virtualIps: [] });
    rr.services.delete("service/service-web");
    expect(seen(rr, A1, "web")).toBe("10.101.0.21 10.101.0.22 10.101.0.23");
    const names = nameTable(rr);
    const generator = seededRandom(1);
    const firsts = new Set<string | undefined>();
    for (let turn = 0; turn < 50; turn += 1) {
      const answer = answerQuestion({ name: "web", type: "A" }, names, A1, () => generator.next());
      if (answer.type !== "reply") throw new Error("not ours");
      firsts.add(answer.records[0]?.data);
      expect(answer.records.every((record) => record.ttlS === LIST_TTL_S)).toBeTrue();
    }
    expect(firsts.size).toBe(3);
    for (const endpoint of rr.endpoints.values()) endpoint.isReady = false;
    // Not an empty answer, which c-ares would keep.
    expect(seen(rr, A1, "web")).toBe("NXDOMAIN");
    expect(seen(rr, A1, "tasks.web", "AAAA")).toBe("NXDOMAIN");
    expect(seen(rr, B1, "web")).toBe("NXDOMAIN");
  });

  test("aliases answer on their network, a shared one for both services", () => {
    const aliased = labTable(1);
    for (const [name, names] of [
      ["web", ["www", "shared"]],
      ["far", ["shared"]],
    ] as const) {
      aliased.services.set(`service/service-${name}`, {
        ...labService(name),
        aliases: [{ networkId: networkId("netA"), names: [...names] }],
      });
    }
    expect(seen(aliased, A1, "www")).toBe("10.101.0.2");
    expect(seen(aliased, A1, "shared")).toBe("10.101.0.2 10.101.0.3");
    expect(seen(aliased, B1, "shared")).toBe("NXDOMAIN");
  });

  test("addresses of the asker's networks have names, others of ours none", () => {
    const pointer = (address: string) => `${address.split(".").reverse().join(".")}.in-addr.arpa`;
    expect(seen(table, A1, pointer("10.101.0.23"), "PTR")).toBe("web.1.web3.neta");
    expect(seen(table, A1, pointer("10.101.0.2"), "PTR")).toBe("web.neta");
    expect(seen(table, A1, pointer("10.101.0.99"), "PTR")).toBe("NXDOMAIN");
    expect(seen(table, A1, pointer("10.102.0.33"), "PTR")).toBe("NXDOMAIN");
    expect(seen(table, A1, pointer("10.101.0.23"), "A")).toBe("none");
    expect(seen(table, A1, pointer("192.0.2.1"), "PTR")).toBe("forward");
    expect(seen(table, A1, "x.in-addr.arpa", "PTR")).toBe("forward");
  });
});

describe("IPv6", () => {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });

  test("a service has an AAAA record on networks with IPv6, its tasks theirs", () => {
    expect(seen(table, A1, "web", "AAAA")).toBe("fd00:101::2");
    expect(seen(table, A1, "tasks.web", "AAAA")).toBe("fd00:101::15 fd00:101::16 fd00:101::17");
    expect(seen(table, A1, "web.1.web3", "AAAA")).toBe("fd00:101::17");
    expect(seen(table, A1, "web", "A")).toBe("10.101.0.2");
    expect(seen(table, A1, "web", "ANY")).toBe("10.101.0.2 fd00:101::2");
  });

  test("a name without one exists all the same, and one of another network does not", () => {
    expect(seen(labTable(1), A1, "web", "AAAA")).toBe("none");
    expect(seen(table, "10.105.0.11", "pubonly.1.po1", "AAAA")).toBe("none");
    expect(seen(table, B1, "web", "AAAA")).toBe("NXDOMAIN");
  });

  test("who asks is known by either address", () => {
    expect(seen(table, "fd00:101::b", "web", "AAAA")).toBe("fd00:101::2");
    expect(seen(table, "fd00:102::b", "web", "AAAA")).toBe("NXDOMAIN");
    // A container made by hand.
    expect(seen(table, "fd00:101::99", "web")).toBe("10.101.0.2");
    expect(seen(table, "fd99::1", "web")).toBe("NXDOMAIN");
  });

  const pointer = (address: string) => {
    const digits = (parseAddress6(address) ?? 0n).toString(16).padStart(32, "0");
    return `${digits.split("").reverse().join(".")}.ip6.arpa`;
  };
  test("addresses of the asker's networks have names, others of ours none", () => {
    expect(seen(table, A1, pointer("fd00:101::2"), "PTR")).toBe("web.neta");
    expect(seen(table, A1, pointer("fd00:101::17").toUpperCase(), "PTR")).toBe("web.1.web3.neta");
    expect(seen(table, A1, pointer("fd00:101::99"), "PTR")).toBe("NXDOMAIN");
    expect(seen(table, A1, pointer("fd00:102::21"), "PTR")).toBe("NXDOMAIN");
    expect(seen(table, A1, pointer("2001:db8::1"), "PTR")).toBe("forward");
    expect(seen(table, A1, "1.0.ip6.arpa", "PTR")).toBe("forward");
    expect(seen(table, A1, "x.ip6.arpa", "PTR")).toBe("forward");
  });
});
