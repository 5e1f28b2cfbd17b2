/**
 * The services of a chaos run, what asks them, and where to find who runs where. Identity is in every
 * answer: `<service>/<task id> <the client's address that the task saw>`.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Host } from "../../../scripts/lab/host.ts";
import type { Lab } from "../../../scripts/lab/lab.ts";
import { bunMounts } from "../traffic/bun-container.ts";
import { parseRecord, type RequestRecord, type Stream } from "./record.ts";

export const WEB_PORT = 8_080;
const SOLO_PORT = 8_081;
const EVERY_PORT = 8_083;
const TURN_PORT = 8_085;
const TURN_UDP_PORT = 9_001;
const DATAGRAM_PORT = 9_000;
/** Their names in streams; tasks of `turn` come and go as turn1, turn2, …. */
export const TURN = "turn";
export const SERVICES = ["web", "solo", "every", "dgram", "rr", TURN] as const;
/** So small that addresses are used again within a few tasks. */
const TIGHT_SUBNET = "10.77.0.0/28";

/** Networks, and how many tasks each service begins with. */
const DEFINITIONS: Record<string, string[]> = {
  web: ["--network", "alpha", "--replicas", "4", "-p", `${WEB_PORT}:80`],
  solo: ["--network", "alpha", "--replicas", "1", "-p", `${SOLO_PORT}:80`],
  every: ["--network", "beta", "--mode", "global", "-p", `${EVERY_PORT}:80`],
  dgram: [
    ..."--network alpha --replicas 2 --env UDP_PORT=9000".split(" "),
    "-p",
    `${DATAGRAM_PORT}:9000/udp`,
  ],
  rr: "--network beta --replicas 3 --endpoint-mode dnsrr".split(" "),
};

const SERVER = ["lab:latest", "/bin/bun", "/traffic/server.ts"];

function serviceFlags(name: string, definition: readonly string[], workDir: string): string[] {
  const fixed = "service create -d --no-resolve-image --restart-delay 500ms --update-monitor 500ms";
  return [
    ...fixed.split(" "),
    "--name",
    name,
    "--env",
    `VERSION=${name}/{{.Task.ID}}`,
    "--env",
    "STARTS_FILE=/shared/starts",
    ...definition,
    ...bunMounts([workDir, "/shared"]),
    ...SERVER,
  ];
}

export async function createServices(manager: Host, workDir: string): Promise<void> {
  await manager.docker("network", "create", "-d", "overlay", "alpha");
  await manager.docker("network", "create", "-d", "overlay", "beta");
  await manager.docker("network", "create", "-d", "overlay", "--subnet", TIGHT_SUBNET, "tight");
  for (const [name, definition] of Object.entries(DEFINITIONS)) {
    await manager.docker(...serviceFlags(name, definition, workDir));
  }
  await createTurn(manager, "turn1", workDir);
  // One asker in a container of every host, on all networks.
  await manager.docker(
    ..."service create -d --no-resolve-image --restart-delay 500ms --mode global".split(" "),
    ..."--name asker --network alpha --network beta --network tight".split(" "),
    "--env",
    "PLACE={{.Node.Hostname}}",
    ...bunMounts([workDir, "/shared"], [import.meta.dir, "/chaos"]),
    ..."lab:latest /bin/bun /chaos/asker.ts /shared/streams.json /shared/records".split(" "),
  );
}

/** The same published port and the same few addresses, under another name. */
export async function createTurn(manager: Host, name: string, workDir: string): Promise<void> {
  const definition = [
    ..."--network tight --replicas 2 --env UDP_PORT=9000".split(" "),
    "-p",
    `${TURN_PORT}:80`,
    "-p",
    `${TURN_UDP_PORT}:9000/udp`,
  ];
  await manager.docker(...serviceFlags(name, definition, workDir));
}

/** What is asked: published ports through every host from outside, names and service addresses from containers. */
export function streamsFor(lab: Lab, turnName: string | undefined): Record<string, Stream[]> {
  const outside = lab.hosts.flatMap(({ name: via, address: host }) =>
    (
      [
        ["web", "tcp", WEB_PORT],
        ["solo", "tcp", SOLO_PORT],
        ["every", "tcp", EVERY_PORT],
        [TURN, "tcp", TURN_PORT],
        [TURN, "udp", TURN_UDP_PORT],
        ["dgram", "udp", DATAGRAM_PORT],
      ] as const
    ).flatMap(([service, protocol, port]) =>
      [false, true].map((isKept) => ({
        id: `${service}${protocol === "udp" ? "/udp" : ""}@${via}${isKept ? "+" : ""}`,
        service,
        protocol,
        host,
        port,
        isKept,
        via,
      })),
    ),
  );
  const named = (service: string, host: string, protocol: "tcp" | "udp", port: number) =>
    [false, true].map((isKept) => ({
      id: `${host}:${protocol}${isKept ? "+" : ""}`,
      service,
      protocol,
      host,
      port,
      isKept,
    }));
  const containers = [
    ...named("web", "web", "tcp", 80),
    ...named("solo", "solo", "tcp", 80),
    ...named("every", "every", "tcp", 80),
    ...named("rr", "rr", "tcp", 80),
    ...named("dgram", "dgram", "udp", 9_000),
    // Its own name in place of the common one: an answer of any other is wrong, always.
    ...(turnName === undefined
      ? []
      : [...named(turnName, turnName, "tcp", 80), ...named(turnName, turnName, "udp", 9_000)]),
  ];
  return { client: outside, containers };
}

export function writeStreams(workDir: string, streams: Record<string, Stream[]>): void {
  mkdirSync(join(workDir, "records"), { recursive: true });
  const path = join(workDir, "streams.json");
  writeFileSync(`${path}.new`, JSON.stringify(streams));
  renameSync(`${path}.new`, path);
}

export function readRecords(workDir: string): RequestRecord[] {
  const dir = join(workDir, "records");
  return readdirSync(dir).flatMap((name) =>
    readFileSync(join(dir, name), "utf8")
      .split("\n")
      .flatMap((line) => parseRecord(line) ?? []),
  );
}

/** When each program began and when it listened; in between it runs, and refuses. */
export function readStarts(
  workDir: string,
): { service: string; beganMs: number; listensMs: number }[] {
  const path = join(workDir, "starts");
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => {
      const [version = "", beganMs, listensMs] = line.split(" ");
      if (listensMs === undefined) return [];
      const service = version.split("/")[0] ?? "";
      return [{ service, beganMs: Number(beganMs), listensMs: Number(listensMs) }];
    });
}
