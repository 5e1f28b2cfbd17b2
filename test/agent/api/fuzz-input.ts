/** What the fuzz tests of the API send: requests that are wrong in every way that has been thought of. Seeded. */
import { seededRandom } from "../../../core/random.ts";
import { type ApiLab, asObject, field } from "./lab.ts";

export type Call = { method: string; path: string; body?: string | Uint8Array; type?: string };

export type FuzzInput = {
  /** 0 to `limit` - 1. */
  below(limit: number): number;
  pick<T>(items: readonly T[]): T;
  /** A body that is no JSON, or none that any call takes. */
  badText(): string | Uint8Array;
  oddName(): string;
  /** `good` with one field of a type that is certainly another one. */
  wrongField(good: Record<string, unknown>): string;
  /** `good` with one to three changes, which may leave it good. */
  mutated(good: unknown): unknown;
};

export async function send(lab: ApiLab, call: Call): Promise<{ status: number; text: string }> {
  const request = new Request(`http://d${call.path}`, {
    method: call.method,
    ...(call.body === undefined ? {} : { body: call.body }),
    headers: { "content-type": call.type ?? "application/json" },
  });
  const answer = await lab.app.fetch(request);
  return { status: answer.status, text: await answer.text() };
}

/** What the cluster holds, as bytes. */
export function storedBy({ ports: { rows } }: ApiLab): string {
  return JSON.stringify([
    rows.services(),
    rows.nodes(),
    rows.networks(),
    rows.secrets(),
    rows.configs(),
    rows.stacks(),
    rows.cluster(),
  ]);
}

export function expectRefusal(answer: { status: number; text: string }, call: Call): void {
  const shown = `${call.method} ${call.path} ${String(call.body).slice(0, 300)} → ${answer.text.slice(0, 300)}`;
  if (!((answer.status >= 400 && answer.status < 500) || answer.status === 501)) {
    throw new Error(`Status ${answer.status}: ${shown}`);
  }
  const parsed: unknown = JSON.parse(answer.text);
  const message = field(parsed, "message");
  if (message === "") throw new Error(`No message: ${shown}`);
}

type Path = (string | number)[];

export function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [path];
  const below = Object.entries(value).flatMap(([key, child]) => pathsOf(child, [...path, key]));
  return path.length > 0 ? [path, ...below] : below;
}

/** A copy with what is at `path` replaced by what `change` makes of it; undefined removes it. */
export function changed(value: unknown, path: Path, change: (old: unknown) => unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return change(value);
  if (Array.isArray(value)) {
    return value.map((item: unknown, index) =>
      String(index) === String(key) ? changed(item, rest, change) : item,
    );
  }
  const object = asObject(value);
  return { ...object, [key]: changed(object[key], rest, change) };
}

const SURPRISES: unknown[] = [
  null,
  "",
  " ",
  "\u0000",
  "\ud800",
  "{{",
  "{{.Service.Name}}",
  "x".repeat(70_000),
  "../../etc/passwd",
  0,
  -1,
  0.1,
  1e21,
  Number.MAX_SAFE_INTEGER + 2,
  true,
  [],
  {},
  [null],
  [[]],
  { a: null },
  JSON.parse('{"__proto__":{"polluted":true}}'),
  { constructor: { prototype: { polluted: true } } },
];
const SURPRISING_KEYS = [
  "__proto__",
  "constructor",
  "toString",
  "length",
  "\u0000",
  "",
  "a".repeat(5_000),
];

const ODD_NAMES = [
  "nosuch",
  "%00",
  "%2e%2e",
  "..%2f..%2fetc",
  "%ff%fe",
  "__proto__",
  "constructor",
  "x".repeat(5_000),
  "%F0%9F%90%8B",
  "a%20b",
  "'%20or%201=1--",
  "%zz",
  "{}",
  "*",
];

const WRONG_TEXTS = ["", "x", "\u0000", "__proto__"];

export function createFuzzInput(seed: number): FuzzInput {
  const random = seededRandom(seed);
  const below = (limit: number) => Math.floor(random.next() * limit);
  const pick = <T>(items: readonly T[]): T => {
    const item = items[below(items.length)];
    if (item === undefined) throw new Error("Nothing to pick from");
    return item;
  };
  /** Of a type that is certainly another one than `old`'s; a text for no text, a number for no number. */
  const wrongType = (old: unknown): unknown => {
    const others: unknown[] = [
      [[]],
      [{ a: [1] }],
      { a: { b: 1 } },
      { __proto__: null, constructor: 1 },
    ];
    if (Array.isArray(old)) return pick([...WRONG_TEXTS, 7, true, { 0: "a" }]);
    if (typeof old === "object") return pick([...WRONG_TEXTS, 7, true, [1]]);
    if (typeof old === "string") return pick([...others, 7, -1, 1e308, true, false]);
    if (typeof old === "number") {
      return pick([...others, ...WRONG_TEXTS, "7", true, 0.5, 1e300, Number.MAX_VALUE]);
    }
    return pick([...others, ...WRONG_TEXTS, 7, "true"]);
  };

  const badTexts: (() => string | Uint8Array)[] = [
    () => "",
    () => " ",
    () => "{",
    () => "}",
    () => '{"Name":"x"',
    () => '{"Name":"x",}',
    () => "{'Name':'x'}",
    () => "nope",
    () => "undefined",
    () => "NaN",
    () => "Infinity",
    () => "[]",
    () => "[{}]",
    () => "5",
    () => '"text"',
    () => "true",
    () => "\u0000",
    () => new Uint8Array([0xff, 0xfe, 0x00, 0x7b]),
    () => new Uint8Array([0x7b, 0x22, 0xc3, 0x28, 0x22, 0x3a]),
    () => new Uint8Array(Array.from({ length: 200 }, () => below(256))),
    () => "[".repeat(50_000),
    () => `${"[".repeat(50_000)}${"]".repeat(50_000)}`,
    () => `${'{"a":'.repeat(30_000)}1${"}".repeat(30_000)}`,
    () => `{"Labels":${'{"a":'.repeat(500)}1${"}".repeat(500)}}`,
    () => '{"__proto__":[]',
    () => `{"Name":${"9".repeat(5_000)}}`,
  ];

  const mutated = (good: unknown): unknown => {
    let value = good;
    for (let rounds = 1 + below(3); rounds > 0; rounds -= 1) {
      const path = pick(pathsOf(value));
      const kind = below(4);
      if (kind === 0) value = changed(value, path, () => undefined);
      else if (kind === 1) {
        const key = pick(SURPRISING_KEYS);
        const more = new Map([[key, pick(SURPRISES)]]);
        value = changed(value, path.slice(0, -1), (old) =>
          Array.isArray(old)
            ? [...old, pick(SURPRISES)]
            : { ...asObject(old), ...Object.fromEntries(more) },
        );
      } else value = changed(value, path, () => pick(SURPRISES));
    }
    return value;
  };

  return {
    below,
    pick,
    badText: () => pick(badTexts)(),
    oddName: () => pick(ODD_NAMES),
    wrongField: (good) => {
      const path = pick(pathsOf(good).filter(isTyped));
      return JSON.stringify(changed(good, path, wrongType));
    },
    mutated,
  };
}

/** A fraction is a good ratio. */
function isTyped(path: Path): boolean {
  const name = String(path.at(-1));
  return !["MaxFailureRatio"].includes(name);
}
