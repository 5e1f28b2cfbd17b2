/**
 * The kinds of values that container options have: how each is read from label texts, in `docker run`'s
 * grammar, and how a value that came as a field is checked. A label's reading is checked like a field, so
 * that both say the same. Pure.
 *
 * Source of the grammar: docker run's flags; sizes as docker's RAMInBytes (k, m, g are powers of 1024).
 */
import { parseAddress } from "../../core/allocator/ipam.ts";
import { ClusterError } from "../../core/errors.ts";
import type {
  DeviceMapping,
  DeviceRequest,
  ThrottleDevice,
  WeightDevice,
} from "../../core/objects/container-options.ts";

export type OptionKind<T> = {
  /** The grammar, for messages and the table of options: `it must be <words>`. */
  words: string;
  /** Several values; each may have a label of its own. */
  isList: boolean;
  /** @param texts one, or more if `isList`. @throws {ClusterError} when they are not of the grammar. */
  read(texts: readonly string[]): T;
  /** True for a value of this kind, as it comes in JSON. */
  accepts(value: unknown): boolean;
};

/** More of one option is somebody's mistake, or an attack on the managers' memory. */
const LIST_LENGTH_MAX = 1_000;

/** Thrown by `read`; the caller knows which label it was, and says the grammar. */
function unreadable(): never {
  throw new ClusterError("invalid-argument", "unreadable option");
}

export const flag: OptionKind<boolean> = {
  words: "true or false",
  isList: false,
  // In a compose file's list of labels a flag may stand alone, without a value.
  read: ([text = ""]) => {
    if (text === "" || /^(?:true|1|yes)$/i.test(text)) return true;
    if (/^(?:false|0|no)$/i.test(text)) return false;
    return unreadable();
  },
  accepts: (value) => typeof value === "boolean",
};

export function whole(min: number, max: number): OptionKind<number> {
  return {
    words: `a whole number from ${min} to ${max}`,
    isList: false,
    read: ([text = ""]) => (/^-?\d+$/.test(text) ? Number(text) : unreadable()),
    accepts: (value) => isWhole(value) && value >= min && value <= max,
  };
}

const SIZE = /^(\d+(?:\.\d+)?)([kmgtp]?)(?:i?b)?$/i;

function readSize(text: string): number {
  const match = SIZE.exec(text.trim());
  if (!match) return unreadable();
  const power = " kmgtp".indexOf((match[2] ?? "").toLowerCase() || " ");
  return Math.trunc(Number(match[1]) * 1024 ** power);
}

/** Bytes. */
export function size(options: { hasUnlimited?: boolean } = {}): OptionKind<number> {
  const unlimited = options.hasUnlimited ? ", or -1 for no limit" : "";
  return {
    words: `a size in bytes such as 67108864 or 64m${unlimited}`,
    isList: false,
    read: ([text = ""]) => (options.hasUnlimited && text === "-1" ? -1 : readSize(text)),
    accepts: (value) =>
      isWhole(value) && (value > 0 || (value === -1 && options.hasUnlimited === true)),
  };
}

export function word(pattern: RegExp, words: string): OptionKind<string> {
  return {
    words,
    isList: false,
    read: ([text = ""]) => text.trim(),
    accepts: (value) => typeof value === "string" && pattern.test(value),
  };
}

/** `isSplit`: a label holds several, with commas between; else commas are part of the one it holds. */
export function list(
  pattern: RegExp,
  words: string,
  options: { isSplit: boolean; mayBeEmpty?: boolean },
): OptionKind<string[]> {
  return {
    words,
    isList: true,
    read: (texts) => (options.isSplit ? texts.flatMap(splitList) : texts.filter(Boolean)),
    accepts: (value) =>
      isListOf(value, (item) => typeof item === "string" && pattern.test(item)) &&
      (options.mayBeEmpty === true || value.length > 0),
  };
}

