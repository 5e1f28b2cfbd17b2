/** Facts of one node → findings. Pure: what is good, bad and to be done is decided here and in check-cluster.ts. */
import { unreachable } from "../../core/assert.ts";
import { MARK_PERMIT, MESH_DEVICE } from "../../net/mesh/names.ts";
import { overlayMtu } from "../../net/mesh/docker-network.ts";
import type { NetFinding } from "../../net/rpc/methods.ts";
import type { NodeFacts, PeerFact, TcpOutcome } from "./facts.ts";
import { error, ok, warning } from "./report.ts";

const CONNTRACK_WARNING = 0.8;
const CONNTRACK_ERROR = 0.95;
/** Names in one sentence. */
const NAMES_MAX = 5;

/** All checks of one node. */
export function checkNode(facts: NodeFacts): NetFinding[] {
  return [
    ...checkMesh(facts),
    ...checkTunnels(facts),
    ...checkEncryption(facts),
    ...checkMtu(facts),
    ...checkManagers(facts),
    ...checkEndpoints(facts),
    ...checkPorts(facts),
    ...checkDns(facts),
    ...checkConntrack(facts),
    ...checkSettings(facts),
    ...checkFirewall(facts),
    ...checkListeners(facts),
  ];
}

/** The mesh thread: does it serve, has it had to leave something out, was drift mended. */
export function checkMesh({ mesh, self, devices }: NodeFacts): NetFinding[] {
  if (mesh.type === "unknown") {
    return [
      error(
        "mesh",
        "data path",
        mesh.message,
        'look at the agent\'s log ("journalctl -u shoal"), and restart the agent: containers and traffic go on meanwhile',
      ),
    ];
  }
  const findings: NetFinding[] = [];
  const drift = Object.entries(mesh.repairs).filter(([, count]) => count > 0);
  const repairs = drift.map(([kind, count]) => `${kind} ${count}`).join(", ");
  if (mesh.lastError !== undefined) {
    findings.push(
      error(
        "mesh",
        "data path",
        `${mesh.backend}: ${mesh.lastError}`,
        mesh.lastError.startsWith("Left out: ")
          ? "remove one of the two that contradict each other; the rest works"
          : "do what the message says; the agent tries again every 5 s",
      ),
    );
  } else if (!self) {
    findings.push(
      warning(
        "mesh",
        "data path",
        `${mesh.backend}: the managers have not told this node its place in the mesh yet`,
        "wait for its session with the leader (docker node ls, agent's log)",
      ),
    );
  } else if (devices && devices.mesh?.isUp !== true) {
    findings.push(
      error(
        "mesh",
        MESH_DEVICE,
        `the device ${MESH_DEVICE} is ${devices.mesh ? "down" : "not there"}`,
        "it is made again within 5 s; if not, the agent's log says why",
      ),
    );
  } else {
    findings.push(
      ok(
        "mesh",
        "data path",
        `${mesh.backend}${repairs === "" ? ", nothing had to be mended" : `, mended since the start: ${repairs}`}`,
      ),
    );
  }
  if (self && devices && !devices.underlay) {
    findings.push(
      error(
        "mesh",
        self.dataPathAddr,
        `no network device of this host has the data path address ${self.dataPathAddr}`,
        "give the host its address back, or leave and join again with --data-path-addr",
      ),
    );
  }
  for (const note of mesh.notes ?? []) {
    findings.push(
      warning(
        "mesh",
        "data path",
        note,
        "nothing, unless you need it: then give the host what is named, and restart the agent",
      ),
    );
  }
  return findings;
}

