import { describe, expect, test } from "bun:test";
import { decodeCertificates, encodePem } from "../../../net/pki/pem.ts";

describe("encodePem()", () => {
  test("writes lines of 64 and ends in a newline", () => {
    const text = encodePem("CERTIFICATE", new Uint8Array(100));
    const lines = text.split("\n");
    expect(lines[1]).toHaveLength(64);
    expect(lines.at(-1)).toBe("");
    expect(lines.at(-2)).toBe("-----END CERTIFICATE-----");
  });
});

describe("decodeCertificates()", () => {
  test("reads several certificates in order, whatever their line breaks", () => {
    const [one, two] = [Uint8Array.of(1, 2, 3), Uint8Array.of(4, 5)];
    const text = encodePem("CERTIFICATE", one) + encodePem("CERTIFICATE", two);
    const read = decodeCertificates(text.replaceAll("\n", "\r\n")).map((der) => [...der]);
    expect(read).toEqual([
      [1, 2, 3],
      [4, 5],
    ]);
  });

  test("refuses a text without certificates", () => {
    expect(() => decodeCertificates("-----BEGIN PRIVATE KEY-----")).toThrow("no certificate");
  });
});
