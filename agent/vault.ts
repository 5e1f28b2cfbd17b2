/**
 * The cluster's data keys: `pki/data-keys.json` (0600) of every manager, and of managers only. With them
 * the data of secrets and the credentials of registries are sealed before they are proposed, so that
 * raft.db, state.db, snapshots and what peers send each other hold them sealed; they are opened at two
 * places: on the leader's way to a node whose task needs them (`openAssignments`), and where an update is
 * compared with what there is (api/data-objects.ts).
 *
 * 1. A key is on disk before anything is sealed by it.
 * 2. Keys are never replaced, only added: what an older one has sealed can be opened. The newest seals, until the
 *    cluster object names the one that does (data-keys.ts: rotation).
 * 3. A manager has the keys before it joins raft; it gets them from any other one (RPC data-keys) over mutual TLS.
 *    Where no manager has any (a cluster of an older shoal), the leader makes the first.
 * 4. Sealed text: `<key id>.<base64>`; for registry credentials, which are a text of their own, with a prefix.
 *
 * The file itself is sealed by the manager's lock (lock.ts).
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import type { AssignmentItem, AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import type { UnixMs } from "../core/ids.ts";
import type { MeshKey } from "../core/objects/cluster.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import type { SecretSpec } from "../core/objects/secret.ts";
import { readText, syncDirectory, writeAtomically } from "../net/pki/atomic-file.ts";
import { openSealed, SEAL_KEY_BYTES, sealBytes } from "../net/pki/seal.ts";
import { CLEAR_FILES, type FileSealer } from "../net/pki/store.ts";

/** Under the data directory. */
export const DATA_KEYS_FILE = "pki/data-keys.json";
const FILE_CONTEXT = "the keys of secrets";
const AUTH_PREFIX = "sealed:";
const AUTH_CONTEXT = "registry credentials";
/** One each rotation: more is somebody's mistake. */
const KEYS_MAX = 1_000;

export const dataKeysSchema = z
  .array(
    z.object({
      id: z.string().min(1),
      createdAtMs: z.number(),
      key: z.string(),
      /** Made for a rotation: seals only once the cluster object names it. */
      isNext: z.literal(true).exactOptional(),
    }),
  )
  .max(KEYS_MAX);
/** `key`: base64 of 32 bytes. */
export type DataKey = z.output<typeof dataKeysSchema>[number];

export type Vault = {
  keys(): readonly DataKey[];
  /** Adds keys of other managers; true when one was new. On disk when it returns. */
  learn(keys: readonly DataKey[]): boolean;
  make(nowMs: UnixMs): void;
  /** A key that is to seal next; its id. On disk when it returns. */
  prepare(nowMs: UnixMs): string;
  has(keyId: string): boolean;
  /** What the cluster object says of the keys: which one seals, which is to seal next. */
  follow(dataKeys: Cluster["dataKeys"]): void;
  /** Sealed by the key that seals now. */
  isCurrent(sealed: string): boolean;
  /** Something could not be opened for want of its key, or there is none at all. */
  isWanting(): boolean;
  /** @throws {ClusterError} unavailable while there is no key. */
  seal(context: string, data: Uint8Array): string;
  /** @throws {ClusterError} unavailable when its key is not here (yet); internal when it is damaged. */
  open(context: string, sealed: string): Uint8Array;
  /** This node is no manager any more. */
  forget(): void;
  /** Reads the file again, once this manager is unlocked. @throws {ClusterError} internal when it cannot be read. */
  load(): void;
  /** Writes the file again, sealed as the lock is now. */
  save(): void;
};

/**
 * Empty while `isLocked`, until load().
 * @throws {ClusterError} internal when the file is there and cannot be read.
 */
