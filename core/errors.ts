/**
 * Every refusal and failure that a caller may act on. `code` decides the HTTP status
 * (`agent/api/problem.ts`), `retry` whether trying again can help.
 */
export type ErrorCode =
  | "invalid-argument"
  | "failed-precondition"
  | "unauthenticated"
  | "forbidden"
  | "not-found"
  | "name-conflict"
  | "in-use"
  | "version-conflict"
  | "not-leader"
  | "no-quorum"
  | "proposal-dropped"
  | "busy"
  | "deadline"
  | "unavailable"
  | "not-implemented"
  | "docker"
  | "internal";

export type Retry = "never" | "later" | { afterMs: number };

export type ClusterErrorOptions = {
  details?: Record<string, unknown>;
  retry?: Retry;
  cause?: unknown;
};

/** The plain form in which an error crosses a thread or the network. */
export type ErrorBody = { code: ErrorCode; message: string; details?: Record<string, unknown> };

export class ClusterError extends Error {
  override name = "ClusterError";
  readonly code: ErrorCode;
  readonly details: Record<string, unknown>;
  readonly retry: Retry;

  constructor(code: ErrorCode, message: string, options: ClusterErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.retry = options.retry ?? "never";
  }
}

/** Any thrown value as the plain form; unknown kinds become `internal`. */
export function toErrorBody(error: unknown): ErrorBody {
  if (error instanceof ClusterError) {
    return { code: error.code, message: error.message, details: error.details };
  }
  return { code: "internal", message: error instanceof Error ? error.message : String(error) };
}

export function fromErrorBody(body: ErrorBody): ClusterError {
  return new ClusterError(body.code, body.message, body.details ? { details: body.details } : {});
}
