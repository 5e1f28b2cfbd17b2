/** What the probes of one node saw; the checks (check-node.ts) make findings of it. */

/** How an attempt to connect ended. Refused is an answer: the way there and back works. */
export type TcpOutcome =
  | { type: "connected" | "refused"; ms: number }
  | { type: "silent"; ms: number }
  | { type: "failed"; message: string };

export type PingOutcome = "answered" | "silent" | "too-big" | "no-tool";

export type DnsOutcome =
  | { type: "answered"; code: "NOERROR" | "NXDOMAIN" | "other"; isAuthority: boolean; ms: number }
  | { type: "silent" };

export type PeerTarget = {
  nodeId: string;
  hostname: string;
  dataPathAddr: string;
  meshAddress: string;
  /** Reached by encrypted packets only; where both nodes carry encrypted networks. */
  encryptedAddress?: string;
};
export type ManagerTarget = { nodeId: string; hostname: string; addr: string };
export type EndpointTarget = {
  /** `<service>.<slot>.<task id>`. */
  name: string;
  taskId: string;
  service: string;
  hostname: string;
  isLocal: boolean;
  address: string;
  port: number;
};
export type PortTarget = { service: string; address: string; publishedPort: number };
export type DnsTarget = {
  network: string;
  gateway: string;
  /** A ready task of this node on the network: its container, and a name that it must find. */
  task?: { container: string; name: string };
};

export type PeerFact = PeerTarget & {
  tcp: TcpOutcome;
  /** To `encryptedAddress`. */
  encryptedTcp?: TcpOutcome;
  /** Of the largest packet of an overlay network; absent where it was not tried. */
  ping?: PingOutcome;
  /** Of a small packet, tried when the large one or TCP got no answer. */
  smallPing?: PingOutcome;
  /** To the underlay address, tried when nothing comes back through the tunnel. */
  underlayPing?: PingOutcome;
};

export type NodeFacts = {
  nodeId: string;
  hostname: string;
  /** Absent: the table does not hold this node. */
  self?: PeerTarget;
  dataPathPort: number;
  mesh:
    | {
        type: "status";
        backend: string;
        repairs: Record<string, number>;
        lastError?: string;
        /** What is done in another way than it could be, since the kernel lacks something. */
        notes?: string[];
      }
    | { type: "unknown"; message: string };
  /** While the cluster has an encrypted network; `lack`: why this node cannot carry it. */
  encryption?: { lack?: string };
  /** Absent: could not be read in time. */
  devices?: {
    /** Of the device with the data path address. */
    underlay?: { name: string; mtu: number; prefixLength: number };
    mesh?: { mtu: number; isUp: boolean };
  };
  peers: PeerFact[];
  managers: (ManagerTarget & { tcp: TcpOutcome })[];
  endpoints: (EndpointTarget & { tcp: TcpOutcome })[];
  ports: (PortTarget & { tcp: TcpOutcome })[];
  /**
   * `unknown`: of a name that nobody has; `own`: of an address of the network; `inside`: of the task's
   * question, asked in its network namespace; absent where that was not possible.
   */
  dns: (DnsTarget & { unknown: DnsOutcome; own: DnsOutcome; inside?: DnsOutcome })[];
  /** Targets that were not looked at this time. */
  leftOut: { peers: number; endpoints: number; ports: number; networks: number };
  conntrack?: { count: number; max: number };
  /** Kernel settings by key; those that the kernel does not have are absent. */
  settings: Record<string, number>;
  /** `iptables -S` of FORWARD and DOCKER-USER; absent where it cannot be read. */
  firewall?: { forward: string[]; user: string[] };
  /** Host processes that listen on a published port. */
  listeners: { port: number; service: string; process: string }[];
};
