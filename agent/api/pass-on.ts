import type { Context } from "hono";
import type { StatusCode } from "hono/utils/http-status";

/** The engine's answer as ours: status, type and body. */
export function passOn(c: Context, answer: Response): Response {
  const type = answer.headers.get("content-type");
  if (type !== null) c.header("content-type", type);
  // Whatever the engine has said is a status.
  return c.newResponse(answer.body, answer.status as StatusCode);
}