/** Do packets come back from each peer through the tunnel. */
export function checkTunnels(facts: NodeFacts): NetFinding[] {
  const { self, peers, dataPathPort } = facts;
  const findings = peers.flatMap((peer) => {
    if (isReached(peer.tcp)) return [];
    const from = self?.dataPathAddr ?? "this node";
    const ways = `UDP ${dataPathPort} between ${from} and ${peer.dataPathAddr}, in both directions`;
    if (peer.tcp.type === "failed") {
      return [
        error(
          "tunnel",
          peer.hostname,
          `${peer.meshAddress} cannot be tried: ${peer.tcp.message}`,
          `look at the mesh check of this node; the way is ${ways}`,
        ),
      ];
    }
    if (peer.smallPing === "answered") {
      return [
        warning(
          "tunnel",
          peer.hostname,
          `${peer.meshAddress} answers ping through the tunnel, but no TCP connection`,
          `a firewall on ${peer.hostname} drops TCP on ${MESH_DEVICE}: accept it, if nodes are to reach each other there`,
        ),
      ];
    }
    const host =
      peer.underlayPing === "answered"
        ? `; the host itself answers at ${peer.dataPathAddr}, so it is a firewall on the way`
        : peer.underlayPing === "silent"
          ? `; the host does not answer ping at ${peer.dataPathAddr} either`
          : "";
    return [
      error(
        "tunnel",
        peer.hostname,
        `nothing comes back through the tunnel (${peer.meshAddress} is silent)${host}`,
        `open ${ways}: firewalls of both hosts, security groups, the network between; and see that ${peer.hostname} is up`,
      ),
    ];
  });
  const good = peers.filter((peer) => isReached(peer.tcp));
  if (good.length > 0) {
    const times = good.flatMap(({ tcp }) => ("ms" in tcp ? [tcp.ms] : []));
    const [min, max] = [Math.min(...times), Math.max(...times)];
    const range = min === max ? `${min}` : `${min} to ${max}`;
    findings.push(
      ok(
        "tunnel",
        listNames(good.map((peer) => peer.hostname)),
        `answered through the tunnel in ${range} ms${leftOut(facts.leftOut.peers)}`,
        good.length,
      ),
    );
  }
  return findings;
}

/** Can this node carry the cluster's encrypted networks, and do encrypted packets come through. */
export function checkEncryption({ encryption, self, peers }: NodeFacts): NetFinding[] {
  if (!encryption) return [];
  if (encryption.lack !== undefined) {
    return [
      warning(
        "encryption",
        "this node",
        `it cannot carry encrypted networks, so it gets no tasks of them, and ports that those publish do not answer here: ${encryption.lack}`,
        "modprobe esp4, and have it loaded at boot (/etc/modules-load.d): the agent sees it within a minute",
      ),
    ];
  }
  const from = self?.dataPathAddr ?? "this node";
  const findings: NetFinding[] = [];
  const good: string[] = [];
  for (const { hostname, dataPathAddr, tcp, encryptedTcp } of peers) {
    // What does not come through in clear, the check of the tunnel has told.
    if (!encryptedTcp || !isReached(tcp)) continue;
    if (isReached(encryptedTcp)) {
      good.push(hostname);
      continue;
    }
    findings.push(
      error(
        "encryption",
        hostname,
        "it answers through the tunnel, but nothing comes back through the encrypted one",
        `open IP protocol 50 (ESP) between ${from} and ${dataPathAddr}, in both directions: firewalls of both hosts, security groups, the network between`,
      ),
    );
  }
  if (good.length > 0) {
    findings.push(
      ok("encryption", listNames(good), "answered through the encrypted tunnel", good.length),
    );
  }
  return findings;
}

/** Do the largest packets of overlay networks come through. */
export function checkMtu(facts: NodeFacts): NetFinding[] {
  const { devices, peers } = facts;
  const findings: NetFinding[] = [];
  const { underlay, mesh } = devices ?? {};
  if (underlay && mesh && mesh.mtu !== overlayMtu(underlay.mtu)) {
    findings.push(
      warning(
        "mtu",
        MESH_DEVICE,
        `${MESH_DEVICE} has MTU ${mesh.mtu}, ${underlay.name} below it ${underlay.mtu}: ${overlayMtu(underlay.mtu)} would fit`,
        "it is set again within 5 s; if not, look at the mesh check",
      ),
    );
  }
  const tried = peers.filter((peer) => peer.ping !== undefined && peer.ping !== "no-tool");
  const good: PeerFact[] = [];
  let isSilent = 0;
  for (const peer of tried) {
    if (peer.ping === "answered") good.push(peer);
    else if (peer.ping === "too-big" || peer.smallPing === "answered") {
      findings.push(
        error(
          "mtu",
          peer.hostname,
          `packets of ${mesh?.mtu ?? "full"} bytes do not come through the tunnel to ${peer.hostname}, small ones do: transfers hang`,
          `give the network between ${facts.self?.dataPathAddr ?? "this node"} and ${peer.dataPathAddr} an MTU of ${underlay?.mtu ?? "the devices'"}, or lower the MTU of ${underlay?.name ?? "the device"} on all nodes to what it carries`,
        ),
      );
    } else isSilent += 1;
  }
  if (good.length > 0) {
    const size = `packets of ${mesh?.mtu ?? "full"} bytes come through whole`;
    findings.push(ok("mtu", listNames(good.map((peer) => peer.hostname)), size, good.length));
  }
  const missing = peers.filter((peer) => isReached(peer.tcp)).length - tried.length + isSilent;
  if (missing > 0) {
    const why =
      isSilent > 0 ? "ping gets no answer" : "the program ping (iputils) is not on this host";
    findings.push(ok("mtu", `${missing} of ${peers.length} peers`, `not checked: ${why}`, 0));
  }
  return findings;
}

