/**
 * Why a task has no node: for each node every filter that it fails, with what it has, what was asked, and
 * what would help. The scheduler stops at a node's first failed filter and counts nodes; here nothing is
 * decided, and everything is said.
 *
 * A node's verdict is of this moment: what it says to change may make room for this task only.
 */
import { unreachable } from "../assert.ts";
import { encryptionLack } from "../encryption/mesh-keys.ts";
import type { NodeId, UnixMs } from "../ids.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Service } from "../objects/service.ts";
import { isTaskDead, type Task, taskName } from "../objects/task.ts";
import { homeOf } from "../orchestrator/stateful.ts";
import type { ClusterView } from "../store/view.ts";
import { attributeOf, type Constraint, satisfiesAll } from "./constraint.ts";
import { FILTERS, type Filter, type Wish, wishOf } from "./filters.ts";
import { moveCommand } from "./home.ts";
import { observeRoom, openKeptRoom } from "./kept-room.ts";
import { capacityOf, hostPortsOf, type KeptRoom, type NodeInfo } from "./node-info.ts";

export type NodeReason = {
  filter: Filter["name"];
  /** What the node has and what is asked of it. */
  text: string;
  /** What a user can do about it. */
  fix: string;
};
export type NodeVerdict = {
  nodeId: NodeId;
  hostname: string;
  /** None: it could take the task. */
  reasons: NodeReason[];
};

/**
 * Verdicts over all nodes, or over the task's own when it is bound to one, by its mode or as the home of
 * its slot; the nearest first.
 */
export function verdictsOn(view: ClusterView, task: Task, nowMs: UnixMs): NodeVerdict[] {
  const service = view.service(task.serviceId);
  const homeId = service && homeOf(view, service, task.slot, nowMs);
  const boundId = task.nodeId ?? homeId;
  const infos = [...observeRoom(view, nowMs).values()];
  const verdicts = judge(
    view,
    task,
    boundId === undefined ? infos : infos.filter(({ node }) => node.id === boundId),
  );
  for (const { nodeId, reasons } of verdicts) {
    if (reasons.length > 0 && nodeId === homeId) reasons.unshift(homeReason(task));
  }
  return nearestFirst(verdicts);
}

/**
 * Verdicts over all nodes for the next task of a stateful service's slot, wherever its home is, once its task of
 * now has left.
 */
export function moveVerdicts(
  view: ClusterView,
  service: Service,
  slot: number,
  nowMs: UnixMs,
): NodeVerdict[] {
  const isOther = (task: Task) => task.serviceId !== service.id || task.slot !== slot;
  const infos = observeRoom(view, nowMs, isOther).values();
  return nearestFirst(judge(view, imagineTask(view, service, slot, nowMs), [...infos]));
}

/** As the service's next task in the slot would be, for asking where it could go. */
export function imagineTask(
  view: ClusterView,
  service: Service,
  slot: number,
  nowMs: UnixMs,
): Task {
  const { Name, Labels = {}, TaskTemplate: spec } = service.spec;
  const logDriver = view.cluster()?.spec.TaskDefaults.LogDriver;
  return {
    id: "",
    version: service.version,
    createdAtMs: nowMs,
    updatedAtMs: nowMs,
    serviceId: service.id,
    serviceName: Name,
    serviceLabels: Labels,
    slot,
    spec,
    specVersion: service.specVersion,
    ...(logDriver ? { logDriver } : {}),
    networks: (spec.Networks ?? []).flatMap(({ Target }) => {
      const network = view.network(Target) ?? view.networkByName(Target);
      return network ? [{ networkId: network.id, aliases: [] }] : [];
    }),
    ports: service.endpoint?.ports ?? [],
    desiredState: "running",
    status: { state: "new", atMs: nowMs, message: "" },
  };
}

function judge(view: ClusterView, task: Task, infos: readonly NodeInfo[]): NodeVerdict[] {
  const wish = wishOf(task, view);
  return infos.map((info) => {
    openKeptRoom(info, task);
    const reasons = FILTERS.filter((filter) => !filter.check(wish, info)).flatMap((filter) =>
      reasonsOf(filter.name, { view, task, wish, info }),
    );
    return { nodeId: info.node.id, hostname: nameOf(info.node), reasons };
  });
}

