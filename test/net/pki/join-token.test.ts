import { createHash } from "node:crypto";
import { beforeAll, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { ClusterError } from "../../../core/errors.ts";
import { seededRandom } from "../../../core/random.ts";
import { createRootCa } from "../../../net/pki/issue.ts";
import {
  caDigest,
  makeJoinToken,
  parseJoinToken,
  tokenSecretsEqual,
} from "../../../net/pki/join-token.ts";

let pem = "";
beforeAll(async () => {
  pem = (await createRootCa()).certificatePem;
});

describe("makeJoinToken()", () => {
  test("has Docker's form", () => {
    expect(makeJoinToken(pem, seededRandom(1))).toMatch(/^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$/);
  });

  test("pads small numbers to the full length", () => {
    const zeros = { next: () => 0, bytes: (count: number) => new Uint8Array(count) };
    expect(makeJoinToken(pem, zeros)).toEndWith(`-${"0".repeat(25)}`);
    const ones = { next: () => 0, bytes: (count: number) => new Uint8Array(count).fill(255) };
    // 2^128 - 1 in base 36.
    expect(makeJoinToken(pem, ones)).toEndWith("-f5lxx1zz5pnorynqglhzmsp33");
  });

  test("is read back by parseJoinToken()", () => {
    const token = makeJoinToken(pem, seededRandom(2));
    const { caDigest: digest, secret } = parseJoinToken(`  ${token}\n`);
    expect(digest).toBe(caDigest(pem));
    expect(`SWMTKN-1-${digest}-${secret}`).toBe(token);
  });
});

describe("caDigest()", () => {
  test("is SHA-256 of the PEM's bytes, as SwarmKit's", () => {
    const hex = createHash("sha256").update(pem).digest("hex");
    expect(caDigest(pem)).toBe(BigInt(`0x${hex}`).toString(36).padStart(50, "0"));
  });

  test("does not depend on the line ends of the text", () => {
    expect(caDigest(pem.replaceAll("\n", "\r\n").trim())).toBe(caDigest(pem));
  });
});

describe("parseJoinToken()", () => {
  test("says what is wrong", () => {
    const token = makeJoinToken(pem, seededRandom(3));
    const cases: [string, string][] = [
      ["", 'does not start with "SWMTKN-"'],
      ["SWMTKN-2-0-x-y", 'version "2" is not known'],
      [token.slice(0, 40), "parts instead of 4"],
      [token.slice(0, -1), "its secret is not 25"],
      [token.replace("SWMTKN-1-", "SWMTKN-1-0"), "its CA digest is not 50"],
      [token.toUpperCase(), "its CA digest"],
      [`${token}-x`, "5 parts"],
      ["S".repeat(300), "300 characters"],
    ];
    for (const [text, why] of cases) {
      expect(() => parseJoinToken(text)).toThrow(`invalid join token: `);
      expect(() => parseJoinToken(text)).toThrow(why);
    }
  });

  test("refuses any text with invalid-argument or gives two whole parts", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 120 }), (text) => {
        try {
          const { caDigest: digest, secret } = parseJoinToken(`SWMTKN-1-${text}`);
          expect([digest.length, secret.length]).toEqual([50, 25]);
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
          expect(error.code).toBe("invalid-argument");
        }
      }),
    );
  });
});

describe("tokenSecretsEqual()", () => {
  test("tells equal from unequal secrets of any length", () => {
    expect(tokenSecretsEqual("abc", "abc")).toBe(true);
    expect(tokenSecretsEqual("abc", "abd")).toBe(false);
    expect(tokenSecretsEqual("abc", "ab")).toBe(false);
  });
});
