import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import {
  apiListenOf,
  type ApiTlsFiles,
  startTlsFront,
  type TlsFront,
} from "../../../agent/api/front-tls.ts";
import { makeApiCertificates } from "../../../agent/cli/api-certs.ts";
import { createKeyAndCsr, createRootCa, issueCertificate } from "../../../net/pki/issue.ts";

const BODY_BYTES = 4 * 1024 * 1024;
let dir = "";
let front: TlsFront;
let engine: net.Server;
const problems: string[] = [];
const at = (...parts: string[]) => join(dir, ...parts);
const filesOf = (folder: string): ApiTlsFiles => ({
  tlscacert: at(folder, "ca.pem"),
  tlscert: at(folder, "cert.pem"),
  tlskey: at(folder, "key.pem"),
});
const options = (files: ApiTlsFiles) => ({
  host: "127.0.0.1",
  port: 0,
  files,
  upstreams: { innerSocketPath: at("engine.sock"), engineSocket: at("engine.sock") },
  onProblem: (message: string) => void problems.push(message),
  reloadPeriodMs: 20,
});

/** Everything that came until the server's end. */
const until = (socket: TLSSocket) =>
  new Promise<string>((resolve) => {
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("error", () => undefined);
    socket.on("end", () => socket.destroy());
    socket.on("close", () => resolve(Buffer.concat(chunks).toString("latin1")));
  });
