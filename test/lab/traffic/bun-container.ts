/** Bun in a container: the lab's image has busybox only, so the machine's own Bun is mounted into it. */
import { existsSync } from "node:fs";

/** Flags of `docker service create` for /bin/bun and, at /traffic, this folder; then `more` of source and target. */
export function bunMounts(...more: (readonly [source: string, target: string])[]): string[] {
  return [
    ...["/lib", "/lib64", "/usr/lib"]
      .filter((path) => existsSync(path))
      .map((path) => [path, path] as const),
    [process.execPath, "/bin/bun"] as const,
    [import.meta.dir, "/traffic"] as const,
  ]
    .map(([source, target]) => `type=bind,source=${source},target=${target},readonly`)
    .concat(more.map(([source, target]) => `type=bind,source=${source},target=${target}`))
    .flatMap((mount) => ["--mount", mount]);
}
