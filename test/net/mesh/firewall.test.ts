import { describe, expect, test } from "bun:test";
import {
  planFirewall,
  planFirewall6,
  planFirewall6Removal,
  planFirewallRemoval,
} from "../../../net/mesh/firewall.ts";

const OURS = "-m mark --mark 0x10000000/0x10000000 -j ACCEPT";
const text = (...lines: string[]) => `${lines.join("\n")}\n`;
const plan = (output: string) => planFirewall(output, 4789).map((command) => command.join(" "));

describe("planFirewall", () => {
  test("a host without Docker gets the chain, the rule and the jump", () => {
    expect(plan(text("-P INPUT ACCEPT", "-P FORWARD ACCEPT", "-P OUTPUT ACCEPT"))).toEqual([
      "-N DOCKER-USER",
      `-A DOCKER-USER ${OURS}`,
      "-I FORWARD 1 -j DOCKER-USER",
    ]);
  });

  test("the rule stands after the administrator's and before the closing RETURN", () => {
    const before = text(
      "-P INPUT ACCEPT",
      "-P FORWARD DROP",
      "-N DOCKER-USER",
      "-A FORWARD -j DOCKER-USER",
      "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
      "-A DOCKER-USER -s 203.0.113.9/32 -j DROP",
      "-A DOCKER-USER -j RETURN",
    );
    expect(plan(before)).toEqual([`-I DOCKER-USER 2 ${OURS}`]);
    const after = before.replace("-A DOCKER-USER -j RETURN", `-A DOCKER-USER ${OURS}\n$&`);
    expect(plan(after)).toEqual([]);
  });

  test("a rule that others have moved up or doubled is placed again", () => {
    const output = text(
      "-P INPUT ACCEPT",
      "-P FORWARD DROP",
      "-N DOCKER-USER",
      "-A FORWARD -j DOCKER-USER",
      `-A DOCKER-USER ${OURS}`,
      `-A DOCKER-USER ${OURS}`,
      "-A DOCKER-USER -s 203.0.113.9/32 -j DROP",
    );
    expect(plan(output)).toEqual([
      `-D DOCKER-USER ${OURS}`,
      `-D DOCKER-USER ${OURS}`,
      `-A DOCKER-USER ${OURS}`,
    ]);
  });

  test("the jump comes back to the first place after a restart of dockerd", () => {
    const output = text(
      "-P INPUT ACCEPT",
      "-P FORWARD DROP",
      "-N DOCKER-USER",
      "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
      "-A FORWARD -j DOCKER-USER",
      `-A DOCKER-USER ${OURS}`,
      "-A DOCKER-USER -j RETURN",
    );
    expect(plan(output)).toEqual(["-I FORWARD 1 -j DOCKER-USER", "-D FORWARD 3"]);
  });

  test("INPUT is left alone when open, and gets accepts when it filters", () => {
    const forward = ["-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", `-A DOCKER-USER ${OURS}`];
    expect(plan(text("-P INPUT ACCEPT", "-P FORWARD DROP", ...forward))).toEqual([]);
    const closed = plan(text("-P INPUT DROP", "-P FORWARD DROP", ...forward));
    expect(closed).toEqual([
      "-I INPUT 1 -p udp -m udp --dport 4789 -j ACCEPT",
      "-I INPUT 1 -i sh+ -p tcp -m tcp --dport 53 -j ACCEPT",
      "-I INPUT 1 -i sh+ -p udp -m udp --dport 53 -j ACCEPT",
    ]);
    const accepts = closed.map((command) => command.replace("-I INPUT 1", "-A INPUT"));
    expect(plan(text("-P INPUT DROP", "-P FORWARD DROP", ...forward, ...accepts))).toEqual([]);
  });

  test("removal takes our rules and nothing else", () => {
    const output = text(
      "-P INPUT DROP",
      "-P FORWARD DROP",
      "-N DOCKER-USER",
      "-A INPUT -p udp -m udp --dport 4789 -j ACCEPT",
      "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
      "-A FORWARD -j DOCKER-USER",
      `-A DOCKER-USER ${OURS}`,
    );
    expect(planFirewallRemoval(output, 4789).map((command) => command.join(" "))).toEqual([
      `-D DOCKER-USER ${OURS}`,
      "-D INPUT -p udp -m udp --dport 4789 -j ACCEPT",
    ]);
  });
});

describe("ip6tables", () => {
  const lines = (commands: string[][]) => commands.map((command) => command.join(" "));
  const OPEN = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n";

  test("where nothing filters nothing is made", () => {
    expect(planFirewall6(OPEN)).toEqual([]);
    expect(planFirewall6Removal(OPEN)).toEqual([]);
  });

  test("where forwarding filters, what we permitted is accepted, as in IPv4", () => {
    const closed = OPEN.replace("FORWARD ACCEPT", "FORWARD DROP");
    expect(lines(planFirewall6(closed))).toEqual([
      "-N DOCKER-USER",
      "-A DOCKER-USER -m mark --mark 0x10000000/0x10000000 -j ACCEPT",
      "-I FORWARD 1 -j DOCKER-USER",
    ]);
    const done = `${closed}-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -m mark --mark 0x10000000/0x10000000 -j ACCEPT\n`;
    expect(planFirewall6(done)).toEqual([]);
    expect(lines(planFirewall6Removal(done))).toEqual([
      "-D DOCKER-USER -m mark --mark 0x10000000/0x10000000 -j ACCEPT",
    ]);
  });

  test("where input filters, containers find their gateway", () => {
    const closed = OPEN.replace("INPUT ACCEPT", "INPUT DROP");
    expect(lines(planFirewall6(closed))).toEqual(["-I INPUT 1 -i sh+ -p ipv6-icmp -j ACCEPT"]);
    const done = `${closed}-A INPUT -i sh+ -p ipv6-icmp -j ACCEPT\n`;
    expect(planFirewall6(done)).toEqual([]);
    expect(lines(planFirewall6Removal(done))).toEqual(["-D INPUT -i sh+ -p ipv6-icmp -j ACCEPT"]);
  });
});
