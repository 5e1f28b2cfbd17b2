/** Request bodies: JSON text → checked value. Unknown fields are dropped, as Go's decoder does. */
import type { Context } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { withoutNulls } from "./go-values.ts";

/**
 * The request's body in the schema's shape.
 * @throws {ClusterError} invalid-argument for text that is no JSON, and naming the field that is of
 * a wrong type.
 */
export async function readBody<T extends z.ZodType>(c: Context, schema: T): Promise<z.output<T>> {
  return parseBody(await c.req.text(), schema);
}

/** As readBody, of a text. @throws {ClusterError} invalid-argument */
export function parseBody<T extends z.ZodType>(text: string, schema: T): z.output<T> {
  if (text.trim() === "") {
    throw new ClusterError("invalid-argument", "invalid JSON: the request has no body");
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ClusterError("invalid-argument", `invalid JSON: ${error.message}`);
  }
  return checkShape(withoutNulls(parsed), schema);
}

/** @throws {ClusterError} invalid-argument naming the first field that does not fit. */
export function checkShape<T extends z.ZodType>(value: unknown, schema: T): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const field = issue?.path.map(String).join(".") || "the body";
  throw new ClusterError(
    "invalid-argument",
    `invalid value for ${field}: ${issue?.message ?? "it has a wrong type"}`,
  );
}
