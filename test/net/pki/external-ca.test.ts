import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { signExternally } from "../../../net/pki/external-ca.ts";
import {
  type CertificateAuthority,
  createKeyAndCsr,
  createRootCa,
  issueCertificate,
} from "../../../net/pki/issue.ts";
import { readCertificate } from "../../../net/pki/read.ts";
import type { NodeRole } from "../../../core/objects/node.ts";
import { failureOf } from "../rpc/identities.ts";

type Tls = { certificatePem: string; keyPem: string };
let root: CertificateAuthority;
let foreign: CertificateAuthority;
let serverTls: Tls;
let foreignTls: Tls;
let csrPem = "";

const certify = async (ca: CertificateAuthority): Promise<Tls> => {
  const request = await createKeyAndCsr();
  const certificatePem = await sign(ca, request.csrPem, { sans: ["127.0.0.1"] });
  return { certificatePem, keyPem: request.keyPem };
};
const sign = (
  ca: CertificateAuthority,
  csr: string,
  set: Partial<{ nodeId: string; role: NodeRole; clusterId: string; sans: string[] }> = {},
) =>
  issueCertificate({
    ca,
    csrPem: csr,
    nodeId: "n1",
    role: "worker",
    clusterId: "c1",
    lifetimeMs: 7_200_000,
    nowMs: Date.now(),
    ...set,
  });

beforeAll(async () => {
  [root, foreign] = await Promise.all([createRootCa(), createRootCa()]);
  [serverTls, foreignTls] = await Promise.all([certify(root), certify(foreign)]);
  ({ csrPem } = await createKeyAndCsr());
});

const servers: { stop(force: boolean): unknown }[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.stop(true)));
});

/** A CA that answers so; gives its URL. */
function serve(
  answer: (body: { certificate_request: string }) => Response | Promise<Response>,
  tls = serverTls,
) {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: { cert: tls.certificatePem, key: tls.keyPem },
    // What the client sends is checked where it matters.
    fetch: async (request) => answer((await request.json()) as { certificate_request: string }),
  });
  servers.push(server);
  return `https://127.0.0.1:${server.port}/api/v1/cfssl/sign`;
}
const success = (certificate: string) => Response.json({ success: true, result: { certificate } });
const good = () => serve(async (body) => success(await sign(root, body.certificate_request)));

const ask = (urls: string[], set: Partial<Parameters<typeof signExternally>[0]> = {}) =>
  signExternally({
    urls,
    rootPem: root.certificatePem,
    request: { csrPem, nodeId: "n1", role: "worker", clusterId: "c1" },
    nowMs: Date.now(),
    attemptTimeoutMs: 2_000,
    callTimeoutMs: 5_000,
    ...set,
  });
const whyOf = async (urls: string[], set = {}) => {
  const failure = await failureOf(ask(urls, set));
  expect(failure.code).toBe("unavailable");
  return failure.message;
};

test("the certificate that the CA signs is taken; the request names node, role and cluster", async () => {
  let asked: unknown;
  const url = serve(async (body) => {
    asked = body;
    return success(await sign(root, body.certificate_request));
  });
  const pem = await ask([url]);
  expect(readCertificate(pem)).toMatchObject({ nodeId: "n1", role: "worker", clusterId: "c1" });
  expect(asked).toEqual({
    certificate_request: csrPem,
    hosts: ["swarm-worker", "n1"],
    subject: { CN: "n1", names: [{ OU: "swarm-worker", O: "c1" }] },
  });
});

test("addresses are tried in turn until one signs", async () => {
  const refusing = serve(() => Response.json({ success: false, errors: [{ message: "no" }] }));
  expect(await ask(["https://127.0.0.1:1/sign", refusing, good()])).toContain("BEGIN CERTIFICATE");
});

describe("what is not the certificate asked for is refused:", () => {
  test.each([
    ["another root's", () => sign(foreign, csrPem), "not signed by the root"],
    ["another key's", async () => sign(root, (await createKeyAndCsr()).csrPem), "its key is not"],
    ["another node's", () => sign(root, csrPem, { nodeId: "n2" }), "not of CN=n1"],
    ["a manager's", () => sign(root, csrPem, { role: "manager" }), "not of CN=n1, OU=swarm-worker"],
    ["another cluster's", () => sign(root, csrPem, { clusterId: "c2" }), "not of CN=n1"],
    ["no certificate", async () => "certificate", "no certificate in it"],
  ])("%s", async (_, certificate, why) => {
    const url = serve(async () => success(await certificate()));
    expect(await whyOf([url])).toContain(why);
  });
});

describe("an answer that is none:", () => {
  test.each([
    ["no JSON", () => new Response("<html>"), "its answer is not CFSSL's: <html>"],
    ["another JSON", () => Response.json({ certificate: "x" }), "its answer is not CFSSL's"],
    ["no result", () => Response.json({ success: true, result: null }), "no reason given"],
    [
      "a refusal",
      () => Response.json({ success: false, errors: [{ code: 1, message: "policy" }] }),
      "it refused: policy",
    ],
    [
      "another code",
      () => Response.json({ success: false, errors: [{ message: "broken" }] }, { status: 500 }),
      "it answered 500: broken",
    ],
    ["a redirection", () => Response.redirect("https://127.0.0.1:1/", 302), "it answered 302"],
    ["too much", () => new Response("x".repeat(1_000_000)), "more than 102400 bytes"],
  ])("%s", async (_, answer, why) => {
    expect(await whyOf([serve(answer)])).toContain(why);
  });

  test("an endless one is cut off", async () => {
    const url = serve(
      () =>
        new Response(
          new ReadableStream({
            pull: async (controller) => {
              await Bun.sleep(1);
              controller.enqueue(new Uint8Array(10_000));
            },
          }),
        ),
    );
    expect(await whyOf([url])).toContain("more than 102400 bytes");
  });
});

test("a server that does not answer costs the attempt's time, all of them the call's", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const slow = serve(() => promise.then(() => new Response()));
  const startMs = performance.now();
  const why = await whyOf([slow, `${slow}?2`, `${slow}?3`], {
    attemptTimeoutMs: 200,
    callTimeoutMs: 300,
  });
  resolve();
  expect(why).toContain("no answer within 200 ms");
  expect(why).toContain("not tried for want of time");
  expect(performance.now() - startMs).toBeLessThan(1_500);
});

test("a server of another root, or of another host, is sent nothing", async () => {
  let isAsked = false;
  const answer = () => {
    isAsked = true;
    return new Response();
  };
  await whyOf([serve(answer, foreignTls)]);
  await whyOf([serve(answer).replace("127.0.0.1", "localhost")]);
  expect(isAsked).toBe(false);
});

test("a bad request is the caller's fault", async () => {
  const request = { csrPem: "x", nodeId: "n1", role: "worker", clusterId: "c1" } as const;
  expect((await failureOf(ask([good()], { request }))).code).toBe("invalid-argument");
});
