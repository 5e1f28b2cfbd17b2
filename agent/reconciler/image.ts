/**
 * The image of a task: present before its container is made, and the one that is meant.
 *
 *   reference            present      absent
 *   with a digest, id    taken        pulled; a failure is the task's
 *   tag alone            pulled, and  pulled; a failure is the task's
 *                        a failure ignored
 *
 * `PullPolicy` (label shoal.pull) changes that: missing leaves a present tag alone, never pulls nothing, always
 * fails the task when the tag cannot be pulled.
 *
 * So a digest (which the CLI pins) is exact and costs nothing, and a tag is what the registry says it is when
 * a task is prepared, or what the node has while its registry is away. Source: moby
 * daemon/cluster/executor/container/adapter.go pullImage, controller.go Prepare.
 *
 * Unlike stock Swarm: tasks that need one image at the same time share one pull; and a task whose image is
 * present waits for a silent registry 15 s at most (stock: as long as the engine tries), not at all while
 * others have waited that long already.
 */
import { ClusterError } from "../../core/errors.ts";
import type { ContainerSpec } from "../../core/objects/task.ts";
import { OPTION_LABEL_PREFIX } from "./container-options.ts";
import { imageReference } from "./container-spec.ts";
import { type Docker, isEngineAway } from "./docker.ts";

export type Images = {
  /**
   * Resolves when the image is present.
   * @throws {ClusterError} docker with the engine's text, such as `No such image: x:latest`, when it is
   *   not present and cannot be pulled; unavailable when the engine is away.
   */
  ensure(spec: Pick<ContainerSpec, "Image" | "PullOptions" | "EngineOptions">): Promise<void>;
};

export type ImageOptions = {
  /** How long a task whose image is present waits for the first word of the registry. */
  silenceMaxMs?: number;
  /** For so long after a failure a present image is taken without asking again. */
  failureMemoryMs?: number;
  nowMs?: () => number;
};

/** Of the order of what the engine itself waits for a connection. */
const SILENCE_MAX_MS = 15_000;
/** A burst of tasks asks once; a user who mends the registry and tries again is not told an old answer. */
const FAILURE_MEMORY_MS = 2_000;
const FAILURES_MAX = 256;

type Pull = {
  /** Never rejects. */
  outcome: Promise<{ error?: unknown }>;
  /** `hasAnswered`: the registry; from here on it is a matter of bytes. */
  progress: { hasAnswered: boolean; startedAtMs: number };
};

export function createImages(docker: Docker, options: ImageOptions = {}): Images {
  const {
    silenceMaxMs = SILENCE_MAX_MS,
    failureMemoryMs = FAILURE_MEMORY_MS,
    nowMs = () => Date.now(),
  } = options;
  const pulls = new Map<string, Pull>();
  const failedAtMs = new Map<string, number>();

  const start = (key: string, reference: string, registryAuth: string | undefined): Pull => {
    const progress = { hasAnswered: false, startedAtMs: nowMs() };
    const done = docker.pullImage(reference, registryAuth, () => {
      progress.hasAnswered = true;
    });
    const outcome = done.then(
      () => {
        pulls.delete(key);
        return {};
      },
      (error: unknown) => {
        pulls.delete(key);
        rememberFailure(key);
        return { error };
      },
    );
    const pull = { progress, outcome };
    pulls.set(key, pull);
    return pull;
  };
  const rememberFailure = (key: string) => {
    for (const [other, atMs] of failedAtMs) {
      if (nowMs() - atMs < failureMemoryMs && failedAtMs.size < FAILURES_MAX) break;
      failedAtMs.delete(other);
    }
    // Behind the others, so that the oldest come first.
    failedAtMs.delete(key);
    failedAtMs.set(key, nowMs());
  };

  /** Asks the registry whether the tag has moved; whatever comes of it, the image is there. */
  const refresh = async (key: string, reference: string, auth: string | undefined) => {
    const failed = failedAtMs.get(key);
    if (failed !== undefined && nowMs() - failed < failureMemoryMs) return;
    const pull = pulls.get(key) ?? start(key, reference, auth);
    const outcome = await untilSilentFor(pull, silenceMaxMs, nowMs);
    if (isEngineAway(outcome?.error)) throw outcome?.error;
  };

  return {
    ensure: async ({ Image, PullOptions, EngineOptions }) => {
      const reference = imageReference(Image);
      const registryAuth = PullOptions?.RegistryAuth;
      // Credentials are part of the key: nobody gets an image by somebody else's.
      const key = `${reference} ${registryAuth ?? ""}`;
      const policy = EngineOptions?.PullPolicy;
      const mustPull = policy === "always" && !isExact(reference);
      if (!mustPull && (await docker.hasImage(reference))) {
        if (!isExact(reference) && policy === undefined)
          await refresh(key, reference, registryAuth);
        return;
      }
      if (policy === "never") {
        throw new ClusterError(
          "docker",
          `No such image: ${reference} (this node does not have it, and ${OPTION_LABEL_PREFIX}pull is never)`,
        );
      }
      const { error } = await (pulls.get(key) ?? start(key, reference, registryAuth)).outcome;
      if (error === undefined) return;
      if (isEngineAway(error) || !(error instanceof ClusterError)) throw error;
      if (mustPull) {
        throw new ClusterError(
          "docker",
          `Cannot pull ${reference}, as ${OPTION_LABEL_PREFIX}pull=always asks: ${error.message}`,
          { details: error.details, cause: error },
        );
      }
      // Loaded by hand meanwhile: then the pull's failure does not matter (as in stock Swarm).
      if (await docker.hasImage(reference)) return;
      // Stock Swarm's text, and the reason, which it only logs.
      throw new ClusterError("docker", `No such image: ${reference} (pull: ${error.message})`, {
        details: error.details,
        cause: error,
      });
    },
  };
}

/** True for a reference that means one image for ever: with a digest, or an image's id. */
function isExact(reference: string): boolean {
  return reference.includes("@") || /^(sha256:)?[0-9a-f]{64}$/.test(reference);
}

/** The pull's outcome, or `undefined` when the registry has not answered in time. */
async function untilSilentFor(
  pull: Pull,
  silenceMaxMs: number,
  nowMs: () => number,
): Promise<{ error?: unknown } | undefined> {
  const { progress } = pull;
  if (progress.hasAnswered) return pull.outcome;
  let timer: Timer | undefined;
  const silence = new Promise<undefined>((resolve) => {
    const restMs = Math.max(0, progress.startedAtMs + silenceMaxMs - nowMs());
    timer = setTimeout(() => resolve(undefined), restMs);
  });
  try {
    const outcome = await Promise.race([pull.outcome, silence]);
    return outcome === undefined && progress.hasAnswered ? await pull.outcome : outcome;
  } finally {
    clearTimeout(timer);
  }
}
