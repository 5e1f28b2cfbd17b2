/**
 * Errors as the Docker API tells them: a status and `{"message"}`. Texts that stock Swarm's control
 * API gives carry the prefix `rpc error: code = … desc = `; clients match on them.
 *
 * Source: moby daemon/server/httpstatus/status.go; gRPC status codes.
 */
import { ClusterError, type ErrorCode } from "../../core/errors.ts";

export type Problem = { status: ProblemStatus; message: string };
export type ProblemStatus = 400 | 401 | 403 | 404 | 409 | 500 | 501 | 503;

const STATUS_OF: Record<ErrorCode, ProblemStatus> = {
  "invalid-argument": 400,
  "failed-precondition": 400,
  "in-use": 400,
  unauthenticated: 401,
  forbidden: 403,
  "not-found": 404,
  "name-conflict": 409,
  "not-implemented": 501,
  unavailable: 503,
  "no-quorum": 503,
  "not-leader": 503,
  "proposal-dropped": 503,
  busy: 503,
  // Stock Swarm's word for a conflict of versions is 500; docker-py and Ansible match its text.
  "version-conflict": 500,
  deadline: 500,
  docker: 500,
  internal: 500,
};

/** Stock's text for every conflict of versions. */
export const OUT_OF_SEQUENCE = "rpc error: code = Unknown desc = update out of sequence";

/** gRPC's names for what the control API answers. */
const GRPC_CODE: Partial<Record<ErrorCode, string>> = {
  "invalid-argument": "InvalidArgument",
  "failed-precondition": "FailedPrecondition",
  "in-use": "FailedPrecondition",
  "name-conflict": "AlreadyExists",
  "not-found": "NotFound",
  forbidden: "PermissionDenied",
  "not-implemented": "Unimplemented",
};

/** A refusal with the words of stock Swarm's control API, prefix included. */
export function controlError(code: ErrorCode, message: string): ClusterError {
  const grpc = GRPC_CODE[code];
  return new ClusterError(code, grpc ? `rpc error: code = ${grpc} desc = ${message}` : message);
}

/** What was thrown while a proposal was made, with the prefix that stock has in that place. */
export function asControlError(error: unknown): unknown {
  if (!(error instanceof ClusterError) || error.message.startsWith("rpc error:")) return error;
  const grpc = GRPC_CODE[error.code];
  if (!grpc) return error;
  return new ClusterError(error.code, `rpc error: code = ${grpc} desc = ${error.message}`, {
    details: error.details,
    retry: error.retry,
    cause: error,
  });
}

/** Status and text for any thrown value. Unknown kinds tell their message: the caller is root. */
export function renderProblem(error: unknown): Problem {
  if (error instanceof ClusterError) {
    const message = error.code === "version-conflict" ? OUT_OF_SEQUENCE : error.message;
    return { status: STATUS_OF[error.code], message };
  }
  return { status: 500, message: error instanceof Error ? error.message : String(error) };
}
