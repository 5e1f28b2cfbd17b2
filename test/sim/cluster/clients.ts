/**
 * Users: each does one thing after the other through some manager, as the API's handlers would (read with a
 * barrier, decide, propose with the version that was read), and notes what it was told. A manager that dies
 * leaves its user without an answer.
 */
import type { Manager } from "../../../agent/manager.ts";
import { chooseMeshAddress, chooseNodeIndex } from "../../../core/allocator/node-index.ts";
import { chooseSubnet } from "../../../core/allocator/ipam.ts";
import { ClusterError } from "../../../core/errors.ts";
import { newId } from "../../../core/ids.ts";
import type { NodeObject, NodeSpec } from "../../../core/objects/node.ts";
import type { Service, ServiceSpec } from "../../../core/objects/service.ts";
import { DEPENDS_ON_LABEL } from "../../../core/objects/start-order.ts";
import { STATEFUL_LABEL } from "../../../core/objects/stateful.ts";
import type { Random } from "../../../core/random.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import type { Operation } from "../../checkers/linearizability.ts";
import type { WriteRecord } from "./checkers/acknowledged.ts";
import type { WitnessedOperation } from "./checkers/linearizable.ts";
import { START_FIRST_LABEL } from "./checkers/slots.ts";
import type { ClusterFaults } from "./faults.ts";
import type { SimHost } from "./host.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** What all users together were told. */
export type ClientRecords = {
  writes: WriteRecord[];
  witnessed: WitnessedOperation[];
  /** The marks of nodes and of the note, as registers. */
  registers: Operation[];
};

/** A manager through which one operation goes. */
export type Session = {
  manager: Manager;
  random: Random;
  faults: ClusterFaults;
  records: ClientRecords;
  nowMs(): number;
  clientName: string;
};

const IMAGES = ["app:1", "app:2", "app:3", "flaky:1", "missing:1", "sick:1"];
const NETWORKS = ["red", "blue"];
const ZONES = ["a", "b"];
/** Stateful, wherever subnets have room for the addresses that its slots keep. */
const STATEFUL_NAME = "s2";
/** Waits for the stateful one before it starts, and with its updates. */
const WAITING_NAME = "s3";
const MARK = "sim.mark";
const TOUCH = "touch";

// ---- reads and writes ---------------------------------------------------------------------------

/** A linearizable read; `keys` are those whose versions are noted. */
async function read<T>(
  session: Session,
  keys: (view: ClusterView) => string[],
  use: (view: ClusterView) => T,
): Promise<T> {
  const startMs = session.nowMs();
  const { index, seen, value } = await session.manager.read((view) => ({
    index: view.index,
    seen: keys(view).map((key) => ({ key, version: versionOf(view, key) })),
    value: use(view),
  }));
  session.records.witnessed.push({ kind: "read", startMs, endMs: session.nowMs(), index, seen });
  return value;
}

function versionOf(view: ClusterView, key: string): number | undefined {
  const slash = key.indexOf("/");
  const id = key.slice(slash + 1);
  return key.startsWith("node/") ? view.node(id)?.version : view.service(id)?.version;
}

/** Proposes as one; gives the index, or why it was refused. An outcome that stays unknown throws. */
export async function write(
  session: Session,
  actions: StoreAction[],
  condition?: { key: string; version: number },
): Promise<{ index: number } | { refused: ClusterError }> {
  const record: WriteRecord = {
    proposalId: newId(session.random),
    ...(condition ? { condition } : {}),
    outcome: "unknown",
  };
  session.records.writes.push(record);
  const startMs = session.nowMs();
  try {
    const { index } = await session.manager.proposeRaw({
      id: record.proposalId,
      atMs: Date.now(),
      mode: "all",
      actions,
    });
    record.outcome = { index };
    const endMs = session.nowMs();
    session.records.witnessed.push({ kind: "write", startMs, endMs, index, seen: [] });
    return { index };
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    // These say that it is unknown; every other code comes from apply.
    if (["no-quorum", "deadline", "unavailable", "not-leader"].includes(error.code)) throw error;
    record.outcome = "refused";
    return { refused: error };
  }
}

