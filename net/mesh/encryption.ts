/**
 * Encrypted networks in the kernel of this node: the device, policies and associations that
 * encryption-plan.ts asks for, by `ip`, `bridge` and `ip xfrm`.
 *
 * Owns the one thing that is not a function of the table: the generation by which this node sends (esp.ts
 * says why). Its life:
 *
 *   needed (none yet, or an association is gone) → drawn, announced → it comes back in the own peer entry, so
 *   all peers were told as well → associations by it are made, a moment later where an older one works → those
 *   of the generation before stay until that is forgotten; the kernel sends by the one made last
 *
 * Invariants: an association to send by is made only by a generation that this process has drawn, and noted in
 * `made` before the command runs; policies stand before the device, and go after it; keys are given to the tool
 * by its standard input, and are in no message.
 */
import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { ClusterError } from "../../core/errors.ts";
import type { NodeEncryption } from "../../core/objects/node.ts";
import { type BackendName, complaint, type RunCommand } from "./backend.ts";
import type { Counts } from "./diff.ts";
import type { EncryptionPlan } from "./encryption-plan.ts";
import {
  chooseOutbound,
  diffEncryption,
  type EncryptionState,
  type EncryptionSteps,
  foundEncryptedLink,
  outboundLines,
  parseAssociations,
  parsePolicies,
  removalLines,
  type SenderMemory,
} from "./encryption-state.ts";
import { ENCRYPTED_DEVICE, XFRM_BLOCK_PRIORITY, XFRM_REQID } from "./names.ts";
import { type Interface, parseForwarding, parseNeighbours } from "./observe.ts";
import type { MeshTable } from "./table.ts";

const GENERATION_BYTES = 16;
/** From the moment in which a new generation is known here until peers that are reached otherwise are sent to by it. */
const HOLD_MS = 2_000;
/** Generations are not drawn more often than this, and ever more rarely if that does not help: all are told of each. */
const DRAW_PERIOD_MS = 5_000;
const DRAW_PERIOD_MS_MAX = 300_000;
const PROBE_PERIOD_MS = 60_000;
/** Complaints of what is already so. */
const HARMLESS =
  /File exists|No such process|No such file or directory|Cannot find device|Cannot assign requested/;

export type Encryption = {
  canEncrypt(): boolean;
  /** Asks the kernel whether it can, by the rules of the back-end that runs. */
  probe(): Promise<void>;
  /** The same once a minute while it cannot: somebody may have loaded the modules. */
  probeAgain(): Promise<void>;
  /**
   * Makes what the plan needs, before routes and filter refer to it. `isCheck`: compares with the kernel even if
   * the plan is the one applied last; then `counts` is what had drifted. A failure is told by `end`.
   */
  begin(
    plan: EncryptionPlan | undefined,
    interfaces: readonly Interface[],
    isCheck: boolean,
  ): Promise<{ counts: Counts; isLinkNew: boolean }>;
  /**
   * Removes what the plan does not have, after routes and filter.
   * @throws {ClusterError} unavailable with the tool's words, also what `begin` met.
   */
  end(plan: EncryptionPlan | undefined): Promise<void>;
  /** What `begin` met: with a device missing, routes over it fail as well. */
  failure(): unknown;
  /** What the managers are to know. */
  told(): NodeEncryption;
  /** A round is due after this time although nothing has changed. */
  againInMs(): number | undefined;
  wipe(): Promise<void>;
};

