/**
 * The few iptables rules that let our packets through other people's firewalls. Pure.
 *
 * - One accept for packets that our own forward chain permitted (by mark), as the last rule of
 *   DOCKER-USER: the administrator's filters stand before it and hold.
 * - The jump to DOCKER-USER first in FORWARD: a restarted dockerd puts its isolation of bridges
 *   before it, which would drop a published port asked from another bridge.
 * - Where INPUT filters at all: accepts for DNS from our bridges and for VXLAN (the nft table lets
 *   in peers only).
 * - The same for IPsec while the cluster has an encrypted network.
 * The same `iptables` as dockerd's is used, whichever variant that is.
 *
 * IPv6 only where it filters: most engines leave ip6tables alone, and then there is nothing to pass.
 */
import { encryptedPort, IPVS_MARK, MARK_PERMIT } from "./names.ts";
import { BRIDGE_PATTERN } from "./render.ts";

const USER_CHAIN = "DOCKER-USER";
const MARK = `0x${MARK_PERMIT.toString(16)}`;
/** Connections for service addresses, on their way to IPVS. */
export const IPVS_INPUT_RULE = `-m mark --mark 0x${IPVS_MARK.toString(16)}/0x${IPVS_MARK.toString(16)} -j ACCEPT`;
const ACCEPT_MARKED = `-m mark --mark ${MARK}/${MARK} -j ACCEPT`;

/** Rules in `iptables -S` form, without the chain. */
function inputRules(dataPathPort: number, backendRules: readonly string[]): string[] {
  return [
    ...backendRules,
    `-p udp -m udp --dport ${dataPathPort} -j ACCEPT`,
    `-i ${BRIDGE_PATTERN} -p tcp -m tcp --dport 53 -j ACCEPT`,
    `-i ${BRIDGE_PATTERN} -p udp -m udp --dport 53 -j ACCEPT`,
  ];
}

/** Rules for IPsec: ESP from the peers, and what was inside of it. IPv4 only. */
export function encryptionInputRules(port: number | undefined): string[] {
  if (port === undefined) return [];
  return ["-p esp -m comment --comment shoal -j ACCEPT", `-p udp -m udp --dport ${port} -j ACCEPT`];
}

type Chains = Map<string, string[]>;

function parseChains(text: string): { chains: Chains; policies: Map<string, string> } {
  const chains: Chains = new Map();
  const policies = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [verb = "", chain = "", ...rest] = line.trim().split(" ");
    if (verb === "-P") {
      policies.set(chain, rest[0] ?? "");
      chains.set(chain, []);
    } else if (verb === "-N") chains.set(chain, []);
    else if (verb === "-A") chains.get(chain)?.push(rest.join(" "));
  }
  return { chains, policies };
}

/**
 * The `iptables` commands (arguments after `iptables -w`) that mend the filter table, given the
 * output of `iptables -w -S`. Empty when all is as it should be.
 */
export function planFirewall(
  output: string,
  dataPathPort: number,
  backendRules: readonly string[] = [],
): string[][] {
  const { chains, policies } = parseChains(output);
  return [
    ...userChainCommands(chains),
    ...inputCommands(chains, policies, inputRules(dataPathPort, backendRules)),
  ];
}

/** The accept last in DOCKER-USER, and the jump to that first in FORWARD. */
function userChainCommands(chains: Chains): string[][] {
  const commands: string[][] = [];
  const run = (line: string) => commands.push(line.split(" "));
  const user = chains.get(USER_CHAIN);
  if (!user) run(`-N ${USER_CHAIN}`);
  const rules = user ?? [];
  const wantedPlace = rules.at(-1) === "-j RETURN" ? rules.length - 2 : rules.length - 1;
  const places = rules.flatMap((rule, place) => (rule === ACCEPT_MARKED ? [place] : []));
  if (places.length !== 1 || places[0] !== wantedPlace) {
    for (const _place of places) run(`-D ${USER_CHAIN} ${ACCEPT_MARKED}`);
    const rest = rules.filter((rule) => rule !== ACCEPT_MARKED);
    // Rule numbers count from 1; before a closing RETURN, else at the end.
    if (rest.at(-1) === "-j RETURN") run(`-I ${USER_CHAIN} ${rest.length} ${ACCEPT_MARKED}`);
    else run(`-A ${USER_CHAIN} ${ACCEPT_MARKED}`);
  }
  const forward = chains.get("FORWARD") ?? [];
  const jump = `-j ${USER_CHAIN}`;
  if (forward[0] !== jump) {
    // First in before the others go out: there is no moment without it.
    run(`-I FORWARD 1 ${jump}`);
    for (const [place, rule] of [...forward.entries()].reverse()) {
      if (rule === jump) run(`-D FORWARD ${place + 2}`);
    }
  }
  return commands;
}

function inputCommands(
  chains: Chains,
  policies: ReadonlyMap<string, string>,
  ours: readonly string[],
): string[][] {
  const input = chains.get("INPUT") ?? [];
  const isOurs = (rule: string) => ours.includes(rule) || / -j S[HI]-/.test(rule);
  if (policies.get("INPUT") === "ACCEPT" && input.every(isOurs)) return [];
  // Present is enough: an order that other tools change would be a fight without end.
  return ours
    .filter((rule) => !input.includes(rule))
    .map((rule) => `-I INPUT 1 ${rule}`.split(" "));
}

/** Neighbours are asked for by ICMPv6; names only over IPv4. */
function inputRules6(backendRules: readonly string[]): string[] {
  return [...backendRules, `-i ${BRIDGE_PATTERN} -p ipv6-icmp -j ACCEPT`];
}

/**
 * As `planFirewall`, given the output of `ip6tables -w -S`. Forwarding only where that filters, or
 * somebody (the engine, our back-end) has made the chain.
 */
export function planFirewall6(output: string, backendRules: readonly string[] = []): string[][] {
  const { chains, policies } = parseChains(output);
  const isForwardOpen =
    policies.get("FORWARD") === "ACCEPT" && (chains.get("FORWARD") ?? []).length === 0;
  return [
    ...(chains.has(USER_CHAIN) || !isForwardOpen ? userChainCommands(chains) : []),
    ...inputCommands(chains, policies, inputRules6(backendRules)),
  ];
}

/** As `planFirewallRemoval`. */
export function planFirewall6Removal(output: string): string[][] {
  const { chains } = parseChains(output);
  const remove = (chain: string, ours: string[]) =>
    (chains.get(chain) ?? [])
      .filter((rule) => ours.includes(rule))
      .map((rule) => ["-D", chain, ...rule.split(" ")]);
  return [
    ...remove(USER_CHAIN, [ACCEPT_MARKED]),
    ...remove("INPUT", inputRules6([IPVS_INPUT_RULE])),
  ];
}

/** Commands that take our rules out again; Docker's own chain and jump stay. */
export function planFirewallRemoval(output: string, dataPathPort: number): string[][] {
  const { chains } = parseChains(output);
  const remove = (chain: string, ours: string[]) =>
    (chains.get(chain) ?? [])
      .filter((rule) => ours.includes(rule))
      .map((rule) => ["-D", chain, ...rule.split(" ")]);
  return [
    ...remove(USER_CHAIN, [ACCEPT_MARKED]),
    ...remove("INPUT", [
      ...inputRules(dataPathPort, [IPVS_INPUT_RULE]),
      ...encryptionInputRules(encryptedPort(dataPathPort)),
    ]),
  ];
}