// ---- services and networks ----------------------------------------------------------------------

function pick<T>(random: Random, items: readonly T[]): T | undefined {
  return items[Math.floor(random.next() * items.length)];
}

function drawSpec(
  session: Session,
  view: ClusterView,
  name: string,
  before?: ServiceSpec,
): ServiceSpec {
  const { random } = session;
  const chance = (probability: number) => random.next() < probability;
  // A small subnet must have room for all that is wanted.
  const isRoomy = session.faults.subnetSize < 28;
  const isStateful = isRoomy && name === STATEFUL_NAME;
  const isDrawn = before ? before.Labels?.[START_FIRST_LABEL] !== undefined : chance(0.4);
  const isStartFirst = isDrawn && !isStateful;
  const order = isStartFirst ? "start-first" : "stop-first";
  const isGlobalDrawn = before ? before.Mode.Global !== undefined : isRoomy && chance(0.2);
  const isGlobal = isGlobalDrawn && !isStateful;
  const networks = NETWORKS.map((network) => view.networkByName(network))
    .filter((network) => network !== undefined)
    .filter(() => chance(0.6));
  const update = {
    Parallelism: Math.floor(random.next() * 3),
    Delay: chance(0.5) ? 0 : 5e8,
    Monitor: 1e9,
    FailureAction: pick(random, ["pause", "continue", "rollback"] as const) ?? "pause",
    Order: order,
  } as const;
  const constraint = pick(random, [
    "node.labels.zone==a",
    "node.labels.zone==b",
    "node.role==worker",
  ]);
  return {
    Name: name,
    Labels: {
      ...(isStartFirst ? { [START_FIRST_LABEL]: "1" } : {}),
      ...(isStateful ? { [STATEFUL_LABEL]: "true" } : {}),
      ...(name === WAITING_NAME ? { [DEPENDS_ON_LABEL]: `${STATEFUL_NAME}:healthy` } : {}),
    },
    Mode: isGlobal ? { Global: {} } : { Replicated: { Replicas: Math.floor(random.next() * 5) } },
    TaskTemplate: {
      ContainerSpec: {
        Image: (chance(0.7) ? pick(random, IMAGES.slice(0, 3)) : pick(random, IMAGES)) ?? "app:1",
        StopGracePeriod: chance(0.3) ? 1e9 : 5e9,
        ...(chance(0.2) ? { Healthcheck: { Test: ["CMD", "check"] } } : {}),
      },
      RestartPolicy: { Condition: "any", Delay: pick(random, [5e8, 3e9, 8e9]) ?? 5e8 },
      Networks: networks.map((network) => ({ Target: network.id })),
      // A slot's home may not satisfy it, and then waits for ever.
      ...(chance(0.25) && constraint && !isStateful
        ? { Placement: { Constraints: [constraint] } }
        : {}),
    },
    UpdateConfig: update,
    RollbackConfig: update,
    EndpointSpec: {
      Mode: chance(0.8) ? "vip" : "dnsrr",
      Ports: chance(0.3)
        ? [{ Protocol: "tcp", TargetPort: 80, ...(chance(0.5) ? { PublishedPort: 8_080 } : {}) }]
        : [],
    },
  };
}

async function changeService(session: Session): Promise<void> {
  const { random, faults } = session;
  const name = `s${1 + Math.floor(random.next() * faults.servicesMax)}`;
  const { service, spec } = await read(
    session,
    (view) => {
      const found = view.serviceByName(name);
      return found ? [`service/${found.id}`] : [];
    },
    (view) => {
      const found = view.serviceByName(name);
      return { service: found, spec: drawSpec(session, view, name, found?.spec) };
    },
  );
  if (!service) {
    const id = newId(random);
    await write(session, [{ type: "create", table: "service", object: { id, spec } }]);
    return;
  }
  const roll = random.next();
  if (roll < 0.12) {
    await write(session, [{ type: "remove", table: "service", id: service.id }]);
  } else if (roll < 0.45 && service.spec.Mode.Replicated) {
    const Replicas = Math.floor(random.next() * 5);
    await update(session, service, { ...service.spec, Mode: { Replicated: { Replicas } } });
  } else if (roll < 0.55 && service.previousSpec) {
    await update(session, service, service.previousSpec, true);
  } else {
    await update(session, service, spec);
  }
}

