import { describe, expect, test } from "bun:test";
import {
  formKey,
  openAnswer,
  openAsk,
  sealAnswer,
  sealAsk,
} from "../../../agent/formation/message.ts";
import { parsePeers } from "../../../agent/formation/formation.ts";

const key = formKey("a".repeat(32));
const other = formKey("b".repeat(32));
const ask = { number: "n1", bootId: "b1", peersDigest: "d" };
const answer = { ...ask, state: "member", tokens: { manager: "M", worker: "W" } } as const;

describe("formation messages", () => {
  test("come through for who has the secret, whatever space is around it", () => {
    expect(openAsk(formKey(` ${"a".repeat(32)}\n`), sealAsk(key, ask))).toEqual(ask);
    expect(openAnswer(key, sealAnswer(key, answer), ask)).toEqual(answer);
  });

  test("are refused under another secret, changed, cut, or as what they are not", () => {
    const sealed = sealAsk(key, ask);
    const changed = Uint8Array.from(sealed, (byte, place) => (place === 20 ? byte ^ 1 : byte));
    const refused = "the formation secrets of the two hosts differ";
    for (const bad of [changed, sealed.subarray(0, 20), new Uint8Array(0), new Uint8Array(9_000)]) {
      expect(() => openAsk(key, bad)).toThrow(refused);
    }
    expect(() => openAsk(other, sealed)).toThrow(refused);
    // A question is no answer, and neither is the answer to an earlier question.
    expect(() => openAnswer(key, sealed, ask)).toThrow(refused);
    expect(() => openAnswer(key, sealAnswer(key, answer), { ...ask, number: "n2" })).toThrow(
      refused,
    );
  });

  test("say nothing of the secret or the tokens in clear", () => {
    const long = "SWMTKN-1-manager";
    const tokens = { manager: long, worker: "W" };
    expect(Buffer.from(sealAnswer(key, { ...answer, tokens })).includes(long)).toBe(false);
  });

  test("a secret that is none is refused", () => {
    expect(() => formKey("short")).toThrow("it has 5 characters");
    expect(() => formKey("x".repeat(2_000))).toThrow("2000 characters");
  });
});

test("parsePeers() takes a list of hosts, and names what is wrong with another", () => {
  expect(parsePeers(" h1, h2:2377,192.0.2.3 ")).toEqual(["h1", "h2:2377", "192.0.2.3"]);
  expect(() => parsePeers("")).toThrow("0 peers");
  expect(() => parsePeers("h1,h1")).toThrow("a peer is twice in it");
  expect(() => parsePeers("h1:2378")).toThrow(
    'with "h1:2378": hosts find each other by IPv4 on port',
  );
  expect(() => parsePeers("[fd00::1]")).toThrow("hosts find each other by IPv4");
  expect(() => parsePeers("h1:99999")).toThrow('"h1:99999": write host:port');
  expect(() => parsePeers(Array.from({ length: 16 }, (_, i) => `h${i}`).join())).toThrow(
    "16 peers",
  );
});
