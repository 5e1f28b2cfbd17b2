import pino, { type Logger } from "pino";

export type { Logger } from "pino";

/** JSON lines on standard error, one per event; children carry `component` and, once known, `node`. */
export function createLogger(level: string): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Registry credentials and keys never reach a log line, whatever object is logged.
      redact: {
        paths: ["*.keyPem", "*.JoinToken", "*.token", "*.RegistryAuth", "*.UnlockKey"],
        censor: "…",
      },
    },
    pino.destination({ dest: 2, sync: true }),
  );
}
