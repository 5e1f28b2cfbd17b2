/** The engines' own swarm mode, for runs that compare with it. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "./command.ts";
import type { Lab } from "./lab.ts";

/** Stock swarm refuses an engine with live-restore, which the lab turns on; it can be reloaded. */
export async function allowSwarm(lab: Lab): Promise<void> {
  for (const host of lab.hosts) {
    const path = join(lab.dir, host.name, "daemon.json");
    const config: Record<string, unknown> = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...config, "live-restore": false }));
    const pid = host.pid("dockerd");
    if (pid === undefined) throw new Error(`dockerd of ${host.name} is not running`);
    process.kill(pid, "SIGHUP");
    await waitFor(`live-restore of ${host.name} to be off`, async () => {
      const answer = await fetch("http://lab/info", { unix: host.engineSocket() });
      // The engine's own answer.
      const info = (await answer.json()) as { LiveRestoreEnabled: boolean };
      return !info.LiveRestoreEnabled;
    });
  }
}
