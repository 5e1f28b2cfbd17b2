import { describe, expect, test } from "bun:test";
import {
  asControlError,
  controlError,
  type ProblemStatus,
  renderProblem,
} from "../../../agent/api/problem.ts";
import { ClusterError, type ErrorCode } from "../../../core/errors.ts";

describe("renderProblem()", () => {
  const table: [ErrorCode, ProblemStatus][] = [
    ["invalid-argument", 400],
    ["failed-precondition", 400],
    ["in-use", 400],
    ["unauthenticated", 401],
    ["forbidden", 403],
    ["not-found", 404],
    ["name-conflict", 409],
    ["not-implemented", 501],
    ["unavailable", 503],
    ["no-quorum", 503],
    ["not-leader", 503],
    ["proposal-dropped", 503],
    ["busy", 503],
    ["deadline", 500],
    ["docker", 500],
    ["internal", 500],
  ];
  test.each(table)("of %s is %i", (code, status) => {
    expect(renderProblem(new ClusterError(code, "Words"))).toEqual({ status, message: "Words" });
  });

  test("gives every conflict of versions stock's text", () => {
    expect(renderProblem(new ClusterError("version-conflict", "anything"))).toEqual({
      status: 500,
      message: "rpc error: code = Unknown desc = update out of sequence",
    });
  });

  test("takes any thrown value", () => {
    expect(renderProblem(new TypeError("odd"))).toEqual({ status: 500, message: "odd" });
    expect(renderProblem("text")).toEqual({ status: 500, message: "text" });
  });
});

describe("asControlError()", () => {
  test("puts the prefix before refusals, once", () => {
    const refusal = new ClusterError("in-use", "network x is in use by service y");
    const prefixed = "rpc error: code = FailedPrecondition desc = network x is in use by service y";
    expect(renderProblem(asControlError(refusal)).message).toBe(prefixed);
    expect(renderProblem(asControlError(asControlError(refusal))).message).toBe(prefixed);
  });

  test("leaves failures alone", () => {
    const failure = new ClusterError("no-quorum", "No leader");
    expect(asControlError(failure)).toBe(failure);
    expect(controlError("deadline", "Late").message).toBe("Late");
  });
});
