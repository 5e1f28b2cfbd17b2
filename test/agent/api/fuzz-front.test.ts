/**
 * The real socket under hostile bytes: front, inner server and engine on their unix sockets, 200 seeded
 * cases of framing that is broken, contradictory, cut off or pipelined. Always an answer that is HTTP and
 * no 5xx (but 501 and 505, which are the client's), or the end of the connection; never a hang, nothing
 * stored, and the next client is served.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { serveApp } from "../../../agent/api/app.ts";
import { startFront } from "../../../agent/api/front.ts";
import { seededRandom } from "../../../core/random.ts";
import { type ApiLab, createLab } from "./lab.ts";

/** SHOAL_FUZZ_SEED: another run. */
const random = seededRandom(Number(process.env["SHOAL_FUZZ_SEED"] ?? 2026));
const CASES = 200;
const AT_ONCE = 10;
const ANSWER_MS_MAX = 4_000;

let lab: ApiLab;
let dir: string;
let socketPath: string;
let stop: () => Promise<void>;
const bugs: string[] = [];

beforeAll(async () => {
  lab = createLab();
  lab.ports.reportBug = (where, error) => void bugs.push(`${where}: ${String(error)}`);
  dir = mkdtempSync(join(tmpdir(), "shoal-fuzz-"));
  socketPath = join(dir, "front.sock");
  const innerSocketPath = join(dir, "inner.sock");
  const inner = serveApp(lab.app, innerSocketPath);
  const engineSocket = lab.engine.socketPath;
  const front = await startFront({ socketPath, innerSocketPath, engineSocket });
  stop = async () => {
    await front.close();
    await inner.stop(true);
    await lab.engine.stop();
    rmSync(dir, { recursive: true });
  };
});
afterAll(() => stop());

const below = (limit: number) => Math.floor(random.next() * limit);
const pick = <T>(items: readonly T[]): T => {
  const item = items[below(items.length)];
  if (item === undefined) throw new Error("Nothing to pick from");
  return item;
};
const noise = (length: number) => String.fromCharCode(...Array.from({ length }, () => below(256)));

/** Ours and the engine's; none of them stores anything when it is whole. */
const TARGETS = [
  "GET /services",
  "GET /v1.41/nodes",
  "GET /info",
  "GET /networks/none",
  "POST /services/create",
  "POST /v1.41/secrets/create",
  "DELETE /services/none",
  "GET /containers/json",
  "POST /containers/none/attach",
  "HEAD /_ping",
];
const BODIES = ["{}", "[", "", '{"Name":5}', "x".repeat(3_000)];
const chunked = (body: string) =>
  `${body === "" ? "" : `${body.length.toString(16)}\r\n${body}\r\n`}0\r\n\r\n`;

function whole(): string {
  const head = `${pick(TARGETS)} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n`;
  const body = pick(BODIES);
  return pick([
    () => `${head}\r\n`,
    () => `${head}Content-Length: ${body.length}\r\n\r\n${body}`,
    () => `${head}Transfer-Encoding: chunked\r\n\r\n${chunked(body)}`,
    () => `${head}Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n`,
  ])();
}

const replaceOne = (text: string, pattern: RegExp, by: string) => text.replace(pattern, () => by);
const at = (text: string, change: (index: number) => string) => change(below(text.length + 1));

