import { describe, expect, test } from "bun:test";
import {
  allocatePorts,
  DYNAMIC_PORT_MAX,
  DYNAMIC_PORT_MIN,
  openPortTable,
} from "../../../core/allocator/ports.ts";
import { aService, aState } from "../../fixtures/cluster.ts";

describe("allocatePorts()", () => {
  test("keeps given ports and fills in the lowest free dynamic one by protocol", () => {
    const taken = aService("taken", { ports: [{ TargetPort: 1, PublishedPort: 30_000 }] });
    const table = openPortTable(aState({ services: [taken] }).view);
    const web = aService("web", {
      ports: [
        { TargetPort: 80, PublishedPort: 80 },
        { TargetPort: 81 },
        { TargetPort: 81, Protocol: "udp" },
        { TargetPort: 82 },
      ],
    });
    expect(allocatePorts(table, web)).toMatchObject([
      { PublishedPort: 80, Protocol: "tcp", PublishMode: "ingress" },
      { PublishedPort: 30_001 },
      { PublishedPort: 30_000, Protocol: "udp" },
      { PublishedPort: 30_002 },
    ]);
  });

  test("two services may have one host-mode port, but not beside an ingress port", () => {
    const host = { TargetPort: 80, PublishedPort: 8080, PublishMode: "host" as const };
    const view = aState({ services: [aService("a", { ports: [host] })] }).view;
    expect(allocatePorts(openPortTable(view), aService("b", { ports: [host] }))).toBeArrayOfSize(1);
    const ingress = { TargetPort: 80, PublishedPort: 8080 };
    expect(allocatePorts(openPortTable(view), aService("b", { ports: [ingress] }))).toBe(
      "Cannot publish port 8080/tcp: service a has it as host port; choose another",
    );
  });

  test("says that the dynamic ports are used up", () => {
    const count = DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1;
    const all = Array.from({ length: count }, (_, index) => ({ TargetPort: index + 1 }));
    const table = openPortTable(aState({}).view);
    expect(allocatePorts(table, aService("a", { ports: all }))).toBeArrayOfSize(count);
    expect(allocatePorts(table, aService("b", { ports: [{ TargetPort: 1 }] }))).toContain(
      "all dynamic ports from 30000 to 32767 are in use",
    );
  });
});
