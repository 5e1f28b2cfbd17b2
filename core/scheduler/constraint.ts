/**
 * Placement constraints: `key == value` or `key != value`, all of which must hold.
 *
 * Keys: node.id, node.hostname, node.ip (address or CIDR), node.role, node.platform.os,
 * node.platform.arch, node.labels.<name>, engine.labels.<name>. An unknown key never matches; a
 * missing label counts as empty, so that `!=` matches. Values are compared whole and without regard
 * to case. Source: SwarmKit manager/constraint. Different: x86_64 and amd64 (aarch64 and arm64) are
 * the same architecture.
 */
import { ClusterError } from "../errors.ts";
import type { NodeObject } from "../objects/node.ts";

export type Constraint = { key: string; operator: "==" | "!="; value: string };

const OPERATORS = ["==", "!="] as const;
const KEY_PATTERN = /^[a-z_][a-z0-9\-_.]+$/i;
const VALUE_PATTERN = /^[a-z0-9:\-_\s.*()?+[\]\\^$|/]+$/i;

/**
 * The constraints of a spec.
 * @throws {ClusterError} invalid-argument for the first one that cannot be read.
 */
export function parseConstraints(list: readonly string[]): Constraint[] {
  return list.map((text) => {
    const result = parseConstraint(text);
    if (typeof result === "string") throw new ClusterError("invalid-argument", result);
    return result;
  });
}

/** One constraint, or why it is none, in stock Swarm's words. */
function parseConstraint(text: string): Constraint | string {
  for (const operator of OPERATORS) {
    const at = text.indexOf(operator);
    if (at < 0) continue;
    const key = text.slice(0, at).trim();
    const value = text.slice(at + operator.length).trim();
    if (!KEY_PATTERN.test(key)) return `key '${key}' is invalid`;
    if (!VALUE_PATTERN.test(value)) return `value '${value}' is invalid`;
    return { key, operator, value };
  }
  return `constraint expected one operator from ${OPERATORS.join(", ")}`;
}

/** As `parseConstraints`, but `undefined` when one cannot be read: no node matches then. */
export function readConstraints(list: readonly string[]): Constraint[] | undefined {
  const constraints: Constraint[] = [];
  for (const text of list) {
    const result = parseConstraint(text);
    if (typeof result === "string") return undefined;
    constraints.push(result);
  }
  return constraints;
}

/** As `satisfiesAll` for unparsed constraints; one that cannot be read matches no node. */
export function matchesConstraints(list: readonly string[], node: NodeObject): boolean {
  const constraints = readConstraints(list);
  return constraints !== undefined && satisfiesAll(constraints, node);
}

/** True when the node satisfies every constraint. */
export function satisfiesAll(constraints: readonly Constraint[], node: NodeObject): boolean {
  return constraints.every((constraint) => satisfies(constraint, node));
}

function satisfies({ key, operator, value }: Constraint, node: NodeObject): boolean {
  const lowerKey = key.toLowerCase();
  if (lowerKey === "node.ip") {
    const isInside = isAddressIn(node.status.addr, value);
    return isInside !== undefined && isInside === (operator === "==");
  }
  const found = attributeOf(node, key, lowerKey);
  if (found === undefined) return false;
  const normalise = lowerKey === "node.platform.arch" ? architectureOf : lower;
  return (normalise(found) === normalise(value)) === (operator === "==");
}

function lower(text: string): string {
  return text.toLowerCase();
}

/** The value compared; empty when the node has none, `undefined` for unknown keys. */
export function attributeOf(node: NodeObject, key: string, lowerKey: string): string | undefined {
  switch (lowerKey) {
    case "node.id":
      return node.id;
    case "node.hostname":
      return node.description?.Hostname ?? "";
    case "node.role":
      return node.role;
    case "node.platform.os":
      return node.description?.Platform.OS ?? "";
    case "node.platform.arch":
      return node.description?.Platform.Architecture ?? "";
    default:
      return labelOf(node, key);
  }
}

const NODE_LABEL_PREFIX = "node.labels.";
const ENGINE_LABEL_PREFIX = "engine.labels.";

/**
 * The value of `node.labels.<name>` or `engine.labels.<name>`; empty when the node lacks the label,
 * `undefined` for other keys.
 */
export function labelOf(node: NodeObject, key: string): string | undefined {
  const lowerKey = key.toLowerCase();
  if (lowerKey.startsWith(NODE_LABEL_PREFIX)) {
    return node.spec.Labels[key.slice(NODE_LABEL_PREFIX.length)] ?? "";
  }
  if (lowerKey.startsWith(ENGINE_LABEL_PREFIX)) {
    return node.description?.Engine.Labels?.[key.slice(ENGINE_LABEL_PREFIX.length)] ?? "";
  }
  return undefined;
}

/** One name for each architecture: Docker's (`amd64`), not uname's (`x86_64`). */
export function architectureOf(name: string): string {
  const lowerName = name.toLowerCase();
  if (lowerName === "x86_64") return "amd64";
  if (lowerName === "aarch64") return "arm64";
  return lowerName;
}

/** `undefined` when either text is no IPv4 address (or, for `range`, CIDR). */
function isAddressIn(address: string, range: string): boolean | undefined {
  const [base = "", prefix = "32"] = range.split("/");
  const left = ipv4Of(address);
  const right = ipv4Of(base);
  const bits = /^\d{1,2}$/.test(prefix) ? Number(prefix) : 33;
  if (left === undefined || right === undefined || bits > 32) return undefined;
  const sizeOfRange = 2 ** (32 - bits);
  return Math.floor(left / sizeOfRange) === Math.floor(right / sizeOfRange);
}

function ipv4Of(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^\d{1,3}$/.test(part) || Number(part) > 255) return undefined;
    value = value * 256 + Number(part);
  }
  return value;
}
