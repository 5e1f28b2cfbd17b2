/**
 * What of the cluster object is secret: the CA's key (also of the root that takes its place), the join tokens, the
 * unlock key. Sealed by the data keys before they are proposed (vault.ts), so that no database holds them in clear;
 * opened where they are used. core/ passes them along, and copies the parts of caRotation to their places in
 * rootCa and joinTokens: both are sealed for the same purpose.
 *
 * Text in clear (an older shoal's, the simulator's) stays as it is; the leader seals it at the next occasion.
 */
import { signingCa } from "../core/ca/root-rotation.ts";
import type { CaRotation, Cluster } from "../core/objects/cluster.ts";
import type { Proposal } from "../core/store/action.ts";
import { parseUnlockKey } from "./unlock-key.ts";
import type { Vault } from "./vault.ts";

const PREFIX = "sealed:";
const CA_KEY = "the CA's key";
const UNLOCK_KEY = "the unlock key";
const TOKEN = { worker: "the workers' join token", manager: "the managers' join token" } as const;

type Opener = Pick<Vault, "open">;
type Sealer = Pick<Vault, "seal">;
type Root = { certificatePem: string; keyPem: string };
type Tokens = Cluster["joinTokens"];

function seal(vault: Sealer, context: string, text: string): string {
  if (text.startsWith(PREFIX)) return text;
  return PREFIX + vault.seal(context, Buffer.from(text));
}

function open(vault: Opener | undefined, context: string, stored: string): string {
  if (!vault || !stored.startsWith(PREFIX)) return stored;
  return Buffer.from(vault.open(context, stored.slice(PREFIX.length))).toString();
}

/** What is sealed already stays, and so does no key. @throws {ClusterError} as Vault.seal. */
export function sealRoot<T extends Root>(vault: Sealer, root: T): T {
  if (root.keyPem === "") return root;
  return { ...root, keyPem: seal(vault, CA_KEY, root.keyPem) };
}

export function sealTokens(vault: Sealer, tokens: Tokens): Tokens {
  return {
    worker: seal(vault, TOKEN.worker, tokens.worker),
    manager: seal(vault, TOKEN.manager, tokens.manager),
  };
}

export function sealRotation(vault: Sealer, rotation: CaRotation): CaRotation {
  return { ...sealRoot(vault, rotation), joinTokens: sealTokens(vault, rotation.joinTokens) };
}

export function sealUnlockKey(vault: Sealer, key: string): string {
  return seal(vault, UNLOCK_KEY, key);
}

/** The root that signs, with its key in clear. @throws {ClusterError} as Vault.open. */
export function openSigningCa(vault: Opener | undefined, cluster: Cluster): Root {
  const { certificatePem, keyPem } = signingCa(cluster);
  return { certificatePem, keyPem: open(vault, CA_KEY, keyPem) };
}

/** @throws {ClusterError} as Vault.open. */
export function openTokens(
  vault: Opener | undefined,
  { joinTokens }: Pick<Cluster, "joinTokens">,
): Tokens {
  return {
    worker: open(vault, TOKEN.worker, joinTokens.worker),
    manager: open(vault, TOKEN.manager, joinTokens.manager),
  };
}

/** `SWMKEY-1-…`; undefined while the cluster is not locked. @throws {ClusterError} as Vault.open. */
export function openUnlockKey(vault: Opener, cluster: Cluster): string | undefined {
  const { spec, unlockKey } = cluster;
  if (!spec.EncryptionConfig.AutoLockManagers || unlockKey === undefined) return undefined;
  return open(vault, UNLOCK_KEY, unlockKey);
}

/** Its bytes. @throws {ClusterError} as Vault.open. */
export function unlockKeyOf(vault: Opener, cluster: Cluster): Uint8Array | undefined {
  const text = openUnlockKey(vault, cluster);
  return text === undefined ? undefined : parseUnlockKey(text);
}

type Sealed = Pick<Cluster, "rootCa" | "joinTokens" | "caRotation" | "unlockKey">;

function secretsOf({ rootCa, joinTokens, caRotation, unlockKey = "" }: Sealed): string[] {
  const ofRotation = caRotation ? [caRotation.keyPem, ...Object.values(caRotation.joinTokens)] : [];
  return [rootCa.keyPem, ...Object.values(joinTokens), ...ofRotation, unlockKey];
}

/** The cluster's parts with all that is secret sealed; undefined when it is already. */
export function sealedParts(vault: Sealer, parts: Sealed): Sealed | undefined {
  const { caRotation, unlockKey } = parts;
  const isAsIs = (text: string) => text === "" || text.startsWith(PREFIX);
  if (secretsOf(parts).every(isAsIs)) return undefined;
  return {
    rootCa: sealRoot(vault, parts.rootCa),
    joinTokens: sealTokens(vault, parts.joinTokens),
    ...(caRotation ? { caRotation: sealRotation(vault, caRotation) } : {}),
    ...(unlockKey === undefined ? {} : { unlockKey: sealUnlockKey(vault, unlockKey) }),
  };
}

/** All that is secret sealed by the key that seals now; undefined when it is. @throws {ClusterError} as Vault.open. */
export function resealedParts(vault: Vault, parts: Sealed): Sealed | undefined {
  const isAsIs = (text: string) => text === "" || vault.isCurrent(text.slice(PREFIX.length));
  if (secretsOf(parts).every(isAsIs)) return undefined;
  const openRoot = <T extends Root>(root: T): T => ({
    ...root,
    keyPem: open(vault, CA_KEY, root.keyPem),
  });
  const { caRotation, unlockKey } = parts;
  return sealedParts(vault, {
    rootCa: openRoot(parts.rootCa),
    joinTokens: openTokens(vault, parts),
    ...(caRotation
      ? { caRotation: { ...openRoot(caRotation), joinTokens: openTokens(vault, caRotation) } }
      : {}),
    ...(unlockKey === undefined ? {} : { unlockKey: open(vault, UNLOCK_KEY, unlockKey) }),
  });
}

/** A founder's proposal with its cluster sealed. @throws {ClusterError} as Vault.seal. */
export function sealFounding(vault: Sealer, proposal: Proposal): Proposal {
  const actions = proposal.actions.map((action) =>
    action.type === "create" && action.table === "cluster"
      ? { ...action, object: { ...action.object, ...sealedParts(vault, action.object) } }
      : action,
  );
  return { ...proposal, actions };
}
