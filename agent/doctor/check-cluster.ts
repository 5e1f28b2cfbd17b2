/** The state and all nodes' answers → findings about the cluster and between nodes. Pure. */
import {
  explainExhaustion,
  freeCount,
  openAddressPools,
  poolSize,
} from "../../core/allocator/ipam.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import { isJob, replicasOf } from "../../core/objects/service.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { isInBlock, parseIpv4, parseIpv4Block } from "../../net/mesh/ipv4.ts";
import type { NetFinding, NetNodeReport } from "../../net/rpc/methods.ts";
import { error, ok, warning } from "./report.ts";

const POOL_WARNING = 0.8;
const CLOCK_WARNING_MS = 500;
const CLOCK_ERROR_MS = 5_000;
/** A service that was changed so lately may still be starting. */
const STARTING_MS = 60_000;
const NAMES_MAX = 5;

/** Address use of each network. */
export function checkPools(view: ClusterView): NetFinding[] {
  const findings: NetFinding[] = [];
  let good = 0;
  for (const pool of openAddressPools(view).values()) {
    const { spec, subnet = "" } = pool.network;
    const size = poolSize(pool);
    const used = size - freeCount(pool);
    const seen = `${used} of ${size} addresses of ${subnet} are in use (${Math.floor((100 * used) / Math.max(1, size))} %)`;
    if (used >= size) {
      findings.push(
        error(
          "addresses",
          spec.Name,
          explainExhaustion(pool).split("; ")[0] ?? seen,
          "remove unused services or tasks, or use a network with a larger subnet (docker network create --subnet)",
        ),
      );
    } else if (used >= size * POOL_WARNING) {
      findings.push(
        warning(
          "addresses",
          spec.Name,
          seen,
          "make a network with a larger subnet (docker network create --subnet) before it is full",
        ),
      );
    } else good += 1;
  }
  if (good > 0) {
    findings.push(ok("addresses", many(good, "network"), "addresses are left", good));
  }
  return findings;
}

/** Services that should serve and have nobody to. */
export function checkServices(view: ClusterView, nowMs: number): NetFinding[] {
  const findings: NetFinding[] = [];
  const running = new Set(
    view
      .tasks()
      .filter((task) => task.status.state === "running" && task.desiredState === "running")
      .map((task) => task.serviceId),
  );
  let good = 0;
  for (const service of view.services()) {
    const { spec, endpoint } = service;
    if (isJob(spec)) continue;
    if (running.has(service.id)) {
      good += 1;
      continue;
    }
    const { Name } = spec;
    const ports = (endpoint?.ports ?? [])
      .filter((port) => port.PublishMode === "ingress")
      .map((port) => `${port.PublishedPort}/${port.Protocol}`);
    if (replicasOf(spec) === 0) {
      if (ports.length === 0) continue;
      findings.push(
        warning(
          "services",
          Name,
          `${Name} publishes ${ports.join(", ")} and is scaled to 0: connections are refused`,
          `docker service scale ${Name}=1, or docker service rm ${Name}`,
        ),
      );
      continue;
    }
    const isStarting = nowMs - service.updatedAtMs < STARTING_MS;
    const published =
      ports.length > 0 ? `, and connections to ${ports.join(", ")} are refused` : "";
    const make = isStarting ? warning : error;
    findings.push(
      make(
        "services",
        Name,
        `${Name} has no ready task${isStarting ? " yet" : ""}${published}`,
        `shoal why ${Name}`,
      ),
    );
  }
  if (good > 0) findings.push(ok("services", many(good, "service"), "with ready tasks", good));
  return findings;
}

/** How a node's clock stands to the leader's. */
export function checkClock(clock: {
  hostname: string;
  /** The leader's clock when it asked and when it had the answer. */
  sentAtMs: number;
  gotAtMs: number;
  answer: Pick<NetNodeReport, "receivedAtMs" | "answeredAtMs">;
}): NetFinding {
  const { sentAtMs, gotAtMs, answer, hostname } = clock;
  // Source: NTP (RFC 5905 §8): the way there and the way back are taken to be equally long.
  const aheadMs = (answer.receivedAtMs - sentAtMs + (answer.answeredAtMs - gotAtMs)) / 2;
  const offMs = Math.round(Math.abs(aheadMs));
  if (offMs <= CLOCK_WARNING_MS) return ok("clock", hostname, `${offMs} ms off the leader's`);
  const far = offMs >= 10_000 ? `${Math.round(offMs / 1_000)} s` : `${offMs} ms`;
  const seen = `its clock is ${far} ${aheadMs > 0 ? "ahead of" : "behind"} the leader's`;
  const fix =
    "set the clocks by NTP (timedatectl set-ntp true, chrony): certificates, logs and restart windows go by them";
  return offMs > CLOCK_ERROR_MS
    ? error("clock", hostname, seen, fix)
    : warning("clock", hostname, seen, fix);
}

/** Devices below the mesh that carry packets of different sizes. */
export function checkUnderlays(
  nodes: readonly { hostname: string; report?: NetNodeReport }[],
): NetFinding[] {
  const known = nodes.flatMap(({ hostname, report }) =>
    report?.underlayMtu === undefined ? [] : [{ hostname, mtu: report.underlayMtu }],
  );
  if (known.length < 2) return [];
  const groups = Map.groupBy(known, ({ mtu }) => mtu);
  if (groups.size === 1) {
    return [ok("mtu", "underlay", `MTU ${known[0]?.mtu ?? 0} on all nodes`, known.length)];
  }
  const parts = [...groups].map(
    ([mtu, some]) => `${mtu} on ${listNames(some.map(({ hostname }) => hostname))}`,
  );
  return [
    warning(
      "mtu",
      "underlay",
      `the devices below the mesh have different MTUs: ${parts.join("; ")}: large packets to the smaller ones are lost, transfers hang`,
      `give all the same MTU (ip link set DEVICE mtu ${Math.min(...groups.keys())}), then make the overlay networks anew or restart their tasks`,
      known.length,
    ),
  ];
}

/** A data path that takes another network than the node's connection to the managers. */
export function checkDataPath(
  node: Pick<NodeObject, "dataPathAddr" | "status">,
  hostname: string,
  prefixLength: number | undefined,
): NetFinding[] {
  const { addr } = node.status;
  if (prefixLength === undefined || addr === "" || addr.startsWith("127.")) return [];
  const block = parseIpv4Block(`${node.dataPathAddr}/${prefixLength}`);
  const value = parseIpv4(addr);
  if (!block || value === undefined) return [];
  if (isInBlock(block, value)) {
    return [ok("data path", hostname, `${node.dataPathAddr}, the network of its connection`)];
  }
  return [
    warning(
      "data path",
      hostname,
      `its data path is ${node.dataPathAddr}/${prefixLength}, but it is connected from ${addr}: other nodes may not reach it there (address translation, two networks)`,
      `nothing, if that is meant and the tunnels work; else leave and join again with --data-path-addr ${addr}`,
    ),
  ];
}

/** A node that could not be asked. */
export function unanswered(
  node: Pick<NodeObject, "status" | "spec">,
  hostname: string,
  why: string,
): NetFinding {
  return error(
    "node",
    hostname,
    `${hostname} does not answer: ${why} (docker node ls: ${node.status.state})`,
    node.status.addr === ""
      ? "it has not connected yet: look at its agent's log"
      : `look at its agent (systemctl status shoal) and its way to the leader's port; it was last seen at ${node.status.addr}`,
  );
}

function many(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function listNames(names: readonly string[]): string {
  const more = names.length - NAMES_MAX;
  const shown = names.slice(0, NAMES_MAX).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown;
}
