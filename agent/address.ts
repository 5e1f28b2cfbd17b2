/** Which addresses a node listens on and tells others, from the flags of `docker swarm init | join`. */
import { isIPv4 } from "node:net";
import { networkInterfaces } from "node:os";
import { ClusterError } from "../core/errors.ts";
import { ADDRESSES6_MAX } from "../core/objects/node.ts";

export const DEFAULT_RPC_PORT = 2377;

/** `name` → IPv4 addresses, loopback and the bridges of containers left out. */
export type Interfaces = Record<string, string[]>;

const CONTAINER_INTERFACES = /^(docker|br-|veth|sh[0-9a-f]{8}$|shmesh|lo$|docker_gwbridge)/;

export function localInterfaces(): Interfaces {
  const found: Interfaces = {};
  for (const [name, addresses] of Object.entries(networkInterfaces())) {
    if (CONTAINER_INTERFACES.test(name)) continue;
    const own = (addresses ?? [])
      .filter((a) => a.family === "IPv4" && !a.internal)
      .map((a) => a.address);
    if (own.length > 0) found[name] = own;
  }
  return found;
}

/**
 * The host's own addresses in IPv6, in order: those that other nodes may see as a source. Not the
 * gateways of containers' networks, nor what is of one link only.
 */
export function localAddresses6(
  interfaces: ReturnType<typeof networkInterfaces> = networkInterfaces(),
): string[] {
  const own = Object.entries(interfaces).flatMap(([name, addresses]) =>
    CONTAINER_INTERFACES.test(name)
      ? []
      : (addresses ?? [])
          .filter((a) => a.family === "IPv6" && !a.internal && !/^fe[89ab]/i.test(a.address))
          .map((a) => a.address),
  );
  return own.sort().slice(0, ADDRESSES6_MAX);
}

/** Addresses of routers come a while after the host has started, and change. */
const ADDRESSES_CHECK_MS = 15_000;

/** Calls whenever `localAddresses6` gives others than before. */
export function watchAddresses6(
  onChange: () => void,
  options: { periodMs?: number; read?: () => string[] } = {},
): { stop(): void } {
  const read = () => (options.read ?? localAddresses6)().join();
  let known = read();
  const timer = setInterval(() => {
    const now = read();
    if (now === known) return;
    known = now;
    onChange();
  }, options.periodMs ?? ADDRESSES_CHECK_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}

export type HostPort = { host: string; port: number };

/** @throws {ClusterError} invalid-argument with Docker's words, naming `field`. */
export function parseHostPort(text: string, field: string, defaultPort: number): HostPort {
  const refuse = (why: string) =>
    new ClusterError("invalid-argument", `invalid ${field} "${text}": ${why}`);
  if (text === "") throw refuse("invalid empty address");
  const colon = text.lastIndexOf(":");
  const host = colon === -1 ? text : text.slice(0, colon);
  const portText = colon === -1 ? String(defaultPort) : text.slice(colon + 1);
  const port = Number(portText);
  if (!/^\d+$/.test(portText) || port < 1 || port > 65_535) {
    throw refuse(`port "${portText}" is not a number from 1 to 65535`);
  }
  if (host === "") throw refuse("the host part is empty");
  return { host, port };
}

/** An interface's name in place of its address. */
function resolveHost(host: string, field: string, interfaces: Interfaces): string {
  if (isIPv4(host)) return host;
  const addresses = interfaces[host];
  if (!addresses) {
    const known = Object.keys(interfaces).join(", ") || "none";
    throw new ClusterError(
      "invalid-argument",
      `invalid ${field} "${host}": neither an IPv4 address nor an interface of this host (interfaces: ${known})`,
    );
  }
  const [only, ...more] = addresses;
  if (only === undefined || more.length > 0) {
    throw new ClusterError(
      "invalid-argument",
      `interface ${host} has more than one IPv4 address (${addresses.join(", ")}); name one of them as ${field}`,
    );
  }
  return only;
}

/**
 * The single address of this host.
 * @throws {ClusterError} invalid-argument with Docker's text when there are none or several.
 */
function onlyAddress(interfaces: Interfaces): string {
  const all = Object.entries(interfaces).flatMap(([name, list]) =>
    list.map((address) => ({ name, address })),
  );
  const [first, ...rest] = all;
  if (!first) {
    throw new ClusterError("invalid-argument", "could not find the system's IP address");
  }
  if (rest.length > 0) {
    const names = new Set(all.map((a) => a.name));
    const list = all.map((a) => `${a.address} on ${a.name}`).join(" and ");
    const where =
      names.size > 1
        ? `since this system has multiple addresses on different interfaces (${list})`
        : `since this system has multiple addresses on interface ${first.name} (${all.map((a) => a.address).join(" and ")})`;
    throw new ClusterError(
      "invalid-argument",
      `could not choose an IP address to advertise ${where}`,
    );
  }
  return first.address;
}

export type NodeAddresses = {
  listen: HostPort;
  /** The node's own address and its RPC port. */
  advertise: HostPort;
  dataPath: string;
};

/**
 * Docker's rules: an empty AdvertiseAddr is the listen address when that is concrete, else the
 * system's only address; the data path address follows the advertised one.
 */
export function chooseAddresses(
  request: { ListenAddr?: string; AdvertiseAddr?: string; DataPathAddr?: string },
  interfaces: Interfaces = localInterfaces(),
): NodeAddresses {
  const listenRaw = parseHostPort(
    request.ListenAddr ?? "0.0.0.0:2377",
    "ListenAddr",
    DEFAULT_RPC_PORT,
  );
  const listen = {
    host:
      listenRaw.host === "0.0.0.0"
        ? listenRaw.host
        : resolveHost(listenRaw.host, "ListenAddr", interfaces),
    port: listenRaw.port,
  };
  let advertise: HostPort;
  if (request.AdvertiseAddr) {
    const raw = parseHostPort(request.AdvertiseAddr, "AdvertiseAddr", listen.port);
    if (raw.host === "0.0.0.0") {
      throw new ClusterError(
        "invalid-argument",
        "advertise address must be a non-zero IP address or network interface (with optional port number)",
      );
    }
    advertise = { host: resolveHost(raw.host, "AdvertiseAddr", interfaces), port: raw.port };
  } else if (listen.host !== "0.0.0.0") {
    advertise = listen;
  } else {
    advertise = { host: onlyAddress(interfaces), port: listen.port };
  }
  const dataPath = request.DataPathAddr
    ? resolveHost(request.DataPathAddr, "DataPathAddr", interfaces)
    : advertise.host;
  return { listen, advertise, dataPath };
}

export function formatHostPort(address: HostPort): string {
  return `${address.host}:${address.port}`;
}