const dial = (folder: string | undefined, port = front.port) => {
  const identity = folder === undefined ? undefined : filesOf(folder);
  const how = {
    host: "127.0.0.1",
    port,
    ca: readFileSync(at("certs/ca.pem")),
    ...(identity && { cert: readFileSync(identity.tlscert), key: readFileSync(identity.tlskey) }),
    // Bun's types do not know it here.
    allowHalfOpen: true,
  };
  return connect(how);
};
const ask = async (folder: string | undefined, path = "/containers/json") => {
  const socket = dial(folder);
  const answer = until(socket);
  socket.write(`GET ${path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n`);
  return answer;
};

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "shoal-front-tls-"));
  const said = console.log;
  console.log = () => undefined;
  await makeApiCertificates(at("certs"), { host: ["127.0.0.1"], client: "alice", days: "30" });
  await makeApiCertificates(at("certs"), { host: ["127.0.0.1x"], days: "30" });
  await makeApiCertificates(at("others"), { client: "mallory", days: "30" });
  console.log = said;
  engine = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (!text.includes("\r\n\r\n")) return;
      if (text.includes("/attach")) {
        // From now on raw: what comes is said again, after the end of it.
        if (text.endsWith("\r\n\r\n")) socket.write("HTTP/1.1 101 UPGRADED\r\n\r\n");
        return;
      }
      const body = text.includes("/big") ? "x".repeat(BODY_BYTES) : "of the engine";
      const answer = `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
      if (/connection: close/i.test(text)) socket.end(answer);
      else socket.write(answer);
    });
    socket.on("end", () => socket.end(text.split("\r\n\r\n")[1] ?? ""));
  });
  await new Promise<void>((resolve) => engine.listen(at("engine.sock"), resolve));
  front = await startTlsFront(options(filesOf("certs/server-127.0.0.1")));
});
afterAll(async () => {
  await front.close();
  engine.close();
  rmSync(dir, { recursive: true, force: true });
});

describe("the API over TLS", () => {
  test("answers a client of its CA, also with much", async () => {
    expect(await ask("certs/client-alice")).toEndWith("of the engine");
    const big = await ask("certs/client-alice", "/big");
    expect(big.length - big.indexOf("\r\n\r\n") - 4).toBe(BODY_BYTES);
  });

  test("becomes raw, and passes on each side's end, for calls that hijack", async () => {
    const socket = dial("certs/client-alice");
    const answer = until(socket);
    socket.write(
      "POST /containers/x/attach HTTP/1.1\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
    );
    await new Promise((resolve) => socket.once("data", resolve));
    socket.end("what was typed");
    expect(await answer).toEndWith("101 UPGRADED\r\n\r\nwhat was typed");
  });

  /** Nothing is answered; why is told once in a while only, for each address. */
  const expectRefusal = async (attempt: () => Promise<string>, why: string) => {
    problems.length = 0;
    for (let turn = 0; turn < 100 && !problems.some((text) => text.includes(why)); turn++) {
      expect(await attempt()).toBe("");
      await Bun.sleep(5);
    }
    expect(problems.join()).toContain(why);
  };

  test("gives nothing to a client without a certificate, or with one of another CA", async () => {
    await expectRefusal(() => ask(undefined), "it showed no certificate");
    await expectRefusal(() => ask("others/client-mallory"), "its certificate is not valid");
  });

  test("gives nothing to a server's certificate, nor to a node's", async () => {
    await expectRefusal(() => ask("certs/server-127.0.0.1"), "its certificate is not valid");
    // The cluster's own CA given as the users'.
    const nowMs = Date.now();
    const ca = await createRootCa({ nowMs });
    const { keyPem, csrPem } = await createKeyAndCsr();
    const node = { nodeId: "n1", role: "manager", clusterId: "c1", lifetimeMs: 7_200_000 } as const;
    const certificate = await issueCertificate({ ca, csrPem, nowMs, sans: ["127.0.0.1"], ...node });
    writeFileSync(at("ca.pem"), ca.certificatePem);
    writeFileSync(at("cert.pem"), certificate);
    writeFileSync(at("key.pem"), keyPem);
    const other = await startTlsFront(options(filesOf(".")));
    const identity = { ca: ca.certificatePem, cert: certificate, key: keyPem };
    await expectRefusal(
      () => until(connect({ host: "127.0.0.1", port: other.port, ...identity })),
      "its certificate is a node's, not a user's",
    );
    await other.close();
  });

  test("cuts off who is connected when another CA is named, and lets nobody fill the room", async () => {
    const files = filesOf("certs/live");
    mkdirSync(at("certs/live"));
    const use = (from: string) => {
      const { tlscacert, tlscert, tlskey } = filesOf(from);
      copyFileSync(tlscert, files.tlscert);
      copyFileSync(tlskey, files.tlskey);
      copyFileSync(tlscacert, files.tlscacert);
    };
    use("certs/server-127.0.0.1");
    const own = await startTlsFront(options(files));
    const idle = Array.from({ length: 300 }, () => net.connect(own.port, "127.0.0.1"));
    for (const socket of idle) socket.on("error", () => undefined);
    const alice = dial("certs/client-alice", own.port);
    const end = until(alice);
    alice.write("GET /containers/json HTTP/1.1\r\nHost: docker\r\n\r\n");
    const [first] = await once(alice, "data");
    expect(String(first)).toStartWith("HTTP/1.1 200");
    // Her connection stays open; the new CA is not hers.
    copyFileSync(at("others/ca.pem"), files.tlscacert);
    await end;
    for (const socket of idle) socket.destroy();
    await own.close();
  });

  test("takes certificates that were renewed, and keeps the old ones while new ones are broken", async () => {
    const serial = () =>
      new Promise<string>((resolve, reject) => {
        const socket = dial("certs/client-alice");
        socket.once("secureConnect", () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        });
        socket.once("error", reject);
      });
    const before = await serial();
    const live = filesOf("certs/server-127.0.0.1");
    problems.length = 0;
    writeFileSync(live.tlskey, "torn");
    while (problems.length === 0) await Bun.sleep(5);
    expect(problems[0]).toContain("The API's certificates stay as they are: Cannot use --tlskey");
    expect(await serial()).toBe(before);
    const renewed = filesOf("certs/server-127.0.0.1x");
    copyFileSync(renewed.tlscert, live.tlscert);
    copyFileSync(renewed.tlskey, live.tlskey);
    let now = before;
    // The name is another one: this client does not look at it.
    for (let turn = 0; now === before && turn < 200; turn++) {
      await Bun.sleep(10);
      now = await new Promise<string>((resolve) => {
        const socket = connect({ host: "127.0.0.1", port: front.port, rejectUnauthorized: false });
        socket.once("secureConnect", () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        });
        socket.on("error", () => undefined);
      });
    }
    expect(now).not.toBe(before);
  });
});

describe("what cannot be served", () => {
  const tls = { tlscacert: "a", tlscert: "b", tlskey: "c" };

  test("is refused with what to do", () => {
    expect(apiListenOf({})).toBeUndefined();
    expect(apiListenOf({ apiListen: "tcp://:2376", ...tls })).toMatchObject({ host: "0.0.0.0" });
    expect(apiListenOf({ apiListen: "tcp://[::]:2376", ...tls })).toMatchObject({ host: "::" });
    expect(() => apiListenOf({ apiListen: "0.0.0.0:2376", ...tls })).toThrow("give tcp://");
    expect(() => apiListenOf({ apiListen: "tcp://a:99999", ...tls })).toThrow("give tcp://");
    expect(() => apiListenOf({ apiListen: "tcp://a:1" })).toThrow("clients need certificates");
    expect(() => apiListenOf(tls)).toThrow("--api-listen, which is missing");
  });

  test("names the file that cannot be used", async () => {
    const good = filesOf("certs/client-alice");
    const start = async (files: Partial<ApiTlsFiles>) =>
      startTlsFront(options({ ...good, ...files })).catch(String);
    expect(await start({ tlskey: at("none.pem") })).toMatch(/--tlskey ".*none.pem": ENOENT/);
    expect(await start({ tlscert: good.tlskey })).toContain("it is no certificate in PEM");
    expect(await start({ tlskey: good.tlscert })).toContain("it is no private key");
    expect(await start({ tlskey: at("certs/ca-key.pem") })).toContain("it is not the key of");
  });
});