export function openVault(dataDir: string, files = CLEAR_FILES, isLocked = false): Vault {
  const path = join(dataDir, DATA_KEYS_FILE);
  let keys = isLocked ? [] : load(path, files);
  let isKeyMissed = false;
  let told: NonNullable<Cluster["dataKeys"]> = {};
  const find = (id: string) => keys.find((key) => key.id === id);
  const current = () =>
    told.sealingId === undefined
      ? keys
          .filter((key) => key.isNext !== true)
          .toSorted(byAge)
          .at(-1)
      : find(told.sealingId);
  const isMissing = (id: string | undefined) => id !== undefined && find(id) === undefined;
  const add = (nowMs: UnixMs, more: Pick<DataKey, "isNext">) => {
    const id = randomBytes(8).toString("hex");
    const key = randomBytes(SEAL_KEY_BYTES).toString("base64");
    vault.learn([{ id, createdAtMs: nowMs, key, ...more }]);
    return id;
  };

  const vault: Vault = {
    keys: () => keys,
    learn: (given) => {
      const added = given.filter(
        (one) =>
          Buffer.from(one.key, "base64").length === SEAL_KEY_BYTES &&
          !keys.some((known) => known.id === one.id),
      );
      if (added.length === 0) return false;
      save(path, [...keys, ...added], files);
      keys = [...keys, ...added];
      isKeyMissed = false;
      return true;
    },
    make: (nowMs) => void add(nowMs, {}),
    prepare: (nowMs) => add(nowMs, { isNext: true }),
    has: (keyId) => find(keyId) !== undefined,
    follow: (dataKeys) => {
      told = dataKeys ?? {};
    },
    isCurrent: (sealed) => sealed.startsWith(`${current()?.id}.`),
    isWanting: () =>
      isKeyMissed || keys.length === 0 || isMissing(told.sealingId) || isMissing(told.nextId),
    seal: (context, data) => {
      const with_ = current();
      if (!with_) {
        throw new ClusterError(
          "unavailable",
          "This manager does not have the key yet by which secrets are sealed: try again in some seconds",
          { retry: "later" },
        );
      }
      return `${with_.id}.${sealBytes(Buffer.from(with_.key, "base64"), context, data)}`;
    },
    open: (context, sealed) => {
      try {
        return openByKeys(keys, context, sealed);
      } catch (error) {
        if (error instanceof ClusterError && error.code === "unavailable") isKeyMissed = true;
        throw error;
      }
    },
    forget: () => {
      rmSync(path, { force: true });
      keys = [];
      told = {};
      isKeyMissed = false;
    },
    load: () => {
      keys = load(path, files);
    },
    save: () => {
      if (keys.length > 0) save(path, keys, files);
    },
  };
  return vault;
}

/** As Vault.open, by keys that are in no vault. */
export function openByKeys(keys: readonly DataKey[], context: string, sealed: string): Uint8Array {
  const [id = "", text = ""] = sealed.split(".", 2);
  const with_ = keys.find((key) => key.id === id);
  if (!with_) {
    throw new ClusterError(
      "unavailable",
      `Cannot open what is sealed for ${context}: this manager does not have key ${id} yet; it asks the others for it`,
      { retry: "later" },
    );
  }
  return openSealed(Buffer.from(with_.key, "base64"), context, text);
}

function byAge(a: DataKey, b: DataKey): number {
  return a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1);
}

function load(path: string, files: FileSealer): DataKey[] {
  const text = readText(path);
  if (text === undefined) return [];
  const parsed = z.preprocess(parseJson, dataKeysSchema).safeParse(files.open(FILE_CONTEXT, text));
  if (parsed.success) return parsed.data;
  throw new ClusterError(
    "internal",
    `Cannot read ${path}: it is damaged; remove it if another manager is there to get it from, else restore it`,
  );
}

