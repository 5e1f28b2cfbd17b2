/**
 * What a host that was never in a cluster does next. Pure.
 *
 * Two clusters must never come of one list. So one host only may found one, the first of the list, and
 * only when every other one has just said that it was never in any: a cluster that lives somewhere is
 * then known of, and whoever cannot be asked may be in one. Each must also take itself for the one that
 * was asked: a name that leads to another host says nothing of who has the name. Everybody else waits and
 * joins.
 */
import type { FormAnswer } from "./message.ts";

export type FormRole = "auto" | "manager" | "worker";

/** Of one peer, in the order of the list: what it said, or why it said nothing. */
export type PeerReport = { addr: string } & ({ answer: FormAnswer } | { failure: string });

export type FormDecision =
  | { type: "found"; self: string }
  | { type: "join"; addrs: string[]; token: string; self?: string }
  | { type: "wait"; why: string };

/** `me`: this agent's boot id and the digest of its list. */
export function decideFormation(
  me: { bootId: string; peersDigest: string; role: FormRole },
  reports: readonly PeerReport[],
): FormDecision {
  const own = ownReports(me, reports);
  const self = own[0]?.addr;
  if (own.length > 1) {
    return wait(
      `"${own.map(({ addr }) => addr).join('" and "')}" are all this host: name each once`,
    );
  }
  const role = me.role === "auto" ? (self === undefined ? "worker" : "manager") : me.role;
  const members = reports.flatMap((report) =>
    "answer" in report && report.answer.tokens
      ? [{ addr: report.addr, token: report.answer.tokens[role] }]
      : [],
  );
  const [member] = members;
  if (member) {
    const addrs = members.filter(({ token }) => token === member.token).map(({ addr }) => addr);
    return { type: "join", addrs, token: member.token, ...(self === undefined ? {} : { self }) };
  }
  // What this host takes itself for is found out just here.
  const others = reports.filter((report) => !own.includes(report));
  const trouble = others.flatMap((report) => troubleOf(me.peersDigest, report));
  const first = reports[0]?.addr ?? "";
  if (self === undefined || role === "worker") {
    return wait(`no manager of a cluster answers (${trouble.join("; ") || "none is formed yet"})`);
  }
  if (self !== first) {
    const why = trouble.length === 0 ? "" : ` (${trouble.join("; ")})`;
    return wait(`${first} is to found the cluster, when all of the list answer${why}`);
  }
  const twice = reports.find(
    (report, place) =>
      "answer" in report &&
      reports.findIndex(
        (other) => "answer" in other && other.answer.bootId === report.answer.bootId,
      ) !== place,
  );
  if (twice) return wait(`${twice.addr} is the same host as another one of the list`);
  if (trouble.length > 0)
    return wait(`the cluster is founded when all answer: ${trouble.join("; ")}`);
  return { type: "found", self };
}

/** Those that come from this host itself: which of the list it is. */
export function ownReports(
  me: { bootId: string },
  reports: readonly PeerReport[],
): readonly PeerReport[] {
  return reports.filter((report) => "answer" in report && report.answer.bootId === me.bootId);
}

/** Why this peer hinders the founding. */
function troubleOf(peersDigest: string, report: PeerReport): string[] {
  if ("failure" in report) return [`${report.addr}: ${report.failure}`];
  const { state, peersDigest: theirs, self } = report.answer;
  if (state === "left") {
    return [
      `${report.addr} was in a cluster and left it: join it by hand, or empty its data directory`,
    ];
  }
  if (state === "member") return [`${report.addr} is in a cluster, but gives no token`];
  if (theirs !== peersDigest) return [`${report.addr} was given another list of peers`];
  if (self !== report.addr) {
    return [
      self === undefined
        ? `${report.addr} leads to a host that does not know yet which of the list it is, if any`
        : `${report.addr} leads to the host that takes itself for ${self}`,
    ];
  }
  return [];
}

const wait = (why: string): FormDecision => ({ type: "wait", why });
