/**
 * Hosts without Docker: three host namespaces on a fabric, a router, a client behind it; containers
 * are namespaces with a veth in a hand-made bridge. Everything lives in namespaces made here, named
 * after this process; nothing in the root namespace is touched.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NodeEncryption } from "../../../core/objects/node.ts";
import { startMesh, type Mesh } from "../../../net/mesh/mesh.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import type { MeshOutput } from "../../../net/mesh/protocol.ts";
import { type BackendName, commandRunner, type CommandResult } from "../../../net/mesh/backend.ts";
import {
  CLIENT,
  LAB_TASKS,
  labItems,
  labNetwork,
  type LabTask,
  networkId,
  UNDERLAY,
} from "./lab-state.ts";
import type { ServeList } from "./lab-tool.ts";

const TOOL = join(import.meta.dir, "lab-tool.ts");
const PREFIX = `sk${process.pid}`;
export const NODES = [1, 2, 3] as const;
/** A container that no overlay network knows, on node 1's own `docker0`. */
export const FOREIGN = "foreign1";

/** Why the lab cannot run here, or undefined. */
export function labObstacle(options: LabUpOptions): string | undefined {
  if (process.getuid?.() !== 0) return "not root";
  for (const tool of [
    "ip",
    "bridge",
    ...(options.backend === "nftables" ? ["nft"] : []),
    options.variant === undefined ? "iptables" : `xtables-${options.variant}-multi`,
    "conntrack",
    "nsenter",
    "busybox",
    "bash",
  ]) {
    if (!Bun.which(tool)) return `no ${tool}`;
  }
  return undefined;
}

export type Lab = {
  meshes: Map<number, Mesh>;
  outputs: MeshOutput[];
  dir: string;
  /** Runs a command in a namespace: `h1`, `cli`, `rtr`, or a task's name. */
  inside(namespace: string, argv: string[], stdin?: string): Promise<CommandResult>;
  /** First line that a TCP server answers, or what went wrong. */
  tcp(from: string, address: string, port: number): Promise<string>;
  udp(from: string, address: string, port: number): Promise<string>;
  /** As `tcp`, from each of these addresses of its. */
  tcpFrom(from: string, sources: string[], address: string, port: number): Promise<string[]>;
  /** A connection that stays open: each `echo` says whether a line came back; the last one ends it. */
  stream(from: string, address: string, port: number, echoes: number): { echo(): Promise<string> };
  /** Names of those that answered, with how often, such as `web1:2 web2:2`. */
  spread(count: number, probe: () => Promise<string>): Promise<string>;
  startNode(node: number, items?: boolean): Promise<Mesh>;
  /** The worker thread of `net/mesh/worker.ts` in a process on this node; `end` gives its output. */
  startAgent(node: number): Promise<{ lines: string[]; end(): Promise<string[]> }>;
  collide(targets: string[]): Promise<string>;
  down(): Promise<void>;
};

export const namespaceOf = (name: string) => `${PREFIX}${name}`;
const pathOf = (name: string) => `/run/netns/${namespaceOf(name)}`;

export type LabUpOptions = {
  backend: BackendName;
  /** Which `iptables` the hosts have. @default the machine's own choice */
  variant?: "legacy" | "nft";
  /** How long a probe waits for its answer. */
  patienceS?: number;
  onEncryption?(node: number, encryption: NodeEncryption): void;
};