/** Can the managers' port be reached from here. */
export function checkManagers({ managers }: NodeFacts): NetFinding[] {
  const bad = managers
    .filter(({ tcp }) => tcp.type !== "connected")
    .map(({ hostname, addr, tcp }) =>
      error(
        "managers",
        hostname,
        `manager ${hostname} at ${addr}: ${said(tcp)}`,
        `open TCP ${addr.split(":").at(-1) ?? "2377"} from this node to it, and see that its agent runs; without another manager this node cannot follow a change of leader`,
      ),
    );
  const good = managers.filter(({ tcp }) => tcp.type === "connected");
  if (good.length === 0) return bad;
  const names = listNames(good.map(({ hostname }) => hostname));
  return [...bad, ok("managers", names, "the managers' port can be reached", good.length)];
}

/** Does each ready task answer at its port, over the data path. */
export function checkEndpoints(facts: NodeFacts): NetFinding[] {
  const { endpoints } = facts;
  const good = endpoints.filter(({ tcp }) => tcp.type === "connected");
  const findings: NetFinding[] = [];
  const bad = endpoints.filter(({ tcp }) => tcp.type !== "connected");
  const groups = Map.groupBy(
    bad,
    ({ service, hostname, port, tcp }) => `${service} ${hostname} ${port} ${tcp.type}`,
  );
  for (const group of groups.values()) {
    const [first] = group;
    if (!first) continue;
    const { service, hostname, port, tcp } = first;
    const names = listNames(group.map(({ name, address }) => `${name} (${address})`));
    const where = `${hostname}${first.isLocal ? " (this node)" : ""}`;
    const fix =
      tcp.type === "refused"
        ? `see that the program in the container listens on 0.0.0.0:${port}, correct the target port of ${service}, or give it a health check, so that it gets no connections before it can serve`
        : first.isLocal
          ? "look at the container's own firewall and at the settings and firewall checks of this node"
          : `look at the tunnel to ${hostname} and at the firewall checks there; if the tunnel works, a firewall on ${hostname} drops what is forwarded to containers`;
    findings.push(
      error(
        "endpoints",
        `${service} on ${where}`,
        `ready, but port ${port} ${saidOfMany(tcp)}: ${names}`,
        fix,
        group.length,
      ),
    );
  }
  if (good.length > 0) {
    const services = [...new Set(good.map(({ service }) => service))];
    findings.push(
      ok(
        "endpoints",
        listNames(services),
        `${good.length} ready ${good.length === 1 ? "task answers" : "tasks answer"}${leftOut(facts.leftOut.endpoints)}`,
        good.length,
      ),
    );
  }
  return findings;
}

/** Does each published port answer on this node's own address. */
export function checkPorts(facts: NodeFacts): NetFinding[] {
  const { ports } = facts;
  const failing = new Set(
    facts.endpoints.flatMap(({ service, tcp }) => (tcp.type === "connected" ? [] : [service])),
  );
  const findings = ports
    .filter(({ tcp }) => tcp.type !== "connected")
    .map(({ service, address, publishedPort, tcp }) =>
      error(
        "ports",
        `${publishedPort}/tcp of ${service}`,
        `${address}:${publishedPort} on this node: ${said(tcp)}, though ${service} has ready tasks`,
        failing.has(service)
          ? `mend the endpoints of ${service} first (above)`
          : "its tasks answer this node directly, so its rules are at fault: look at its mesh, settings and firewall checks",
      ),
    );
  const good = ports.filter(({ tcp }) => tcp.type === "connected");
  if (good.length > 0) {
    const names = listNames(good.map(({ publishedPort }) => String(publishedPort)));
    const many = good.length === 1 ? "published port answers" : "published ports answer";
    findings.push(
      ok(
        "ports",
        names,
        `${good.length} ${many} on this node${leftOut(facts.leftOut.ports)}`,
        good.length,
      ),
    );
  }
  return findings;
}