/** As POST /services/{id}/update does. */
async function update(
  session: Session,
  service: Service,
  spec: ServiceSpec,
  isRollback = false,
): Promise<void> {
  const set = {
    spec,
    previousSpec: service.spec,
    previousSpecVersion: service.specVersion,
  };
  const message = "manually requested rollback";
  const status = { state: "rollback_started" as const, startedAtMs: Date.now(), message };
  await write(
    session,
    [
      {
        type: "update",
        table: "service",
        id: service.id,
        ifVersion: service.version,
        set: isRollback ? { ...set, updateStatus: status } : set,
        ...(isRollback ? {} : { unset: ["updateStatus"] }),
      },
    ],
    { key: `service/${service.id}`, version: service.version },
  );
}

async function changeNetwork(session: Session): Promise<void> {
  const { random } = session;
  const name = pick(random, NETWORKS) ?? "red";
  const found = await read(
    session,
    () => [],
    (view) => {
      const network = view.networkByName(name);
      return { network, subnet: chooseSubnet(view), count: view.networks().length };
    },
  );
  if (found.network) {
    await write(session, [{ type: "remove", table: "network", id: found.network.id }]);
    return;
  }
  await write(session, [networkAction(random, name, found.subnet, 4_096 + found.count + 10)]);
}

export function networkAction(
  random: Random,
  name: string,
  { subnet, gateway }: { subnet: string; gateway: string },
  vni: number,
): StoreAction {
  return {
    type: "create",
    table: "network",
    object: {
      id: newId(random),
      spec: {
        Name: name,
        Labels: {},
        Driver: "overlay",
        Options: {},
        Internal: false,
        Attachable: false,
        Ingress: name === "ingress",
        EnableIPv6: false,
        IPAM: { Driver: "default", Config: [{ Subnet: subnet, Gateway: gateway }] },
      },
      subnet,
      gateway,
      vni: vni + Math.floor(random.next() * 100_000),
    },
  };
}

// ---- nodes --------------------------------------------------------------------------------------

async function readNode(session: Session, wish: (node: NodeObject) => boolean) {
  return read(
    session,
    (view) => view.nodes().map(({ id }) => `node/${id}`),
    (view) => ({ node: pick(session.random, view.nodes().filter(wish)), nodes: view.nodes() }),
  );
}

async function setSpec(session: Session, node: NodeObject, spec: NodeSpec) {
  return write(
    session,
    [{ type: "update", table: "node", id: node.id, ifVersion: node.version, set: { spec } }],
    { key: `node/${node.id}`, version: node.version },
  );
}

export async function changeAvailability(session: Session): Promise<void> {
  const { node } = await readNode(session, () => true);
  if (!node) return;
  const Availability = pick(session.random, ["active", "pause", "drain"] as const) ?? "active";
  await setSpec(session, node, { ...node.spec, Availability });
}

/** Promotes or demotes; at least two managers, or the only one, stay. */
export async function changeRole(session: Session): Promise<void> {
  const { node, nodes } = await readNode(session, () => true);
  if (!node) return;
  const managers = nodes.filter((other) => other.spec.Role === "manager");
  if (node.spec.Role === "manager" && managers.length <= 2) return;
  // As the API: the managers that stay must be a quorum by themselves.
  const voters = session.manager.status().members.filter((member) => !member.isLearner);
  const rest = voters.filter((member) => member.nodeId !== node.id);
  if (node.spec.Role === "manager" && rest.length === 0) return;
  // A node that is away while every manager that it knows is demoted finds none any more, as in stock
  // Swarm: the first one stays, which all know.
  if (node.spec.Role === "manager" && node.index === 1) return;
  if (node.spec.Role === "worker" && managers.length >= 5) return;
  const Role = node.spec.Role === "manager" ? "worker" : "manager";
  await setSpec(session, node, { ...node.spec, Role });
}

