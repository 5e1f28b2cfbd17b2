import { expect, test } from "bun:test";
import { planRootRotation, signingCa, trustedRoots } from "../../../core/ca/root-rotation.ts";
import { seededRandom } from "../../../core/random.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { applyOrThrow, clusterDraft, create, DESCRIPTION, nodeDraft } from "../store/objects.ts";

const NEW = "-----BEGIN new-----\n";
const rotation = {
  certificatePem: NEW,
  keyPem: "new key",
  issuerPublicKey: "NEW",
  joinTokens: { worker: "w2", manager: "m2" },
  isSigning: false,
};

/** A cluster that has begun to rotate its root, with a manager m and a worker w. */
function rotating() {
  const rows = createMemoryRows();
  const node = (id: string, index: number, role: "manager" | "worker") =>
    create(
      "node",
      nodeDraft(id, index, { role, status: { state: "ready", message: "", addr: "" } }),
    );
  applyOrThrow(
    rows,
    create("cluster", { ...clusterDraft(), caRotation: rotation }),
    node("m", 1, "manager"),
    node("w", 2, "worker"),
  );
  const says = (id: string, TrustRoot: string, CertIssuerPublicKey: string) => {
    const TLSInfo = { TrustRoot, CertIssuerPublicKey, CertIssuerSubject: "" };
    const set = { description: { ...DESCRIPTION, TLSInfo } };
    applyOrThrow(rows, { type: "update", table: "node", id, set });
  };
  /** Plans and applies until nothing is left to do; gives the cluster then. */
  const settle = () => {
    for (;;) {
      const { actions } = planRootRotation({ view: rows, nowMs: 0, random: seededRandom(1) });
      const cluster = rows.cluster();
      if (!cluster) throw new Error("no cluster");
      if (actions.length === 0) return cluster;
      applyOrThrow(rows, ...actions);
    }
  };
  return { rows, says, settle };
}

test("the new root signs once every node trusts both, and stands alone once all are of it", () => {
  const { says, settle } = rotating();
  const old = settle();
  const both = trustedRoots(old);
  expect(both).toBe(old.rootCa.certificatePem + NEW);
  expect(signingCa(old)).toEqual(old.rootCa);
  says("m", both, "OLD");
  expect(settle().caRotation?.isSigning).toBe(false);
  says("w", both, "OLD");
  const signing = settle();
  expect(signingCa(signing)).toEqual({ certificatePem: NEW, keyPem: "new key" });
  expect(signing.joinTokens).toEqual(old.joinTokens);
  // A joining node finds the manager of its token's root only now.
  says("m", both, "NEW");
  expect(settle().joinTokens).toEqual(rotation.joinTokens);
  says("w", both, "NEW");
  const done = settle();
  expect(done.caRotation).toBeUndefined();
  expect(done.rootCa).toEqual({ certificatePem: NEW, keyPem: "new key" });
  expect(trustedRoots(done)).toBe(NEW);
});

test("a node that is down holds the rotation up until it is removed or has left", () => {
  for (const end of ["removed", "left"]) {
    const { rows, says, settle } = rotating();
    const both = trustedRoots(settle());
    says("m", both, "OLD");
    const down = (message: string) => {
      const set = { status: { state: "down" as const, message, addr: "" } };
      applyOrThrow(rows, { type: "update", table: "node", id: "w", set });
    };
    down("heartbeat failure");
    expect(settle().caRotation?.isSigning).toBe(false);
    if (end === "left") down("node left the swarm");
    else applyOrThrow(rows, { type: "remove", table: "node", id: "w" });
    expect(settle().caRotation?.isSigning).toBe(true);
    says("m", both, "NEW");
    expect(settle().caRotation).toBeUndefined();
  }
});

test("a rotation that takes another's place keeps what that has made trusted until its own end", () => {
  const { rows, says, settle } = rotating();
  const { id, rootCa } = settle();
  const all = trustedRoots(settle()) + "-----BEGIN third-----\n";
  const third = { ...rotation, certificatePem: "-----BEGIN third-----\n", issuerPublicKey: "3RD" };
  const set = { caRotation: { ...third, replacedPem: NEW } };
  applyOrThrow(rows, { type: "update", table: "cluster", id, set });
  expect(trustedRoots(settle())).toBe(all);
  expect(signingCa(settle())).toEqual(rootCa);
  for (const node of ["m", "w"]) says(node, all, "NEW");
  expect(settle().caRotation?.isSigning).toBe(true);
  for (const node of ["m", "w"]) says(node, all, "3RD");
  expect(trustedRoots(settle())).toBe(third.certificatePem);
});

test("a rotation turned back ends at the root it began from", () => {
  const { rows, says, settle } = rotating();
  const { id, rootCa } = settle();
  const back = { ...rotation, ...rootCa, issuerPublicKey: "OLD", replacedPem: NEW };
  applyOrThrow(rows, { type: "update", table: "cluster", id, set: { caRotation: back } });
  const both = rootCa.certificatePem + NEW;
  expect(trustedRoots(settle())).toBe(both);
  for (const node of ["m", "w"]) says(node, both, "NEW");
  expect(settle().caRotation?.isSigning).toBe(true);
  for (const node of ["m", "w"]) says(node, both, "OLD");
  expect(settle().caRotation).toBeUndefined();
  expect(trustedRoots(settle())).toBe(rootCa.certificatePem);
});