/** Does the DNS server of the overlay networks answer, and for what is not there with authority. */
export function checkDns(facts: NodeFacts): NetFinding[] {
  const findings: NetFinding[] = [];
  const good: string[] = [];
  for (const { network, gateway, own, unknown, task, inside } of facts.dns) {
    const about = `${network} (${gateway})`;
    if (unknown.type === "silent" || own.type === "silent") {
      findings.push(
        error(
          "dns",
          about,
          `the DNS server of network ${network} at ${gateway}:53 does not answer: containers on it find no names`,
          `let UDP and TCP 53 in to ${gateway} on this host, and see that no other DNS server holds 0.0.0.0:53 here (ss -ulnp)`,
        ),
      );
    } else if (unknown.code !== "NXDOMAIN" || !unknown.isAuthority) {
      findings.push(
        error(
          "dns",
          about,
          `another DNS server answers at ${gateway}:53: a name that does not exist got ${unknown.code}${unknown.isAuthority ? "" : " without authority"}`,
          "stop what listens on 0.0.0.0:53 of this host or bind it to its own address (ss -ulnp), then restart the agent",
        ),
      );
    } else if (!own.isAuthority) {
      findings.push(
        error(
          "dns",
          about,
          `the DNS server at ${gateway}:53 does not know network ${network} yet`,
          "look at this node's mesh check and at its session with the leader; restart the agent if it stays so",
        ),
      );
    } else if (task && inside?.type === "silent") {
      findings.push(
        error(
          "dns",
          about,
          `containers on network ${network} get no answer from their DNS server ${gateway}:53, this host does (asked in ${task.container})`,
          "a firewall of this host drops UDP 53 from the network's bridge: accept it on input for the devices sh* (nft list ruleset, ufw, firewalld)",
        ),
      );
    } else if (task && inside?.type === "answered" && inside.code !== "NOERROR") {
      findings.push(
        error(
          "dns",
          about,
          `service ${task.name} is not found on network ${network} (${inside.code} from ${gateway}:53, asked in ${task.container})`,
          "look at this node's mesh check and at its session with the leader; restart the agent if it stays so",
        ),
      );
    } else good.push(network);
  }
  if (good.length > 0) {
    findings.push(
      ok(
        "dns",
        listNames(good),
        `the DNS server answers${countInside(facts)}${leftOut(facts.leftOut.networks)}`,
        good.length,
      ),
    );
  }
  return findings;
}

function countInside({ dns }: NodeFacts): string {
  const count = dns.filter(({ inside }) => inside?.type === "answered").length;
  return count > 0 ? `, on ${count} of ${dns.length} asked in a container too` : "";
}

/** Is there room in the kernel's table of connections. */
export function checkConntrack({ conntrack }: NodeFacts): NetFinding[] {
  if (!conntrack || conntrack.max <= 0) {
    return [ok("conntrack", "connections", "not checked: the kernel does not tell", 0)];
  }
  const { count, max } = conntrack;
  const seen = `${count} of ${max} connections (${Math.floor((100 * count) / max)} %)`;
  const fix = `raise it: sysctl -w net.netfilter.nf_conntrack_max=${max * 2} (and keep it in /etc/sysctl.d); "conntrack -S" counts what was dropped`;
  if (count >= max * CONNTRACK_ERROR) {
    return [error("conntrack", "connections", `${seen}: new ones are being dropped or soon`, fix)];
  }
  if (count >= max * CONNTRACK_WARNING) return [warning("conntrack", "connections", seen, fix)];
  return [ok("conntrack", "connections", seen)];
}

type SettingRule = {
  path: string;
  wanted: number;
  /** What goes wrong otherwise. */
  effect: string;
  fix: string;
};
const MENDED = "the agent sets it again within 5 s; find out what changes it (/etc/sysctl.d)";
const SETTING_RULES: readonly SettingRule[] = [
  {
    path: "net/ipv4/ip_forward",
    wanted: 1,
    effect: "this host forwards nothing to or from containers",
    fix: "sysctl -w net.ipv4.ip_forward=1, and find out what turned it off (/etc/sysctl.d); dockerd sets it only when it starts",
  },
  {
    path: "net/bridge/bridge-nf-call-iptables",
    wanted: 1,
    effect: "service addresses do not work between containers of this host",
    fix: MENDED,
  },
  {
    path: `net/ipv4/conf/${MESH_DEVICE}/rp_filter`,
    wanted: 2,
    effect: "answers of published ports are dropped on the way back",
    fix: MENDED,
  },
  {
    path: `net/ipv4/conf/${MESH_DEVICE}/forwarding`,
    wanted: 1,
    effect: "nothing comes from other nodes to containers here",
    fix: MENDED,
  },
];

