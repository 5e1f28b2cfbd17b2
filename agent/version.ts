/** Set by scripts/build.ts; from source the values say so. */
declare const SHOAL_VERSION: string | undefined;
declare const SHOAL_COMMIT: string | undefined;

export const VERSION = {
  version: typeof SHOAL_VERSION === "string" ? SHOAL_VERSION : "0.0.0-source",
  commit: typeof SHOAL_COMMIT === "string" ? SHOAL_COMMIT : "source",
};