function parseJson(text: unknown): unknown {
  try {
    return JSON.parse(String(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function save(path: string, keys: readonly DataKey[], files: FileSealer): void {
  const dir = dirname(path);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  writeAtomically(path, files.seal(FILE_CONTEXT, JSON.stringify(keys)), 0o600);
  syncDirectory(dir);
}

/** The spec with its data sealed for the secret of this id. */
export function sealSecret(vault: Vault, id: string, spec: SecretSpec): SecretSpec {
  const { Data, ...rest } = spec;
  if (Data === undefined) return spec;
  return { ...rest, Sealed: vault.seal(contextOf(id), Uint8Array.fromBase64(Data)) };
}

/** The spec with its data in clear. @throws {ClusterError} as Vault.open. */
export function openSecret(vault: Vault, id: string, spec: SecretSpec): SecretSpec {
  const { Sealed, ...rest } = spec;
  if (Sealed === undefined) return spec;
  return { ...rest, Data: Buffer.from(vault.open(contextOf(id), Sealed)).toString("base64") };
}

function contextOf(secretId: string): string {
  return `secret ${secretId}`;
}

/** A key of encrypted networks as it is in the cluster object. @throws {ClusterError} as Vault.seal. */
export function sealMeshKey(vault: Vault, id: string, secret: Uint8Array): string {
  return vault.seal(meshKeyContext(id), secret);
}

function openMeshKey(vault: Vault, id: string, sealed: string): Uint8Array {
  return vault.open(meshKeyContext(id), sealed);
}

/** The keys sealed by the key that seals now; undefined when they are. @throws {ClusterError} as Vault.open. */
export function resealMeshKeys(vault: Vault, keys: readonly MeshKey[]): MeshKey[] | undefined {
  if (keys.every(({ secret }) => vault.isCurrent(secret))) return undefined;
  return keys.map((key) => ({
    ...key,
    secret: sealMeshKey(vault, key.id, openMeshKey(vault, key.id, key.secret)),
  }));
}

function meshKeyContext(id: string): string {
  return `key ${id} of encrypted networks`;
}

/** X-Registry-Auth as it is stored in a spec. */
export function sealRegistryAuth(vault: Vault, auth: string): string {
  return `${AUTH_PREFIX}${vault.seal(AUTH_CONTEXT, Buffer.from(auth))}`;
}

/** The header sealed by the key that seals now; undefined when it is. @throws {ClusterError} as Vault.open, seal. */
export function resealRegistryAuth(vault: Vault, stored: string): string | undefined {
  if (!stored.startsWith(AUTH_PREFIX)) return sealRegistryAuth(vault, stored);
  if (vault.isCurrent(stored.slice(AUTH_PREFIX.length))) return undefined;
  return sealRegistryAuth(vault, openRegistryAuth(vault, stored));
}

/** The header again. @throws {ClusterError} as Vault.open. */
export function openRegistryAuth(vault: Vault, stored: string): string {
  if (!stored.startsWith(AUTH_PREFIX)) return stored;
  return Buffer.from(vault.open(AUTH_CONTEXT, stored.slice(AUTH_PREFIX.length))).toString();
}

/**
 * The message with what its node needs in clear. What cannot be opened is left out, and told to
 * `onFailure`: a secret as a whole (its tasks wait for it), of a task its credentials.
 */
export function openAssignments(
  vault: Vault,
  message: AssignmentsMessage,
  onFailure: (error: ClusterError) => void,
): AssignmentsMessage {
  if (!message.put.some(isSealed)) return message;
  const put = message.put.flatMap((item): AssignmentItem[] => {
    if (!isSealed(item)) return [item];
    try {
      return [opened(vault, item)];
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      onFailure(error);
      return item.kind === "task" ? [withoutAuth(item)] : [];
    }
  });
  return { ...message, put };
}

function isSealed(item: AssignmentItem): boolean {
  if (item.kind === "mesh-keys") return true;
  if (item.kind === "secret") return item.body.spec.Sealed !== undefined;
  if (item.kind !== "task") return false;
  return item.body.spec.ContainerSpec.PullOptions?.RegistryAuth.startsWith(AUTH_PREFIX) === true;
}

function opened(vault: Vault, item: AssignmentItem): AssignmentItem {
  if (item.kind === "secret") {
    return {
      ...item,
      body: { ...item.body, spec: openSecret(vault, item.body.id, item.body.spec) },
    };
  }
  if (item.kind === "mesh-keys") {
    const keys = item.body.keys.map(({ id, secret }) => {
      const bytes = openMeshKey(vault, id, secret);
      return { id, secret: Buffer.from(bytes).toString("base64") };
    });
    return { ...item, body: { keys } };
  }
  if (item.kind !== "task") return item;
  const { spec } = item.body;
  const auth = openRegistryAuth(vault, spec.ContainerSpec.PullOptions?.RegistryAuth ?? "");
  const ContainerSpec = { ...spec.ContainerSpec, PullOptions: { RegistryAuth: auth } };
  return { ...item, body: { ...item.body, spec: { ...spec, ContainerSpec } } };
}

type TaskItem = Extract<AssignmentItem, { kind: "task" }>;

function withoutAuth(item: TaskItem): TaskItem {
  const { PullOptions: _, ...ContainerSpec } = item.body.spec.ContainerSpec;
  return { ...item, body: { ...item.body, spec: { ...item.body.spec, ContainerSpec } } };
}