/** A map; in labels `key<separator>value`, a key alone has the value "". */
export function pairs(
  separator: "=" | ":",
  keyPattern: RegExp,
  words: string,
  options: { isSplit: boolean },
): OptionKind<Record<string, string>> {
  return {
    words,
    isList: true,
    read: (texts) => {
      const lines = options.isSplit ? texts.flatMap(splitList) : texts.filter(Boolean);
      return Object.fromEntries(lines.map((line) => cut(line, separator)));
    },
    accepts: (value) =>
      isObject(value) &&
      Object.keys(value).length > 0 &&
      Object.entries(value).every(
        ([key, text]) => keyPattern.test(key) && typeof text === "string",
      ),
  };
}

/** Set of `port/protocol`, as the engine has it. */
export const ports: OptionKind<Record<string, Record<string, never>>> = {
  words: "ports such as 80 or 53/udp",
  isList: true,
  read: (texts) =>
    Object.fromEntries(
      texts.flatMap(splitList).map((text) => [text.includes("/") ? text : `${text}/tcp`, {}]),
    ),
  accepts: (value) =>
    isObject(value) &&
    Object.keys(value).length > 0 &&
    Object.entries(value).every(
      ([key, nothing]) =>
        /^\d{1,5}(?:-\d{1,5})?\/(?:tcp|udp|sctp)$/.test(key) &&
        isObject(nothing) &&
        Object.keys(nothing).length === 0,
    ),
};

/** Set of addresses by network; "" is the only one. */
export const addresses: OptionKind<Record<string, string>> = {
  words: "an IPv4 address, or network=address with commas between",
  isList: true,
  read: (texts) =>
    Object.fromEntries(
      texts.flatMap(splitList).map((text) => (text.includes("=") ? cut(text, "=") : ["", text])),
    ),
  accepts: (value) =>
    isObject(value) &&
    Object.keys(value).length > 0 &&
    Object.values(value).every(
      (address) => typeof address === "string" && parseAddress(address) !== undefined,
    ),
};

const PERMISSIONS = /^[rwm]{1,3}$/;

export const devices: OptionKind<DeviceMapping[]> = {
  words: "/dev/host[:/dev/container][:rwm]",
  isList: true,
  read: (texts) => texts.flatMap(splitList).map(readDevice),
  accepts: (value) =>
    areObjects(
      value,
      (item) =>
        isPath(item["PathOnHost"]) &&
        isPath(item["PathInContainer"]) &&
        PERMISSIONS.test(String(item["CgroupPermissions"])) &&
        hasOnly(item, ["PathOnHost", "PathInContainer", "CgroupPermissions"]),
    ),
};

function readDevice(text: string): DeviceMapping {
  const [host = "", second, third, ...more] = text.split(":");
  if (more.length > 0) return unreadable();
  const isSecondPermissions = second !== undefined && PERMISSIONS.test(second);
  return {
    PathOnHost: host,
    PathInContainer: (isSecondPermissions ? undefined : second) || host,
    CgroupPermissions: third ?? (isSecondPermissions ? second : "rwm"),
  };
}

export function throttles(unit: "bytes" | "operations"): OptionKind<ThrottleDevice[]> {
  return {
    words: unit === "bytes" ? "/dev/name:rate such as /dev/sda:10m" : "/dev/name:rate",
    isList: true,
    read: (texts) =>
      texts.flatMap(splitList).map((text) => {
        const [Path, rate] = cut(text, ":");
        return { Path, Rate: unit === "bytes" ? readSize(rate) : readWhole(rate) };
      }),
    accepts: (value) =>
      areObjects(
        value,
        (item) =>
          isPath(item["Path"]) &&
          isWhole(item["Rate"]) &&
          item["Rate"] >= 0 &&
          hasOnly(item, ["Path", "Rate"]),
      ),
  };
}