function nearestFirst(verdicts: NodeVerdict[]): NodeVerdict[] {
  return verdicts.sort(
    (a, b) =>
      costOf(a) - costOf(b) ||
      (a.hostname < b.hostname ? -1 : Number(a.hostname !== b.hostname)) ||
      (a.nodeId < b.nodeId ? -1 : 1),
  );
}

function homeReason({ serviceName, slot }: Task): NodeReason {
  return {
    filter: "home",
    text: `slot ${slot} lives here, and goes nowhere else`,
    fix: `give the slot another home (${moveCommand(serviceName, slot)})`,
  };
}

/** A node that is away is further off than one that lacks a label. */
function costOf(verdict: NodeVerdict): number {
  let cost = 0;
  for (const { filter } of verdict.reasons) cost += FAR.has(filter) ? 10 : 1;
  return cost;
}
/** A user cannot give a node another architecture, and hardly a plugin. */
const FAR: ReadonlySet<string> = new Set(["ready", "platform", "plugin", "encryption"]);

type Situation = { view: ClusterView; task: Task; wish: Wish; info: NodeInfo };

function reasonsOf(name: Filter["name"], situation: Situation): NodeReason[] {
  const { wish, info, task } = situation;
  const { node } = info;
  const filter = name;
  const host = nameOf(node);
  switch (name) {
    case "ready":
      return [{ filter, ...notReady(node) }];
    case "resources":
      return lacking(wish, info).map(({ kind, wanted, free, all }) => ({
        filter,
        text: `${kindName(kind)}: ${amount(kind, wanted)} reserved by the task, ${amount(kind, free)} free of ${amount(kind, all)}${keptPart(kind, info)}`,
        fix:
          all < wanted
            ? `reserve ${amount(kind, all)} or less (${reserveFlag(kind)}), or add a larger node`
            : `reserve ${amount(kind, Math.max(0, free))} or less (${reserveFlag(kind)}), or move other services off ${host}`,
      }));
    case "plugin": {
      const has = node.description?.Engine.Plugins ?? [];
      return wish.plugins
        .filter((one) => !has.some((other) => other.Type === one.type && other.Name === one.name))
        .map((one) => ({
          filter,
          text: `its engine has no ${one.type.toLowerCase()} plugin ${one.name}`,
          fix: `docker plugin install ${one.name} on ${host}`,
        }));
    }
    case "encryption":
      return [
        {
          filter,
          text: `it cannot carry encrypted networks: ${encryptionLack(node) ?? "it can now"}`,
          fix: `modprobe esp4 on ${host}, and have it loaded at boot (/etc/modules-load.d); or a network without --opt encrypted`,
        },
      ];
    case "constraint":
      if (wish.constraints === undefined) {
        return [{ filter, text: "a constraint cannot be read", fix: "correct the constraints" }];
      }
      return wish.constraints
        .filter((one) => !satisfiesAll([one], node))
        .map((one) => ({ filter, ...constraintReason(one, node) }));
    case "platform": {
      const { Architecture = "?", OS = "?" } = node.description?.Platform ?? {};
      const wanted = wish.platforms.map((one) => `${one.OS || "any"}/${one.Architecture || "any"}`);
      return [
        {
          filter,
          text: `it is ${OS}/${Architecture}, the image is for ${wanted.join(", ")}`,
          fix: "use an image for this platform too, or --no-resolve-image if it has one",
        },
      ];
    }
    case "host-port":
      return wish.hostPorts
        .filter((port) => info.hostPorts.has(port))
        .map((port) => {
          const [protocol, number] = port.split("/");
          return {
            filter,
            text: `port ${number}/${protocol} of the host is ${holderOf(situation, port)}'s`,
            fix: "publish another port, use mode ingress, or fewer replicas than nodes",
          };
        });
    case "max-replicas":
      return [
        {
          filter,
          text: `it has ${info.countByService.get(task.serviceId) ?? 0} of at most ${wish.maxReplicas} tasks of the service`,
          fix: `raise --replicas-max-per-node above ${wish.maxReplicas}, or add a node`,
        },
      ];
    default:
      // A filter that is new and not explained here yet.
      return [{ filter, text: `it fails the filter "${name}"`, fix: "see docker node inspect" }];
  }
}