export async function labUp(options: LabUpOptions): Promise<Lab> {
  const root = commandRunner();
  const must = async (argv: string[], stdin?: string) => {
    const result = await root(argv, stdin);
    if (result.code !== 0) throw new Error(`${argv.join(" ")}: ${result.stderr.slice(0, 500)}`);
    return result.stdout;
  };
  const dir = mkdtempSync(join(tmpdir(), "shoal-mesh-"));
  /** First in the path of every command: `iptables` of the chosen variant. */
  const binDir = join(dir, "bin");
  const prefixOf = (name: string) => [
    "nsenter",
    `--net=${pathOf(name)}`,
    ...(options.variant === undefined ? [] : ["env", `PATH=${binDir}:${process.env["PATH"]}`]),
  ];
  mkdirSync(binDir);
  const iptables = ["iptables", "iptables-restore", "iptables-save"];
  const ip6tables = iptables.map((tool) => tool.replace("ip", "ip6"));
  for (const tool of [...iptables, ...ip6tables]) {
    const target = Bun.which(`xtables-${options.variant ?? "nft"}-multi`);
    if (target) symlinkSync(target, join(binDir, tool));
  }
  const made: string[] = [];
  const add = async (name: string) => {
    made.push(name);
    await must(["ip", "netns", "add", namespaceOf(name)]);
  };
  const inside: Lab["inside"] = (name, argv, stdin) => commandRunner(prefixOf(name))(argv, stdin);
  const batch = (name: string, lines: string[]) =>
    must(["ip", "-n", namespaceOf(name), "-batch", "-"], `${lines.join("\n")}\n`);
  const link = (a: string, aName: string, b: string, bName: string) =>
    `link add name ${aName} netns ${namespaceOf(a)} type veth peer name ${bName} netns ${namespaceOf(b)}`;

  const hosts = NODES.map((node) => `h${node}`);
  for (const name of ["fab", "rtr", "cli", ...hosts]) await add(name);
  for (const task of LAB_TASKS) await add(task.name);
  await add(FOREIGN);

  const links = [link("rtr", "r0", "fab", "p254"), link("rtr", "r1", "cli", "eth0")];
  for (const node of NODES) links.push(link(`h${node}`, "eth0", "fab", `p${node}`));
  for (const task of LAB_TASKS) {
    for (const [place] of legsOf(task).entries()) {
      links.push(link(task.name, `eth${place}`, `h${task.node}`, `v${place}${task.name}`));
    }
  }
  links.push(link(FOREIGN, "eth0", "h1", `v0${FOREIGN}`));
  await must(["ip", "-batch", "-"], `${links.join("\n")}\n`);

  await batch("fab", [
    "link add sw type bridge",
    "link set sw up",
    ...["p254", ...NODES.map((node) => `p${node}`)].flatMap((port) => [
      `link set ${port} master sw`,
      `link set ${port} up`,
    ]),
  ]);
  await batch("rtr", [
    "link set lo up",
    "link set r0 up",
    "link set r1 up",
    "addr add 192.168.77.254/24 dev r0",
    "addr add 203.0.113.1/24 dev r1",
  ]);
  await inside("rtr", ["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
  await batch("cli", [
    "link set lo up",
    "link set eth0 up",
    `addr add ${CLIENT}/24 dev eth0`,
    "route add default via 203.0.113.1",
  ]);
  for (const node of NODES) await hostUp(node);

  async function hostUp(node: number): Promise<void> {
    const name = `h${node}`;
    const tasks = LAB_TASKS.filter((task) => task.node === node);
    const networks = [...new Set(tasks.flatMap((task) => Object.keys(task.legs)))];
    const lines = [
      "link set lo up",
      "link set eth0 up",
      `addr add ${UNDERLAY(node)}/24 dev eth0`,
      "route add default via 192.168.77.254",
    ];
    for (const network of networks) {
      const bridge = bridgeName(networkId(network));
      lines.push(
        `link add ${bridge} mtu 1450 type bridge`,
        `addr add ${labNetwork(network).gateway}/24 dev ${bridge}`,
        `link set ${bridge} up`,
      );
    }
    for (const task of tasks) {
      for (const [place, [network]] of legsOf(task).entries()) {
        const port = `v${place}${task.name}`;
        lines.push(`link set ${port} mtu 1450`, `link set ${port} up`);
        lines.push(`link set ${port} master ${bridgeName(networkId(network))}`);
      }
    }
    if (node === 1) {
      lines.push("link add docker0 type bridge", "addr add 172.17.0.1/24 dev docker0");
      lines.push("link set docker0 up", `link set v0${FOREIGN} master docker0 up`);
    }
    await batch(name, lines);
    // As on a hardened host with Docker: strict source check, FORWARD closed but for what leaves bridges.
    await inside(name, [
      "sysctl",
      "-qw",
      "net.ipv4.conf.all.rp_filter=1",
      "net.ipv4.conf.default.rp_filter=1",
      "net.ipv4.conf.eth0.rp_filter=1",
      "net.ipv4.ip_forward=1",
    ]);
    const rules = ["*filter", ":FORWARD DROP"];
    const bridges = networks
      .filter((network) => !labNetwork(network).spec.Internal)
      .map((network) => bridgeName(networkId(network)));
    for (const bridge of [...bridges, ...(node === 1 ? ["docker0"] : [])]) {
      rules.push(
        `-A FORWARD -o ${bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
        `-A FORWARD -i ${bridge} ! -o ${bridge} -j ACCEPT`,
      );
    }
    rules.push("COMMIT", "");
    await inside(name, ["iptables-restore", "-n"], rules.join("\n"));
  }

  for (const task of LAB_TASKS) {
    const legs = legsOf(task);
    const lines = ["link set lo up"];
    for (const [place, [, address]] of legs.entries()) {
      lines.push(
        `link set eth${place} mtu 1450`,
        `addr add ${address}/24 dev eth${place}`,
        `link set eth${place} up`,
      );
    }
    const first = legs[0];
    if (first && !labNetwork(first[0]).spec.Internal) {
      lines.push(`route add default via ${labNetwork(first[0]).gateway}`);
    }
    await batch(task.name, lines);
  }
  await batch(FOREIGN, [
    "link set lo up",
    "addr add 172.17.0.2/24 dev eth0",
    "link set eth0 up",
    "route add default via 172.17.0.1",
  ]);

  const list: ServeList = [
    ...LAB_TASKS.map((task) => ({
      name: task.name,
      namespace: namespaceOf(task.name),
      addresses: Object.values(task.legs),
    })),
    { name: "outside", namespace: namespaceOf("cli"), addresses: [CLIENT] },
  ];
  writeFileSync(join(dir, "serve.json"), JSON.stringify(list));
  const server = Bun.spawn([process.execPath, TOOL, "serve", join(dir, "serve.json")], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = server.stdout.getReader();
  const { value } = await reader.read();
  if (
    !Buffer.from(value ?? [])
      .toString()
      .startsWith("ready")
  )
    throw new Error("No servers");

  const meshes = new Map<number, Mesh>();
  const outputs: MeshOutput[] = [];
  const agents = new Set<Bun.Subprocess>();
  const probe = async (kind: "tcp" | "udp", from: string, address: string, port: number) => {
    const send = kind === "udp" ? "echo x >&3;" : "";
    const script = `exec 3<>/dev/${kind}/${address}/${port} && { ${send} head -n1 <&3; }`;
    const result = await inside(from, [
      "timeout",
      String(options.patienceS ?? (options.backend === "ipvs" ? 8 : 1.5)),
      "bash",
      "-c",
      script,
    ]);
    const text = result.stdout.trim();
    if (text !== "") return text;
    if (/refused/i.test(result.stderr)) return "refused";
    return "no answer";
  };
  let streamCount = 0;
  const lab: Lab = {
    meshes,
    outputs,
    dir,
    inside,
    tcp: (from, address, port) => probe("tcp", from, address, port),
    udp: (from, address, port) => probe("udp", from, address, port),
    tcpFrom: async (from, sources, address, port) => {
      const argv = [process.execPath, TOOL, "ask", address, String(port), ...sources];
      return (await inside(from, argv)).stdout.trim().split("\n");
    },
    stream: (from, address, port, echoes) => {
      streamCount += 1;
      const name = join(dir, `stream${streamCount}`);
      // It waits for a file before each line, and leaves a file with what came back.
      const script = `
        exec 3<>/dev/tcp/${address}/${port}
        for turn in $(seq ${echoes}); do
          until [ -e ${name}.ask$turn ]; do sleep 0.05; done
          line=
          echo "line $turn" >&3 && read -r -t 4 line <&3
          echo "\${line:-broken}" > ${name}.new && mv ${name}.new ${name}.answer$turn
        done`;
      void inside(from, ["timeout", "60", "bash", "-c", script]);
      let turn = 0;
      return {
        echo: async () => {
          turn += 1;
          writeFileSync(`${name}.ask${turn}`, "");
          const path = `${name}.answer${turn}`;
          await eventually("there", async () => (existsSync(path) ? "there" : "not yet"));
          return existsSync(path) ? readFileSync(path, "utf8").trim() : "no answer";
        },
      };
    },
    spread: async (count, once) => {
      const seen = new Map<string, number>();
      for (const answer of await Promise.all(Array.from({ length: count }, once))) {
        const name = answer.split(" ")[0] ?? "";
        seen.set(name, (seen.get(name) ?? 0) + 1);
      }
      return [...seen]
        .map(([name, times]) => `${name}:${times}`)
        .sort()
        .join(" ");
    },
    startNode: async (node, hasItems = true) => {
      const mesh = await startMesh({
        dir: join(dir, `h${node}`),
        notify: (output) => outputs.push(output),
        backend: options.backend,
        commandPrefix: prefixOf(`h${node}`),
        namespacePath: pathOf(`h${node}`),
        balance: "increment",
        onEncryption: (encryption) => options.onEncryption?.(node, encryption),
        // Tests ask for checks themselves.
        checkPeriodMs: 600_000,
      });
      meshes.set(node, mesh);
      if (hasItems) mesh.assignments({ isComplete: true, put: labItems(node), removed: [] });
      return mesh;
    },
    startAgent: async (node) => {
      const path = join(dir, `agent${node}.json`);
      writeFileSync(
        path,
        JSON.stringify({ dir: join(dir, `h${node}`), items: [], backend: options.backend }),
      );
      const child = Bun.spawn([...prefixOf(`h${node}`), process.execPath, TOOL, "agent", path], {
        stdin: "pipe",
        stdout: "pipe",
        stderr: "inherit",
      });
      agents.add(child);
      const lines: string[] = [];
      const output = child.stdout.getReader();
      const next = async () => {
        const { value, done } = await output.read();
        if (value) lines.push(...Buffer.from(value).toString().trim().split("\n"));
        return done;
      };
      while (!lines.some((line) => line.includes('"ready"')) && !(await next()));
      return {
        lines,
        end: async () => {
          await child.stdin.end();
          while (!(await next()));
          await child.exited;
          agents.delete(child);
          return lines;
        },
      };
    },
    collide: async (targets) => {
      const result = await inside("cli", [process.execPath, TOOL, "collide", ...targets]);
      return result.stdout;
    },
    down: async () => {
      for (const mesh of meshes.values()) await mesh.stop();
      for (const child of [server, ...agents]) {
        child.kill();
        await child.exited;
      }
      for (const name of made) await root(["ip", "netns", "del", namespaceOf(name)]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return lab;
}

/** Legs in libnetwork's order: the first one carries the default route. */
function legsOf(task: LabTask): [string, string][] {
  return Object.entries(task.legs).sort(([a], [b]) => {
    const internal = Number(labNetwork(a).spec.Internal) - Number(labNetwork(b).spec.Internal);
    return internal !== 0 ? internal : a < b ? -1 : 1;
  });
}

/** Polls until `probe` gives the wanted text, at most `timeoutMs`; gives the last text. */
export async function eventually(
  wanted: string,
  probe: () => Promise<string>,
  timeoutMs = 20_000,
): Promise<string> {
  const endMs = performance.now() + timeoutMs;
  let last = await probe();
  while (last !== wanted && performance.now() < endMs) {
    await Bun.sleep(20);
    last = await probe();
  }
  return last;
}
