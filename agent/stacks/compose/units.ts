/** Durations, sizes and CPUs as docker reads them, and numbers as Go prints them. Pure; unreadable is `undefined`. */
import { parseGoDurationMs } from "../../../core/objects/go-duration.ts";
import { NS_PER_MS } from "../../../core/objects/object-meta.ts";

/** Of `1m30s`, in nanoseconds. Source: Go, time.ParseDuration. */
export function parseDurationNs(text: string): number | undefined {
  const ms = parseGoDurationMs(text.replace(/(^|[a-zµ])\./g, "$10."));
  return ms === undefined ? undefined : Math.round(ms * NS_PER_MS);
}

const SIZE = /^(\d+(?:\.\d+)*) ?([kmgtp])?i?b?$/i;

/** Of `50m` or `1gb`: powers of 1024. Source: docker/go-units, RAMInBytes. */
export function parseSizeBytes(text: string): number | undefined {
  const match = SIZE.exec(text);
  const amount = Number(match?.[1]);
  if (!match || Number.isNaN(amount)) return undefined;
  const power = " kmgtp".indexOf((match[2] ?? " ").toLowerCase());
  const bytes = Math.trunc(amount * 1024 ** power);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

const NANO_DIGITS = 9;

/** Of `0.5`, in billionths; not finer. Source: docker/cli opts.ParseCPUs. */
export function parseNanoCpus(text: string): number | undefined {
  const match = /^(\d*)(?:\.(\d*))?$/.exec(text);
  const [, whole = "", fraction = ""] = match ?? [];
  const digits = fraction.replace(/0+$/, "");
  if (!match || whole + fraction === "" || digits.length > NANO_DIGITS) return undefined;
  const nano = Number(`${whole}${digits.padEnd(NANO_DIGITS, "0")}`);
  return Number.isSafeInteger(nano) ? nano : undefined;
}

const GO_EXPONENT_MIN = 21;
const GO_FIXED_MIN = 1e-4;

/** A number as Go's `%v` has it, which is what a number in `environment` becomes. */
export function goNumber(value: number): string {
  if (Number.isInteger(value) && Math.abs(value) < 10 ** GO_EXPONENT_MIN) return String(value);
  const isFixed = Math.abs(value) >= GO_FIXED_MIN && Math.abs(value) < 10 ** GO_EXPONENT_MIN;
  const text = isFixed ? String(value) : value.toExponential();
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}
