import { describe, expect, test } from "bun:test";
import type { CommandResult, RunCommand } from "../../../net/mesh/backend.ts";
import { nftablesBackend } from "../../../net/mesh/nftables.ts";
import { probeHost } from "../../../net/mesh/probe.ts";

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
const probe = (run: RunCommand) => probeHost(run, nftablesBackend(run));

describe("probeHost", () => {
  test("a host with everything is fine", async () => {
    expect(await probe(host(() => undefined))).toEqual({ hasBrNetfilter: true });
  });

  test("missing commands are named with their packages", async () => {
    const run = host((line) => (/^(ip |conntrack)/.test(line) ? MISSING : undefined));
    expect(await probe(run).catch(String)).toContain(
      'Cannot start the mesh: commands not found: "ip" (package iproute2), "conntrack" (package conntrack)',
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