/** Gives the node that was removed. */
export async function removeNode(session: Session): Promise<string | undefined> {
  const isWorker = (node: NodeObject) =>
    node.role === "worker" && node.spec.Role === "worker" && node.managerAddr === undefined;
  const { node, nodes } = await readNode(session, isWorker);
  if (!node || nodes.length <= 2) return undefined;
  const isForced = session.random.next() < 0.5;
  if (!isForced && node.status.state === "ready") return undefined;
  const condition = { key: `node/${node.id}`, version: node.version };
  const operation: Operation = {
    process: session.clientName,
    key: `node/${node.id}`,
    op: "write",
    value: null,
    startMs: session.nowMs(),
    endMs: Number.POSITIVE_INFINITY,
    outcome: "unknown",
  };
  session.records.registers.push(operation);
  const result = await write(
    session,
    [
      {
        type: "remove",
        table: "node",
        id: node.id,
        ...(isForced ? {} : { ifVersion: node.version }),
      },
    ],
    isForced ? undefined : condition,
  );
  operation.endMs = session.nowMs();
  operation.outcome = "index" in result ? "ok" : "fail";
  return "index" in result ? node.id : undefined;
}

/** As issue-certificate does: a node object, then the host may start. */
export async function joinNode(
  session: Session,
  host: SimHost,
): Promise<{ nodeId: string; role: "worker" | "manager" } | undefined> {
  const { index, meshAddress } = await read(
    session,
    () => [],
    (view) => ({ index: chooseNodeIndex(view), meshAddress: chooseMeshAddress(view) }),
  );
  const nodeId = newId(session.random);
  const role = session.random.next() < 0.3 ? "manager" : "worker";
  const result = await write(session, [
    nodeAction({ nodeId, role, index, meshAddress, hostName: host.name, random: session.random }),
  ]);
  return "index" in result ? { nodeId, role } : undefined;
}

export function nodeAction(node: {
  nodeId: string;
  role: "worker" | "manager";
  index: number;
  meshAddress: string;
  hostName: string;
  random: Random;
  managerAddr?: string;
}): StoreAction {
  return {
    type: "create",
    table: "node",
    object: {
      id: node.nodeId,
      spec: {
        Labels: { zone: pick(node.random, ZONES) ?? "a" },
        Role: node.role,
        Availability: "active",
      },
      status: { state: "unknown", message: "", addr: node.hostName },
      role: node.role,
      index: node.index,
      meshAddress: node.meshAddress,
      dataPathAddr: `192.168.0.${node.hostName.replace(/\D/g, "")}`,
      ...(node.managerAddr === undefined ? {} : { managerAddr: node.managerAddr }),
    },
  };
}

/** Marks a node with a value that nobody else writes, or reads a mark. */
async function useRegister(session: Session): Promise<void> {
  const { node, nodes } = await readNode(session, () => true);
  if (!node) return;
  const key = `node/${node.id}`;
  const base = { process: session.clientName, key, startMs: session.nowMs() };
  if (session.random.next() < 0.5) {
    const value = await read(
      session,
      () => [key],
      (view) => view.node(node.id)?.spec.Labels[MARK] ?? null,
    );
    session.records.registers.push({
      ...base,
      op: "read",
      value,
      endMs: session.nowMs(),
      outcome: "ok",
    });
    return;
  }
  // Some mark another node as well: both or none.
  const other = session.random.next() < 0.3 ? pick(session.random, nodes) : undefined;
  const targets = other && other !== node ? [node, other] : [node];
  const operations = targets.map(
    (target): Operation => ({
      ...base,
      key: `node/${target.id}`,
      op: "write",
      value: newId(session.random).slice(0, 8),
      endMs: Number.POSITIVE_INFINITY,
      outcome: "unknown",
    }),
  );
  session.records.registers.push(...operations);
  const actions = targets.map((target, at): StoreAction => {
    const Labels = { ...target.spec.Labels, [MARK]: operations[at]?.value ?? "" };
    const set = { spec: { ...target.spec, Labels } };
    return { type: "update", table: "node", id: target.id, ifVersion: target.version, set };
  });
  const result = await write(session, actions, { key, version: node.version });
  for (const operation of operations) {
    operation.endMs = session.nowMs();
    operation.outcome = "index" in result ? "ok" : "fail";
  }
}