export const weights: OptionKind<WeightDevice[]> = {
  words: "/dev/name:weight, a weight being 10 to 1000",
  isList: true,
  read: (texts) =>
    texts.flatMap(splitList).map((text) => {
      const [Path, weight] = cut(text, ":");
      return { Path, Weight: readWhole(weight) };
    }),
  accepts: (value) =>
    areObjects(
      value,
      (item) =>
        isPath(item["Path"]) &&
        isWhole(item["Weight"]) &&
        item["Weight"] >= 10 &&
        item["Weight"] <= 1_000 &&
        hasOnly(item, ["Path", "Weight"]),
    ),
};

/** As of `docker run --gpus`: one request a label. Source: docker/cli opts/gpus.go. */
export const deviceRequests: OptionKind<DeviceRequest[]> = {
  words: 'all, a count, or fields such as "device=0,1",driver=nvidia,capabilities=compute',
  isList: true,
  read: (texts) => texts.filter(Boolean).map(readRequest),
  accepts: (value) =>
    areObjects(
      value,
      (item) =>
        hasOnly(item, ["Driver", "Count", "DeviceIDs", "Capabilities", "Options"]) &&
        isAbsentOr(item["Driver"], (one) => typeof one === "string") &&
        isAbsentOr(item["Count"], (one) => isWhole(one) && one >= -1) &&
        isAbsentOr(item["DeviceIDs"], (one) => isTexts(one)) &&
        isAbsentOr(item["Capabilities"], (one) => Array.isArray(one) && one.every(isTexts)) &&
        isAbsentOr(
          item["Options"],
          (one) => isObject(one) && Object.values(one).every((text) => typeof text === "string"),
        ),
    ),
};

function readRequest(text: string): DeviceRequest {
  if (text === "all") return { Count: -1, Capabilities: [["gpu"]] };
  if (/^\d+$/.test(text)) return { Count: Number(text), Capabilities: [["gpu"]] };
  const request: DeviceRequest = {};
  const capabilities = new Set<string>();
  for (const [key, value] of splitQuoted(text).map((field) => cut(field, "="))) {
    const parts = value.split(",");
    if (key === "driver") request.Driver = value;
    else if (key === "count") request.Count = value === "all" ? -1 : readWhole(value);
    else if (key === "device") request.DeviceIDs = parts;
    else if (key === "capabilities") for (const part of parts) capabilities.add(part);
    else if (key === "options") {
      request.Options = Object.fromEntries(parts.map((part) => cut(part, "=")));
    } else unreadable();
  }
  if (request.Count === undefined && request.DeviceIDs === undefined) request.Count = 1;
  if (request.Driver !== "cdi") request.Capabilities = [["gpu", ...capabilities]];
  return request;
}

/** Fields of a line of CSV: a quoted one may have commas. */
function splitQuoted(text: string): string[] {
  const fields = text.match(/"[^"]*"(?=,|$)|[^,"]+(?:"[^"]*")?/g) ?? [];
  if (fields.join(",") !== text) return unreadable();
  return fields.map((field) => field.replaceAll('"', ""));
}

function readWhole(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : unreadable();
}

function splitList(text: string): string[] {
  return text
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");
}

function cut(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function isPath(value: unknown): boolean {
  return typeof value === "string" && /^\/[^:]*$/.test(value);
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function isAbsentOr(value: unknown, test: (value: unknown) => boolean): boolean {
  return value === undefined || test(value);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function hasOnly(value: Record<string, unknown>, keys: readonly string[]): boolean {
  return Object.keys(value).every((key) => keys.includes(key));
}

function isListOf(value: unknown, test: (item: unknown) => boolean): value is unknown[] {
  return Array.isArray(value) && value.length <= LIST_LENGTH_MAX && value.every(test);
}

/** A list with at least one object, all of which pass. */
function areObjects(value: unknown, test: (item: Record<string, unknown>) => boolean): boolean {
  return isListOf(value, (item) => isObject(item) && test(item)) && value.length > 0;
}
