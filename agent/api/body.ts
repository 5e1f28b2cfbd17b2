/** Request bodies: JSON text → checked value. Unknown fields are dropped, as Go's decoder does. */
import type { Context } from "hono";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { alignKeys } from "./align-keys.ts";
import { withoutNulls } from "./go-values.ts";

/** Begins the message of an issue that is the refusal's whole text, in stock's words. */
export const WHOLE_TEXT = "\0";

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
    // A RangeError is one that is nested too deep for the parser itself.
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
    throw new ClusterError("invalid-argument", `invalid JSON: ${error.message}`);
  }
  // To Go's decoder null is a body that says nothing.
  return checkShape(alignKeys(withoutNulls(parsed ?? {}), schema), schema);
}

/** @throws {ClusterError} invalid-argument naming the first field that does not fit. */
export function checkShape<T extends z.ZodType>(value: unknown, schema: T): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue?.message.startsWith(WHOLE_TEXT)) {
    throw new ClusterError("invalid-argument", issue.message.slice(WHOLE_TEXT.length));
  }
  const field = issue?.path.map(String).join(".") || "the body";
  throw new ClusterError(
    "invalid-argument",
    `invalid value for ${field}: ${issue?.message ?? "it has a wrong type"}`,
  );
}
