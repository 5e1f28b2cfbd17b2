import type { Labels, ObjectMeta } from "./object-meta.ts";

/**
 * SecretSpec and ConfigSpec in the Docker API's shape; `Data` is base64. The data of secrets is stored as
 * `Sealed` instead, by a key that is not in the store (agent/vault.ts); nodes get it as `Data`.
 */
export type SecretSpec = {
  Name: string;
  Labels?: Labels;
  Data?: string;
  Sealed?: string;
  Templating?: { Name: string; Options?: Record<string, string> };
};
export type Secret = ObjectMeta & { spec: SecretSpec };
export type Config = ObjectMeta & { spec: SecretSpec };