/** Are the kernel settings as the mesh needs them; those that the kernel does not have are not judged. */
export function checkSettings({ settings }: NodeFacts): NetFinding[] {
  const present = SETTING_RULES.filter(({ path }) => settings[path] !== undefined);
  const bad = present.filter(({ path, wanted }) => settings[path] !== wanted);
  const findings = bad.map(({ path, wanted, effect, fix }) =>
    error(
      "settings",
      path.replaceAll("/", "."),
      `${path.replaceAll("/", ".")} is ${settings[path]}, needed is ${wanted}: ${effect}`,
      fix,
    ),
  );
  const count = present.length - bad.length;
  if (count > 0) findings.push(ok("settings", "kernel", "as the mesh needs them", count));
  return findings;
}

const MARK = `0x${MARK_PERMIT.toString(16)}`;
/** A rule that ends the way of every packet. */
const DROPS_ALL = /^-j (DROP|REJECT)\b/;

/** Does our accept stand where forwarded packets meet it. */
export function checkFirewall({ firewall, self }: NodeFacts): NetFinding[] {
  if (!firewall) return [ok("firewall", "iptables", "not checked: iptables does not tell", 0)];
  if (!self) return [];
  const { forward, user } = firewall;
  const place = forward.findIndex((rule) => rule === "-j DOCKER-USER");
  const own = (rule: string) => / -j S[HI]-|^-j S[HI]-/.test(rule);
  const before = forward.slice(0, Math.max(0, place)).filter((rule) => !own(rule));
  const accept = user.findIndex((rule) => rule.includes(MARK) && rule.endsWith("-j ACCEPT"));
  const findings: NetFinding[] = [];
  if (place === -1) {
    findings.push(
      error(
        "firewall",
        "FORWARD",
        "FORWARD has no jump to DOCKER-USER: packets of the mesh are judged by other rules only",
        "it is put in again within 5 s; if it goes again, another tool rewrites iptables: let that keep DOCKER-USER",
      ),
    );
  } else if (before.length > 0) {
    findings.push(
      warning(
        "firewall",
        "FORWARD",
        `before the jump to DOCKER-USER stand ${before.length} other rules, first: ${before[0] ?? ""}`,
        "the jump is put first again within 5 s; if it does not stay, another tool rewrites FORWARD: put its rules into DOCKER-USER",
      ),
    );
  }
  if (accept === -1) {
    findings.push(
      error(
        "firewall",
        "DOCKER-USER",
        `DOCKER-USER lacks the accept of the mesh (mark ${MARK}): what other nodes send to containers is dropped`,
        "it is put in again within 5 s; if it goes again, another tool flushes DOCKER-USER",
      ),
    );
  }
  const blocker = user.slice(0, Math.max(0, accept)).find((rule) => DROPS_ALL.test(rule));
  if (blocker !== undefined) {
    findings.push(
      error(
        "firewall",
        "DOCKER-USER",
        `the rule "${blocker}" in DOCKER-USER drops everything before the mesh's accept`,
        `make it narrower (-i with the device of the outside), or remove it: iptables -D DOCKER-USER ${blocker}`,
      ),
    );
  }
  if (findings.length === 0) {
    findings.push(
      ok("firewall", "iptables", "DOCKER-USER is first in FORWARD and lets the mesh in"),
    );
  }
  return findings;
}

/** Does a host process want a port that a service has. */
export function checkListeners({ listeners }: NodeFacts): NetFinding[] {
  return listeners.map(({ port, service, process }) =>
    error(
      "listeners",
      `${port}/tcp`,
      `${process} on this host listens on port ${port}, which service ${service} publishes: connections go to the service, that program is not reached`,
      `stop it, or have it listen elsewhere, or publish ${service} on another port (docker service update --publish-rm ${port} --publish-add …)`,
    ),
  );
}

function isReached(outcome: TcpOutcome): boolean {
  return outcome.type === "connected" || outcome.type === "refused";
}

function said(outcome: TcpOutcome): string {
  switch (outcome.type) {
    case "connected":
      return "it answers";
    case "refused":
      return "the connection is refused";
    case "silent":
      return `no answer in ${outcome.ms} ms`;
    case "failed":
      return `cannot be tried (${outcome.message})`;
  }
  return unreachable(outcome);
}

function saidOfMany(outcome: TcpOutcome): string {
  return outcome.type === "refused" ? "refuses connections" : `gives ${said(outcome)}`;
}

function listNames(names: readonly string[]): string {
  const more = names.length - NAMES_MAX;
  const shown = names.slice(0, NAMES_MAX).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown;
}

function leftOut(count: number): string {
  return count > 0 ? `; ${count} are left for the next runs` : "";
}
