/**
 * Names of fields as a schema has them, whatever case a client wrote them in: Go's decoder does not
 * look at the case, and scripts rely on it (`"healthCheck"`, `"name"`). Pure. Keys of maps (labels,
 * options) are values of the user and stay.
 */
import type { z } from "zod";

/** What of zod's definitions is needed to walk them; each kind has some of the fields. */
type Definition = {
  type: string;
  shape?: Record<string, z.ZodType>;
  element?: z.ZodType;
  innerType?: z.ZodType;
  valueType?: z.ZodType;
  in?: z.ZodType;
  out?: z.ZodType;
};

/** `value` with the keys of its objects in the schema's spelling. A key that fits as it is wins. */
export function alignKeys(value: unknown, schema: z.ZodType): unknown {
  if (typeof value !== "object" || value === null) return value;
  // Every zod schema has a definition of one of these shapes.
  const definition = schema.def as unknown as Definition;
  const { shape, element, innerType, valueType } = definition;
  if (innerType) return alignKeys(value, innerType);
  if (definition.type === "pipe") {
    const { in: first, out: last } = definition;
    // A transformation stands before or behind the schema that it is for.
    const isBefore = (first?.def as unknown as Definition | undefined)?.type === "transform";
    const next = isBefore ? last : first;
    return next ? alignKeys(value, next) : value;
  }
  if (Array.isArray(value)) {
    return element ? value.map((item: unknown) => alignKeys(item, element)) : value;
  }
  const entries = Object.entries(value);
  if (valueType) {
    return Object.fromEntries(entries.map(([key, item]) => [key, alignKeys(item, valueType)]));
  }
  if (!shape) return value;
  const spelling = new Map(Object.keys(shape).map((name) => [name.toLowerCase(), name]));
  return Object.fromEntries(
    entries.map(([key, item]) => {
      const meant = Object.hasOwn(shape, key) ? key : spelling.get(key.toLowerCase());
      if (meant === undefined) return [key, item];
      const name = meant === key || !Object.hasOwn(value, meant) ? meant : key;
      const field = shape[meant];
      return [name, field ? alignKeys(item, field) : item];
    }),
  );
}
