/**
 * What differs between any two clusters by nature (ids, digests, times, addresses given out, tokens,
 * certificates, dynamic ports) is replaced by placeholders, so that the rest can be compared as it
 * is. Addresses that a case itself chooses (10.99.…) stay.
 */

export type Known = {
  /** Values that steps saved, by name. */
  saved: ReadonlyMap<string, string>;
  /** Every id seen on this side; the CLI shows their first 12 characters. */
  ids: ReadonlySet<string>;
};

const ID = /\b[a-z0-9]{25}\b/g;

/** Ids in a text, to be remembered. */
export function idsIn(text: string): string[] {
  return text.match(ID) ?? [];
}

/** Words that may be shortened ids of letters only: ask the cluster for its ids then. */
export function hasDoubtfulWord(text: string): boolean {
  return /\b[a-z]{12}\b/.test(text);
}

/** Longer things first, in which ids may be found too. */
const WHOLE_PATTERNS: [RegExp, string][] = [
  [/-----BEGIN [A-Z ]+-----[\s\S]*?-----END [A-Z ]+-----\n?/g, "<pem>"],
  [/SWMTKN-1-[a-z0-9]+-[a-z0-9]+/g, "<token>"],
  [/SWMKEY-1-[A-Za-z0-9+/]+/g, "<key>"],
  // A public key, and the empty subject beside it.
  [/\bMFkwEwYH[A-Za-z0-9+/]+=*/g, "<public key>"],
  [/\bsha256:[0-9a-f]{64}\b/g, "<digest>"],
  [/\b[0-9a-f]{64}\b/g, "<hex64>"],
];

const PATTERNS: [RegExp, string][] = [
  [ID, "<id>"],
  [
    /\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?(?:Z|\+0000 UTC|[+-]\d\d:\d\d))?(?: UTC)?/g,
    "<time>",
  ],
  [/\b(?:less than a|about a|about an|\d+) (?:second|minute|hour)s?(?: ago)?\b/gi, "<ago>"],
  [/\b10\.(?!99\.)\d{1,3}\.\d{1,3}\.\d{1,3}(?:\/\d+)?\b/g, "<ip>"],
  [/\b3(?:[01]\d{3}|2[0-7]\d{2})\b(?=[->'/\\s]|$)/g, "<port>"],
  // An id of 12 with a digit in it: shortened by the CLI.
  [/\b(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{12}\b/g, "<id>"],
];

/** A text with placeholders; runs of spaces, which tables have, are two. */
export function normaliseText(text: string, known: Known): string {
  let result = text;
  for (const [pattern, placeholder] of WHOLE_PATTERNS) {
    result = result.replaceAll(pattern, placeholder);
  }
  for (const [name, value] of known.saved) {
    if (value.length < 4) continue;
    result = result.replaceAll(value, `<${name}>`);
    if (value.length === 25) result = result.replaceAll(value.slice(0, 12), `<${name}>`);
  }
  for (const id of known.ids) {
    result = result.replaceAll(id, "<id>");
    if (!/[0-9]/.test(id.slice(0, 12))) result = result.replaceAll(id.slice(0, 12), "<id>");
  }
  for (const [pattern, placeholder] of PATTERNS) result = result.replaceAll(pattern, placeholder);
  return result
    .split("\n")
    .map((line) => line.replaceAll(/ {3,}/g, "  ").trimEnd())
    .join("\n")
    .trimEnd();
}

/** Numbers that are another one each time, by the key that holds them. */
const VOLATILE_NUMBERS = new Set(["Index", "time", "timeNano", "PID", "Pid"]);

/** A JSON value with placeholders; objects in lists are sorted, since no list has a promised order. */
export function normaliseJson(value: unknown, known: Known, key = ""): unknown {
  if (typeof value === "string") {
    // Numbers below 5000 are given by the cluster, others by the case.
    if (key.endsWith("vxlanid_list") && /^4\d{3}$/.test(value)) return "<vni>";
    return normaliseText(value, known);
  }
  if (typeof value === "number") {
    if (VOLATILE_NUMBERS.has(key)) return "<n>";
    return key === "PublishedPort" && value >= 30_000 && value <= 32_767 ? "<port>" : value;
  }
  if (Array.isArray(value)) {
    const items = value.map((item) => normaliseJson(item, known, key));
    return items.every((item) => typeof item === "object" && item !== null)
      ? items.toSorted((a, b) => compareTexts(JSON.stringify(a), JSON.stringify(b)))
      : items;
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .map(
        ([name, field]) => [normaliseText(name, known), normaliseJson(field, known, name)] as const,
      )
      .toSorted(([a], [b]) => compareTexts(a, b)),
  );
}

const compareTexts = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