function notReady(node: NodeObject): Pick<NodeReason, "text" | "fix"> {
  const host = nameOf(node);
  const { state, message } = node.status;
  const { Availability } = node.spec;
  if (state !== "ready") {
    return {
      text: `it is ${state}${message ? ` (${message})` : ""}`,
      fix: `bring ${host} and its agent back, or docker node rm it`,
    };
  }
  switch (Availability) {
    case "pause":
    case "drain":
      return {
        text: `its availability is ${Availability}`,
        fix: `docker node update --availability active ${host}`,
      };
    case "active":
      return { text: "it takes no tasks", fix: `see docker node inspect ${host}` };
    default:
      return unreachable(Availability);
  }
}

function lacking(wish: Wish, info: NodeInfo) {
  const all = capacityOf(info.node);
  return [...wish.reservations]
    .map(([kind, wanted]) => ({
      kind,
      wanted,
      free: info.free.get(kind) ?? 0,
      all: all.get(kind) ?? 0,
    }))
    .filter(({ wanted, free }) => free < wanted);
}

function constraintReason(constraint: Constraint, node: NodeObject) {
  const { key, operator, value } = constraint;
  const host = nameOf(node);
  const lowerKey = key.toLowerCase();
  const found =
    lowerKey === "node.ip" ? node.status.addr : attributeOf(node, key, key.toLowerCase());
  const text = `${key}${operator}${value}: ${
    found === undefined
      ? "there is no such attribute"
      : found === ""
        ? "it has none"
        : `it has ${found}`
  }`;
  if (found === undefined) return { text, fix: `correct ${key}` };
  if (lowerKey.startsWith("node.labels.")) {
    const label = key.slice("node.labels.".length);
    const change = operator === "==" ? `--label-add ${label}=${value}` : `--label-rm ${label}`;
    return { text, fix: `docker node update ${change} ${host}` };
  }
  if (lowerKey === "node.role") {
    const toManager = (value.toLowerCase() === "manager") === (operator === "==");
    return { text, fix: `docker node ${toManager ? "promote" : "demote"} ${host}` };
  }
  return { text, fix: `docker service update --constraint-rm '${key}${operator}${value}'` };
}

/** Names that are written out. */
const KEPT_NAMES_MAX = 3;

/** What is not used, and kept for slots of stateful services that live on the node. */
function keptPart(kind: string, { kept }: NodeInfo): string {
  const rooms = [...kept.values()].filter(({ amounts }) => (amounts.get(kind) ?? 0) > 0);
  if (rooms.length === 0) return "";
  let sum = 0;
  for (const { amounts } of rooms) sum += amounts.get(kind) ?? 0;
  const names = rooms.slice(0, KEPT_NAMES_MAX).map(slotName);
  if (rooms.length > names.length) names.push("others");
  return `, ${amount(kind, sum)} kept for ${names.join(", ")}`;
}

function slotName({ serviceName, slot }: KeptRoom): string {
  return `slot ${slot} of ${serviceName}`;
}

function holderOf({ view, info, task }: Situation, port: string): string {
  const room = [...info.kept.values()].find(({ hostPorts }) => hostPorts.includes(port));
  if (room) return slotName(room);
  const holder = view
    .tasksByNode(info.node.id)
    .find(
      (other) =>
        other.id !== task.id &&
        !isTaskDead(other.status.state) &&
        hostPortsOf(other).includes(port),
    );
  return holder ? taskName(holder) : "another task";
}

function nameOf(node: NodeObject): string {
  return node.description?.Hostname || node.id;
}

function kindName(kind: string): string {
  if (kind === "nanoCpus") return "CPU";
  return kind === "memoryBytes" ? "memory" : kind.replace(/^generic\//, "resource ");
}

function reserveFlag(kind: string): string {
  if (kind === "nanoCpus") return "--reserve-cpu";
  return kind === "memoryBytes" ? "--reserve-memory" : "--generic-resource-add";
}

const MIB = 1024 * 1024;

function amount(kind: string, value: number): string {
  if (kind === "nanoCpus") return String(Math.round(value / 1e6) / 1e3);
  if (kind === "memoryBytes") return `${Math.floor(value / MIB)} MiB`;
  return String(value);
}
