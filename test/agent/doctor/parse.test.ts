import { describe, expect, test } from "bun:test";
import {
  parseAsked,
  parseListeners,
  parseNumber,
  parseRules,
  readPing,
} from "../../../agent/doctor/parse.ts";

const TCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11111 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 22222 1 0 20 4 30 10 -1
`;
const TCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 33333 1 0 100 0 0 10 0
`;

describe("what the kernel shows", () => {
  test("listeners of both families, and no connections", () => {
    expect(parseListeners(TCP)).toEqual([{ port: 8_080, inode: "11111" }]);
    expect(parseListeners(TCP6)).toEqual([{ port: 80, inode: "33333" }]);
    expect(parseListeners("")).toEqual([]);
    expect(parseListeners("rubbish : 0A")).toEqual([]);
  });

  test("rules of a chain", () => {
    const text = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n";
    expect(parseRules(text, "FORWARD")).toEqual(["-j DOCKER-USER", "-o docker0 -j DOCKER"]);
    expect(parseRules(text, "INPUT")).toEqual([]);
  });

  test.each([
    [{ code: 0, stdout: "1 received", stderr: "" }, "answered"],
    [{ code: 1, stdout: "0 received", stderr: "" }, "silent"],
    [{ code: 1, stdout: "", stderr: "ping: local error: message too long, mtu=1400" }, "too-big"],
    [{ code: 1, stdout: "From 10.0.0.1 icmp_seq=1 Frag needed", stderr: "" }, "too-big"],
    [{ code: 1, stdout: "", stderr: "ping: invalid option -- 'M'" }, "no-tool"],
    [{ code: 2, stdout: "", stderr: "ping: socket: Operation not permitted" }, "no-tool"],
    [{ code: 127, stdout: "", stderr: "" }, "no-tool"],
  ] as const)("ping %j is %s", (result, outcome) => {
    expect(readPing(result)).toBe(outcome);
  });

  test("the answer of shoal net ask", () => {
    expect(parseAsked('{"type":"silent"}\n')).toEqual({ type: "silent" });
    expect(
      parseAsked('{"type":"answered","code":"NOERROR","isAuthority":true,"ms":1}'),
    ).toMatchObject({ code: "NOERROR" });
    expect([parseAsked(""), parseAsked("{}"), parseAsked("{")]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("numbers of /proc/sys", () => {
    expect([parseNumber("1\n"), parseNumber("-1"), parseNumber(""), parseNumber("1 2")]).toEqual([
      1,
      -1,
      undefined,
      undefined,
    ]);
  });
});
