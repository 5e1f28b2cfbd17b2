import { describe, expect, test } from "bun:test";
import type { BackendName, CommandResult, RunCommand } from "../../../net/mesh/backend.ts";
import { chooseBackend, makeBackend, probeHost } from "../../../net/mesh/probe.ts";

const OK: CommandResult = { code: 0, stdout: "", stderr: "" };
const MISSING: CommandResult = { code: 127, stdout: "", stderr: "not found" };

/** A host where everything works but what `answer` says. */
function host(answer: (line: string) => CommandResult | undefined): RunCommand {
  return async (argv) => {
    const line = argv.join(" ");
    const given = answer(line);
    if (given) return given;
    return line === "nft --version" ? { ...OK, stdout: "nftables v1.0.6 (x)" } : OK;
  };
}
const choose = (wanted: "auto" | BackendName, run: RunCommand) =>
  chooseBackend(wanted, (name) => makeBackend(name, run), { hasBrNetfilter: true });
const probe = async (run: RunCommand) => {
  const features = await probeHost(run);
  await choose("nftables", run);
  return features;
};

describe("probeHost", () => {
  test("a host with everything is fine", async () => {
    expect(await probe(host(() => undefined))).toEqual({ hasBrNetfilter: true });
  });

  test("missing commands are named with their packages", async () => {
    const run = host((line) => (/^(ip |sysctl)/.test(line) ? MISSING : undefined));
    expect(await probe(run).catch(String)).toContain(
      'Cannot start the mesh: commands not found: "ip" (package iproute2), "sysctl" (package procps)',
    );
  });

  test("missing or old nft, and a kernel that refuses the rules, are named", async () => {
    const noNft = host((line) => (line.startsWith("nft") ? MISSING : undefined));
    expect(await probe(noNft).catch(String)).toContain("install package nftables");
    const old = host((line) =>
      line === "nft --version" ? { ...OK, stdout: "nftables v0.9.0 (x)" } : undefined,
    );
    expect(await probe(old).catch(String)).toContain("nft 0.9.0 is older than 0.9.3");
    const kernel = host((line) =>
      line === "nft -c -f -" ? { ...OK, code: 1, stderr: "Error: no zones" } : undefined,
    );
    expect(await probe(kernel).catch(String)).toContain("the kernel refuses its rules");
  });

  test("a kernel without VXLAN is refused, one without br_netfilter is not", async () => {
    const noVxlan = host((line) =>
      line.startsWith("ip link") ? { ...OK, code: 2, stderr: "Unknown device type." } : undefined,
    );
    expect(await probe(noVxlan).catch(String)).toContain("makes no VXLAN device");
    const noBridge = host((line) =>
      line.includes("bridge-nf") ? { ...OK, code: 255 } : undefined,
    );
    expect(await probe(noBridge)).toEqual({ hasBrNetfilter: false });
  });
});

describe("chooseBackend", () => {
  test("takes nftables where it works, else iptables", async () => {
    expect(
      (
        await choose(
          "auto",
          host(() => undefined),
        )
      ).name,
    ).toBe("nftables");
    const noNft = host((line) => (line.startsWith("nft") ? MISSING : undefined));
    expect((await choose("auto", noNft)).name).toBe("iptables");
  });

  test("says what each of them lacks when none works", async () => {
    const neither = host((line) => (/^(nft|iptables-restore)/.test(line) ? MISSING : undefined));
    const refusal = await choose("auto", neither).catch(String);
    expect(refusal).toContain("install package nftables");
    expect(refusal).toContain("install package iptables");
  });

  test("tries only what is asked for", async () => {
    const noNft = host((line) => (line.startsWith("nft") ? MISSING : undefined));
    expect(await choose("nftables", noNft).catch(String)).toContain("install package nftables");
    expect(
      (
        await choose(
          "iptables",
          host(() => undefined),
        )
      ).name,
    ).toBe("iptables");
  });

  test("what a kernel lacks is done in another way, and said", async () => {
    const noCounters: RunCommand = async (argv, stdin) => {
      if (argv[1] === "--version") return { ...OK, stdout: "nftables v0.9.4 (x)" };
      return stdin?.includes("; counter;") ? { ...OK, code: 1, stderr: "Error: syntax" } : OK;
    };
    const nft = await choose("nftables", noCounters);
    expect(nft.notes()[0]).toContain("connections per service are not counted");
    expect(await nft.readConnections()).toEqual([]);
    const texts: string[] = [];
    const noCluster: RunCommand = async (_argv, stdin) => {
      texts.push(stdin ?? "");
      return stdin?.includes("-m cluster") ? { ...OK, code: 2, stderr: "no cluster" } : OK;
    };
    const iptables = await choose("iptables", noCluster);
    expect(iptables.notes()[0]).toContain("xt_cluster");
    // The last three bits of the client's address, four values for each of two targets.
    expect(texts.join("")).toContain(" -s 0.0.0.6/0.0.0.7 -j DNAT ");
  });

  test("a kernel without conntrack zones still carries iptables", async () => {
    const texts: string[] = [];
    const run: RunCommand = async (argv, stdin) => {
      if (argv[0] !== "iptables-restore") return OK;
      texts.push(stdin ?? "");
      return stdin?.includes("--zone-orig") ? { ...OK, code: 2, stderr: "no zones" } : OK;
    };
    expect((await choose("iptables", run)).name).toBe("iptables");
    // What is tried has names of its own and is removed again.
    expect(texts[0]).toContain(":SHPROBE-PRE - [0:0]");
    expect(texts[1]).toContain("-X SHPROBE-PRE");
    expect(texts.join("")).not.toContain("SH-");
  });
});
