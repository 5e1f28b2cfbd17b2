import type { Labels, ObjectMeta } from "./object-meta.ts";

/** SecretSpec and ConfigSpec in the Docker API's shape; `Data` is base64. */
export type SecretSpec = {
  Name: string;
  Labels?: Labels;
  Data?: string;
  Templating?: { Name: string; Options?: Record<string, string> };
};
export type Secret = ObjectMeta & { spec: SecretSpec };
export type Config = ObjectMeta & { spec: SecretSpec };