const CHANGES: readonly ((text: string) => string)[] = [
  // Cut off, or with something in it or behind it.
  (text) => at(text, (index) => text.slice(0, index)),
  (text) => at(text, (index) => text.slice(0, index) + noise(1 + below(20)) + text.slice(index)),
  (text) => at(text, (index) => text.slice(0, index) + noise(1) + text.slice(index + 1)),
  (text) => text + noise(1 + below(200)),
  (text) => text + whole() + whole(),
  // Lengths that lie, contradict or are none.
  (text) => replaceOne(text, /Content-Length: \d+/, `Content-Length: ${below(10_000)}`),
  (text) => replaceOne(text, /Host: d/, `Host: d\r\nContent-Length: ${below(50)}`),
  (text) =>
    replaceOne(
      text,
      /Host: d/,
      `Host: d\r\nContent-Length: ${pick(["-1", "+5", "0x10", "1e3", "5, 6", "", " ", "9".repeat(30)])}`,
    ),
  (text) => replaceOne(text, /Host: d/, "Host: d\r\nTransfer-Encoding: chunked"),
  (text) =>
    replaceOne(
      text,
      /Host: d/,
      `Host: d\r\nTransfer-Encoding: ${pick(["gzip", "chunked, gzip", "xchunked", " chunked", "chunked\t", "identity"])}`,
    ),
  (text) =>
    replaceOne(
      text,
      /\r\n\r\n[0-9a-f]+\r\n/,
      `\r\n\r\n${pick(["-1", "g", "fffffffffffffffff", " 5", "5;", "0x5", ""])}\r\n`,
    ),
  // Lines that end or begin otherwise.
  (text) => text.replaceAll("\r\n", "\n"),
  (text) => replaceOne(text, /\r\n/, pick(["\n", "\r", "\r\r\n", "\n\n", " \r\n"])),
  (text) =>
    replaceOne(
      text,
      /Host: d/,
      pick(["Host : d", " Host: d", "Host", ": d", "Host: d\r\n folded", "H\0st: d"]),
    ),
  (text) =>
    replaceOne(
      text,
      /HTTP\/1\.1/,
      pick(["HTTP/2.0", "HTTP/1.0", "HTTP/9", "http/1.1", "", "HTTP/1.1 x"]),
    ),
  (text) =>
    replaceOne(
      text,
      /^[A-Z]+ /,
      pick(["get ", "PRI * ", "", "G\0T ", "CONNECT ", "OPTIONS ", `${"A".repeat(9_000)} `]),
    ),
  (text) => replaceOne(text, /Host: d/, `Host: d\r\nX: ${"y".repeat(pick([70_000, 300_000]))}`),
  (text) =>
    replaceOne(text, / \//, pick([" //", " /../", " http://d/", " /%00/", " *", " /\u00ff"])),
];

type Outcome = { text: string; ended: "closed" | "waited" };

/** Writes the bytes, in one or two pieces, ends its side, and reads until the other side has ended. */
function exchange(bytes: string): Promise<Outcome> {
  return new Promise((resolve) => {
    let text = "";
    const socket = net.connect({ path: socketPath, allowHalfOpen: true });
    const done = (ended: Outcome["ended"]) => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ text, ended });
    };
    const timer = setTimeout(() => done("waited"), ANSWER_MS_MAX);
    socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
    socket.on("end", () => done("closed"));
    socket.on("error", () => done("closed"));
    const cut = below(bytes.length);
    socket.write(Buffer.from(bytes.slice(0, cut), "latin1"));
    socket.end(Buffer.from(bytes.slice(cut), "latin1"));
  });
}

const stored = () => {
  const { rows } = lab.ports;
  return JSON.stringify([rows.services(), rows.networks(), rows.secrets(), rows.configs()]);
};

test(`${CASES} cases of broken framing are answered or ended, and change nothing`, async () => {
  const before = stored();
  const problems: string[] = [];
  const statuses = new Map<string, number>();
  for (let done = 0; done < CASES; done += AT_ONCE) {
    const given = Array.from({ length: AT_ONCE }, () => {
      let bytes = whole();
      for (let times = 1 + below(2); times > 0; times -= 1) bytes = pick(CHANGES)(bytes);
      return bytes;
    });
    const outcomes = await Promise.all(given.map(exchange));
    for (const [index, { text, ended }] of outcomes.entries()) {
      const status = /^HTTP\/1\.1 (\d{3}) /.exec(text)?.[1] ?? "none";
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      const isBad =
        ended === "waited" || (text !== "" && status === "none") || /^5(?!0[15])/.test(status);
      if (!isBad) continue;
      const shown = JSON.stringify((given[index] ?? "").slice(0, 300));
      problems.push(`${ended} ${status}: ${shown} → ${JSON.stringify(text.slice(0, 200))}`);
    }
  }
  expect(problems).toEqual([]);
  expect(bugs).toEqual([]);
  expect(stored()).toBe(before);
  // Both kinds were there: what is broken beyond doubt, and what is only odd.
  expect(statuses.get("400") ?? 0).toBeGreaterThan(CASES / 10);
  expect(statuses.get("200") ?? 0).toBeGreaterThan(5);
  const { text } = await exchange("GET /services HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
  expect(text).toContain("HTTP/1.1 200 ");
}, 60_000);

test.each([
  ["two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"],
  ["a length and chunks", "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"],
  ["chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"],
  ["an unknown coding", "Transfer-Encoding: gzip\r\n", ""],
  ["a negative length", "Content-Length: -1\r\n", ""],
])(
  "a request that two servers may read differently is refused: %s",
  async (_what, fields, body) => {
    const asked = lab.engine.requests.length;
    const smuggled = "GET /containers/json?smuggled=1 HTTP/1.1\r\nHost: d\r\n\r\n";
    const { text } = await exchange(
      `POST /services/create HTTP/1.1\r\nHost: d\r\n${fields}\r\n${body}${smuggled}`,
    );
    expect(text).toStartWith("HTTP/1.1 400 ");
    expect(text.split("HTTP/1.1 ")).toHaveLength(2);
    expect(lab.engine.requests.slice(asked).join()).not.toContain("smuggled");
  },
);
