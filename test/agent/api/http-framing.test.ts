import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type BodyKind,
  createBodyScanner,
  createHeadReader,
  parseRequestHead,
  parseResponseHead,
} from "../../../agent/api/http-framing.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** Feeds the text in pieces of the given sizes; returns how many bytes belong to the body. */
function bodyLength(kind: BodyKind, text: Uint8Array, sizes: number[]): number | undefined {
  const scanner = createBodyScanner(kind);
  let at = 0;
  let turn = 0;
  while (at < text.length) {
    const size = Math.max(1, sizes[turn++ % sizes.length] ?? 1);
    const piece = text.subarray(at, at + size);
    const { end, isDone, isMalformed } = scanner.scan(piece, 0);
    if (isMalformed) return undefined;
    if (isDone) return at + end;
    at += piece.length;
  }
  return undefined;
}

describe("createBodyScanner()", () => {
  test("finds the end of any chunked body, however it is cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), { maxLength: 6 }),
        fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 8 }),
        fc.boolean(),
        (chunks, sizes, hasTrailer) => {
          const parts = chunks.map((chunk) =>
            Buffer.concat([bytes(`${chunk.length.toString(16)};e=1\r\n`), chunk, bytes("\r\n")]),
          );
          const end = bytes(hasTrailer ? "0\r\nA: b\r\nC: d\r\n\r\n" : "0\r\n\r\n");
          const body = Buffer.concat([...parts, end]);
          const stream = Buffer.concat([body, bytes("GET / HTTP/1.1\r\n\r\n")]);
          expect(bodyLength({ type: "chunked" }, stream, sizes)).toBe(body.length);
        },
      ),
    );
  });

  test("counts a body of known length", () => {
    expect(bodyLength({ type: "length", bytes: 5 }, bytes("12345GET"), [2])).toBe(5);
  });

  test.each(["zz\r\n", "\r\n", "-1\r\n", "1 2\r\n", "5\n"])("reports chunk size %j", (text) => {
    expect(createBodyScanner({ type: "chunked" }).scan(bytes(text), 0).isMalformed).toBe(true);
  });
});

describe("createHeadReader()", () => {
  test("finds the empty line wherever the stream is cut", () => {
    const head = "GET / HTTP/1.1\r\nHost: d\r\n\r\n";
    for (let cut = 1; cut < head.length; cut += 1) {
      const reader = createHeadReader();
      expect(reader.push(bytes(head.slice(0, cut)), 0).head).toBeUndefined();
      const rest = reader.push(bytes(`${head.slice(cut)}tail`), 0);
      expect(Buffer.from(rest.head ?? []).toString()).toBe(head);
      expect(rest.end).toBe(head.length - cut);
      expect(reader.heldBytes()).toBe(0);
    }
  });
});

describe("parseRequestHead()", () => {
  const parse = (lines: string[]) => parseRequestHead(bytes([...lines, "", ""].join("\r\n")));

  test("tells method, target, body and upgrade", () => {
    expect(parse(["POST /x?y=1 HTTP/1.1", "content-length: 12"])).toEqual({
      method: "POST",
      target: "/x?y=1",
      body: { type: "length", bytes: 12 },
      wantsUpgrade: false,
    });
    expect(
      parse(["POST /x HTTP/1.1", "Connection: keep-alive, Upgrade", "Upgrade: h2c"])?.wantsUpgrade,
    ).toBe(true);
    // Chunked wins over a length, as in Go.
    expect(
      parse(["POST /x HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: Chunked"])?.body,
    ).toEqual({ type: "chunked" });
  });

  test.each([
    [["GET / HTTP/2.0"]],
    [["GET  / HTTP/1.1"]],
    [["GET / HTTP/1.1", "Bad Name: x"]],
    [["GET / HTTP/1.1", "no colon"]],
    [["GET / HTTP/1.1", "A: b\nContent-Length: 3"]],
    [["GET / HTTP/1.1", "A: b", " folded: c"]],
    [["GET / HTTP/1.1", "Content-Length: +3"]],
    [["GET / HTTP/1.1", "Transfer-Encoding: gzip, chunked"]],
  ])("refuses %j", (lines) => {
    expect(parse(lines)).toBeUndefined();
  });
});

describe("parseResponseHead()", () => {
  const parse = (status: string, fields: string[], method = "GET") =>
    parseResponseHead(bytes([`HTTP/1.1 ${status}`, ...fields, "", ""].join("\r\n")), method)?.body;

  test.each([
    ["200 OK", ["Content-Length: 3"], "GET", { type: "length", bytes: 3 }],
    ["200 OK", ["Content-Length: 3"], "HEAD", { type: "none" }],
    ["204 No Content", [], "DELETE", { type: "none" }],
    ["304 Not Modified", ["Content-Length: 3"], "POST", { type: "none" }],
    ["200 OK", ["Transfer-Encoding: chunked"], "GET", { type: "chunked" }],
    ["200 OK", [], "GET", { type: "until-close" }],
    ["200", [], "GET", { type: "until-close" }],
  ])("body of %s %j to %s is %j", (status, fields, method, body) => {
    expect(parse(status, fields, method)).toEqual(body as BodyKind);
  });
});