/** Everything that was set aside comes back, so that what is wanted can be had. */
export async function activateAll(session: Session): Promise<void> {
  const nodes = await session.manager.read((view) => view.nodes());
  for (const node of nodes) {
    if (node.spec.Availability !== "pause") continue;
    await setSpec(session, node, { ...node.spec, Availability: "active" });
  }
}

/** Writes a note without a word of what it was before, so that nothing but its id keeps it from twice; or reads it. */
async function useNote(session: Session): Promise<void> {
  const { random } = session;
  const startMs = session.nowMs();
  const note = await read(
    session,
    () => [],
    (view) => view.configs()[0],
  );
  if (!note) {
    const object = { id: newId(random), spec: { Name: "note" } };
    await write(session, [{ type: "create", table: "config", object }]);
    return;
  }
  const isRead = random.next() < 0.3;
  const value = isRead ? (note.spec.Labels?.[MARK] ?? null) : newId(random).slice(0, 8);
  const operation: Operation = {
    process: session.clientName,
    key: `config/${note.id}`,
    op: isRead ? "read" : "write",
    value,
    startMs: isRead ? startMs : session.nowMs(),
    endMs: isRead ? session.nowMs() : Number.POSITIVE_INFINITY,
    outcome: isRead ? "ok" : "unknown",
  };
  session.records.registers.push(operation);
  if (isRead) return;
  const set = { spec: { ...note.spec, Labels: { [MARK]: value ?? "" } } };
  const result = await write(session, [{ type: "update", table: "config", id: note.id, set }]);
  operation.endMs = session.nowMs();
  operation.outcome = "index" in result ? "ok" : "fail";
}

/** A change that every node is told of: what it has missed before shows by the gap. */
export async function touchAll(session: Session): Promise<void> {
  const { id, subnet } = await session.manager.read((view) => ({
    id: view.networkByName(TOUCH)?.id,
    subnet: chooseSubnet(view),
  }));
  if (id !== undefined) return;
  await write(session, [networkAction(session.random, TOUCH, subnet, 200_000)]);
}

/** One thing that a user does. */
export async function act(session: Session): Promise<void> {
  const roll = session.random.next();
  if (roll < session.faults.noteShare) await useNote(session);
  else if (roll < 0.65) await changeService(session);
  else if (roll < 0.72) await changeNetwork(session);
  else await useRegister(session);
}

/**
 * Runs `job` through the manager of that host's life, as that process; `done` is called once: when it has
 * ended in whatever way, or after a while in which the process died.
 */
export function runJob(
  time: VirtualTime,
  host: SimHost,
  job: (manager: Manager) => Promise<void>,
  done: () => void,
): void {
  const { life } = host;
  const manager = life?.manager();
  let isDone = false;
  const end = () => {
    if (isDone) return;
    isDone = true;
    done();
  };
  if (!life || !manager) {
    end();
    return;
  }
  const crash = (error: unknown) => {
    setImmediate(() => {
      throw error;
    });
  };
  time.post(life.process, 0, () => {
    job(manager)
      .catch((error: unknown) => {
        if (!(error instanceof ClusterError)) throw error;
      })
      // The user goes on in a turn of its own.
      .then(() => time.world.schedule(0, end))
      .catch(crash);
  });
  const watch = () => {
    if (isDone) return;
    if (!life.process.isAlive) end();
    else time.world.schedule(500, watch);
  };
  time.world.schedule(500, watch);
}