/** `table`: the last one from disk says what the managers know of this node. */
export async function startEncryption(
  run: RunCommand,
  table: Pick<MeshTable, "peers" | "settings">,
  backendName: () => BackendName,
  options: { holdMs?: number; drawPeriodMs?: number } = {},
): Promise<Encryption> {
  const { holdMs = HOLD_MS, drawPeriodMs = DRAW_PERIOD_MS } = options;
  const own = table.peers.get(`peer/${table.settings?.nodeId}`)?.encryption;
  let announced = { generations: own?.generations ?? [], keyIds: own?.keyIds ?? [] };
  let lack: string | undefined;
  let probedAtMs = 0;
  let failure: unknown;
  let againInMs: number | undefined;
  let memory: SenderMemory = { made: new Set() };
  let drawnAtMs = Number.NEGATIVE_INFINITY;
  /** Since all that is sent by was there. */
  let drawCount = 0;
  let heldUntilMs = Number.NEGATIVE_INFINITY;
  let isBack = false;
  /** What is to be removed at the end of the round. */
  let last: Pick<EncryptionSteps, "ipLast" | "bridgeLast"> = { ipLast: [], bridgeLast: [] };
  /** Known to be in the kernel. */
  let applied: EncryptionPlan | undefined;
  /** Nothing of ours is there. */
  let isClean = false;

  const read = async (argv: string[]) => {
    const result = await run(argv);
    if (result.code === 0) return result.stdout;
    throw new ClusterError("unavailable", `Cannot run "${argv.join(" ")}": ${complaint(result)}`);
  };
  const readOfDevice = async (argv: string[]) => {
    const result = await run(argv);
    return result.code === 0 ? result.stdout : "";
  };
  const batch = async (tool: "ip" | "bridge", lines: string[]) => {
    if (lines.length === 0) return;
    const result = await run([tool, "-force", "-batch", "-"], `${lines.join("\n")}\n`);
    const serious = result.stderr
      .split("\n")
      .filter((line) => line.trim() !== "" && !line.startsWith("Command failed"))
      .filter((line) => !HARMLESS.test(line));
    if (serious.length === 0 && result.code !== 127) return;
    const words = complaint({ ...result, stderr: serious.join("\n") }).replace(KEY, "0x…");
    throw new ClusterError(
      "unavailable",
      `Cannot program encrypted networks with ${tool}: ${words}`,
    );
  };
  const observe = async (interfaces: readonly Interface[]): Promise<EncryptionState> => {
    const [neighbours, forwarding, policies, associations] = await Promise.all([
      readOfDevice(["ip", "-j", "-4", "neigh", "show", "dev", ENCRYPTED_DEVICE]),
      readOfDevice(["bridge", "-j", "fdb", "show", "dev", ENCRYPTED_DEVICE]),
      read(["ip", "xfrm", "policy", "list"]),
      read(["ip", "xfrm", "state", "list", "reqid", String(XFRM_REQID)]),
    ]);
    return {
      ...foundEncryptedLink(interfaces),
      neighbours: parseNeighbours(neighbours, ENCRYPTED_DEVICE),
      forwarding: parseForwarding(forwarding, ENCRYPTED_DEVICE),
      policies: parsePolicies(policies),
      associations: parseAssociations(associations),
    };
  };

  const draw = () => {
    const drawn = randomBytes(GENERATION_BYTES).toString("hex");
    memory = { drawn, made: new Set() };
    drawnAtMs = performance.now();
    drawCount += 1;
    isBack = false;
  };
  const announce = (plan: EncryptionPlan) => {
    const { drawn } = memory;
    const { generations } = plan;
    const isNew = drawn !== undefined && !generations.includes(drawn);
    announced = {
      // The one before stays: others receive by it what is still sent by it.
      generations: isNew ? [...generations.slice(-1), drawn] : generations,
      keyIds: plan.keyed?.keyIds ?? announced.keyIds,
    };
  };

  /** Makes associations to send by; when it is to be called again, and how many had been lost. */
  const send = async (
    keyed: NonNullable<EncryptionPlan["keyed"]>,
    generations: readonly string[],
    found: EncryptionState,
  ) => {
    const nowMs = performance.now();
    if (memory.drawn !== undefined && !isBack && generations.includes(memory.drawn)) {
      isBack = true;
      heldUntilMs = nowMs + holdMs;
    }
    const choice = chooseOutbound(keyed, found.associations, memory, nowMs < heldUntilMs);
    for (const { name } of choice.add) memory.made.add(name);
    await batch("ip", outboundLines(choice));
    let againInMs = choice.isHeld ? heldUntilMs - nowMs : undefined;
    let lostCount = 0;
    if (choice.isGenerationWanted) {
      const periodMs = Math.min(drawPeriodMs * 2 ** Math.min(drawCount, 10), DRAW_PERIOD_MS_MAX);
      const waitMs = drawnAtMs + periodMs - nowMs;
      if (waitMs > 0) againInMs = Math.min(againInMs ?? waitMs, waitMs);
      else {
        draw();
        ({ lostCount } = choice);
      }
    } else if (choice.add.length === 0 && !choice.isHeld) drawCount = 0;
    return { againInMs, lostCount };
  };

  const clean = async () => {
    const [listed, states] = await Promise.all([
      run(["ip", "xfrm", "policy", "list"]),
      run(["ip", "xfrm", "state", "list", "reqid", String(XFRM_REQID)]),
    ]);
    // Where IPsec cannot be asked for there is none. ("deleteall" ends a batch without a word.)
    const policies = parsePolicies(listed.code === 0 ? listed.stdout : "");
    const associations = parseAssociations(states.code === 0 ? states.stdout : "");
    await batch("ip", removalLines({ policies, associations }));
    isClean = true;
  };

  const forget = () => {
    applied = undefined;
    memory = { made: new Set() };
    announced = { generations: [], keyIds: [] };
  };
  const make = async (plan: EncryptionPlan, interfaces: readonly Interface[]) => {
    isClean = false;
    applied = undefined;
    const found = await observe(interfaces);
    const steps = diffEncryption(plan, found);
    last = steps;
    await batch("ip", steps.ip);
    await batch("bridge", steps.bridge);
    const { keyed } = plan;
    const sent = keyed ? await send(keyed, plan.generations, found) : undefined;
    announce(plan);
    againInMs = sent?.againInMs;
    // With something left to do the next round looks again.
    if (againInMs === undefined) applied = plan;
    const { counts, isLinkNew } = steps;
    if (sent?.lostCount) counts.ipsec = (counts.ipsec ?? 0) + sent.lostCount;
    return { counts, isLinkNew };
  };
  const probe = async () => {
    probedAtMs = performance.now();
    lack = await probeEncryption(run, backendName());
    // Tasks leave a node for it: not because of one command that could not be run.
    if (lack !== undefined) lack = await probeEncryption(run, backendName());
  };
  await probe();

  return {
    canEncrypt: () => lack === undefined,
    probe,
    probeAgain: async () => {
      if (lack !== undefined && performance.now() - probedAtMs >= PROBE_PERIOD_MS) await probe();
    },
    begin: async (plan, interfaces, isCheck) => {
      const nothing = { counts: {}, isLinkNew: false };
      failure = undefined;
      againInMs = undefined;
      last = { ipLast: [], bridgeLast: [] };
      if (!plan) {
        forget();
        return nothing;
      }
      if (!isCheck && applied && isDeepStrictEqual(applied, plan)) return nothing;
      try {
        return await make(plan, interfaces);
      } catch (error) {
        failure = error;
        return nothing;
      }
    },
    end: async (plan) => {
      if (!plan && !isClean) await clean();
      const { ipLast, bridgeLast } = last;
      last = { ipLast: [], bridgeLast: [] };
      await batch("ip", ipLast);
      await batch("bridge", bridgeLast);
      if (failure !== undefined) throw failure;
    },
    failure: () => failure,
    told: () => ({ ...announced, ...(lack === undefined ? {} : { lack }) }),
    againInMs: () => againInMs,
    wipe: async () => {
      forget();
      await clean();
    },
  };
}

