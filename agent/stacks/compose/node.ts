/**
 * The tree of a compose file: plain values that know where they stand, so that every refusal can say it.
 * Aliases and merge keys are resolved; keys are texts. Pure.
 */
export type Place = { file: string; line: number; column: number };

type Common = {
  at: Place;
  /** As a reader writes it: `services.web.ports[0]`. */
  path: string;
  /** Where its key stands, of values in maps. */
  keyAt?: Place;
  /** What a later file's value does with an earlier one: `!override` takes its place, `!reset` removes it. */
  tag?: "override" | "reset";
};

export type Scalar = Common & {
  kind: "scalar";
  value: string | number | boolean | null;
  /** As it is written, without quotes. */
  text: string;
};
export type List = Common & { kind: "list"; items: Node[] };
export type Mapping = Common & { kind: "map"; entries: Map<string, Node> };
export type Node = Scalar | List | Mapping;

/** A text in the place of another value. */
export function textNode(like: Node, text: string, path = like.path): Scalar {
  return { kind: "scalar", value: text, text, at: like.at, path };
}

export function nullNode(like: Node, path = like.path): Scalar {
  return { kind: "scalar", value: null, text: "", at: like.at, path };
}

export function listNode(like: Node, items: Node[]): List {
  return { ...placeOf(like), kind: "list", items };
}

export function mapNode(like: Node, entries: Iterable<[string, Node]>): Mapping {
  return { ...placeOf(like), kind: "map", entries: new Map(entries) };
}

/** A map of texts, in the place of a shorter notation. */
export function textsNode(like: Node, fields: Record<string, string | undefined>): Mapping {
  const given = Object.entries(fields).filter((field) => field[1] !== undefined);
  return mapNode(
    like,
    given.map(([key, text = ""]) => [key, textNode(like, text, `${like.path}.${key}`)]),
  );
}

export function isNull(node: Node | undefined): boolean {
  return node === undefined || (node.kind === "scalar" && node.value === null);
}

/** The value without its places, for comparison. */
export function plain(node: Node): unknown {
  if (node.kind === "scalar") return node.value;
  if (node.kind === "list") return node.items.map(plain);
  return Object.fromEntries([...node.entries].map(([key, value]) => [key, plain(value)]));
}

function placeOf({ at, path, keyAt, tag }: Node): Common {
  return { at, path, ...(keyAt ? { keyAt } : {}), ...(tag ? { tag } : {}) };
}
