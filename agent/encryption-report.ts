/**
 * Tells the leader what this node's mesh says of encrypted networks (NodeEncryption), until the managers know
 * it: the own peer entry, which every node gets as well, shows what they know. Level-based, so nothing is lost
 * with a session, a leader or an agent.
 */
import { isDeepStrictEqual } from "node:util";
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import type { NodeEncryption } from "../core/objects/node.ts";
import type { Logger } from "./logger.ts";

const RETRY_MS = 1_000;
/** The entry comes back a moment after the leader's answer. */
const ANSWER_MS = 5_000;

export type EncryptionReport = {
  /** What the mesh says now. */
  say(encryption: NodeEncryption): void;
  take(message: AssignmentsMessage): void;
  stop(): void;
};

/** `ask` brings it to the leader. */
export function startEncryptionReport(options: {
  nodeId: () => string | undefined;
  ask: (encryption: NodeEncryption) => Promise<unknown>;
  log: Logger;
}): EncryptionReport {
  let said: NodeEncryption | undefined;
  /** Undefined until the managers have spoken. */
  let known: { encryption: NodeEncryption | undefined } | undefined;
  let timer: Timer | undefined;
  let isAsking = false;
  let isStopped = false;

  const isDue = () => said !== undefined && known && !isDeepStrictEqual(said, known.encryption);
  const later = (ms: number) => {
    clearTimeout(timer);
    if (isStopped) return;
    timer = setTimeout(tell, ms);
    timer.unref();
  };
  const tell = () => {
    // Of a node that has left, the mesh goes on saying something: nobody wants to know.
    if (isAsking || isStopped || !said || !isDue() || options.nodeId() === undefined) return;
    isAsking = true;
    const telling = said;
    options
      .ask(telling)
      .then(
        () => later(telling === said ? ANSWER_MS : 0),
        (error: unknown) => {
          if (!(error instanceof ClusterError)) throw error;
          options.log.debug({ err: error.message }, "Encryption not told yet");
          later(RETRY_MS);
        },
      )
      .finally(() => {
        isAsking = false;
        if (telling !== said) tell();
      });
  };

  return {
    say: (encryption) => {
      if (encryption.lack !== undefined && encryption.lack !== said?.lack) {
        options.log.info({ lack: encryption.lack }, "This node cannot carry encrypted networks");
      }
      said = encryption;
      tell();
    },
    take: ({ put }) => {
      const nodeId = options.nodeId();
      for (const { kind, body } of put) {
        if (kind === "peer" && body.nodeId === nodeId) known = { encryption: body.encryption };
      }
      tell();
    },
    stop: () => {
      isStopped = true;
      clearTimeout(timer);
    },
  };
}