const KEY = /0x[0-9a-f]{32,}/g;

/** Addresses for documentation: no packet is ever meant by them. */
const PROBE_ADDRESSES = "src 192.0.2.1 dst 192.0.2.2";
const PROBE_STATE = `${PROBE_ADDRESSES} proto esp spi 0x1001`;
const PROBE_POLICY = "src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 1 dir out";

/**
 * Makes one of each object that encrypted networks need, and takes it away again.
 * Gives what is missing and what to do about it; undefined when all is there.
 */
async function probeEncryption(run: RunCommand, backend: BackendName): Promise<string | undefined> {
  const key = `0x${randomBytes(36).toString("hex")}`;
  const state =
    `xfrm state add ${PROBE_STATE} reqid ${XFRM_REQID} mode transport replay-window 32 flag esn ` +
    `aead rfc4106(gcm(aes)) ${key} 128`;
  const made = await run(["ip", "-batch", "-"], `${state}\n`);
  await run(["ip", "xfrm", "state", "delete", ...PROBE_STATE.split(" ")]);
  if (made.code !== 0 && !made.stderr.includes("File exists"))
    return explainLack(complaint(made).replace(KEY, "0x…"));
  const policy = `xfrm policy add ${PROBE_POLICY} action block priority ${XFRM_BLOCK_PRIORITY}`;
  const policed = await run(["ip", ...policy.split(" ")]);
  await run(["ip", "xfrm", "policy", "delete", ...PROBE_POLICY.split(" ")]);
  if (policed.code !== 0 && !policed.stderr.includes("File exists"))
    return explainLack(complaint(policed));
  return probeGuard(run, backend);
}

/** The rules that drop what would leave or come in clear. */
async function probeGuard(run: RunCommand, backend: BackendName): Promise<string | undefined> {
  if (backend === "nftables") {
    const table =
      "table inet shprobe {\n  chain o { type filter hook output priority 0; udp dport 1 rt ipsec missing drop; }\n" +
      "  chain i { type filter hook input priority 0; udp dport 1 meta ipsec missing drop; }\n}\n";
    const result = await run(["nft", "-c", "-f", "-"], table);
    return result.code === 0
      ? undefined
      : `nftables cannot tell encrypted packets (${complaint(result)})`;
  }
  const chain = "SH-PROBE-IPSEC";
  const rules =
    `*raw\n:${chain} -\n-A ${chain} -m policy --dir in --pol none -j DROP\nCOMMIT\n` +
    `*mangle\n:${chain} -\n-A ${chain} -p esp -m comment --comment shoal -j ACCEPT\nCOMMIT\n`;
  const result = await run(["iptables-restore", "-w", "-n"], rules);
  for (const table of ["raw", "mangle"]) {
    await run(["iptables", "-w", "-t", table, "-F", chain]);
    await run(["iptables", "-w", "-t", table, "-X", chain]);
  }
  return result.code === 0
    ? undefined
    : `iptables cannot tell encrypted packets: load module xt_policy (${complaint(result)})`;
}

function explainLack(words: string): string {
  if (/Requested AEAD algorithm not found|Function not implemented/.test(words)) {
    return "kernel lacks AES-GCM for IPsec: load modules gcm and esp4";
  }
  if (/Protocol not supported/.test(words)) return "kernel lacks ESP: load module esp4";
  if (/Cannot open netlink|Operation not supported|Address family/.test(words)) {
    return "kernel lacks IPsec: load modules xfrm_user and esp4";
  }
  return `kernel refuses IPsec (${words})`;
}
