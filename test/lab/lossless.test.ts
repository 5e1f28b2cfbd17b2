/**
 * Updates, scaling and drains under load: no request is lost. SHOAL_LOAD_REQUESTS sets how many are
 * sent at least; more rounds of updates follow until then.
 */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";
import { bunMounts } from "./traffic/bun-container.ts";
import type { LoadConfig, LoadResult } from "./traffic/load.ts";

const REQUESTS_MIN = Number(process.env["SHOAL_LOAD_REQUESTS"] ?? 10_000);
const ROUNDS_MAX = 40;
const PORT = 8_080;
const traffic = join(import.meta.dir, "traffic");
let lab: Lab;

/** The words of `line`, then `more` as they are. */
const docker = (line: string, ...more: string[]) => lab.host(1).docker(...line.split(" "), ...more);
function startLoad(config: LoadConfig) {
  const command = [process.execPath, join(traffic, "load.ts"), JSON.stringify(config)];
  const child = Bun.spawn(lab.client.enter(command), { stdin: "pipe", stdout: "pipe" });
  return async (): Promise<LoadResult> => {
    await child.stdin.write("\n");
    await child.stdin.end();
    // Printed by load.ts.
    return JSON.parse(await new Response(child.stdout).text()) as LoadResult;
  };
}

const runningCount = async (service: string) => {
  const listing = "service ps --filter desired-state=running --format";
  const states = await docker(listing, "{{.CurrentState}}", service);
  return states.split("\n").filter((state) => state.startsWith("Running")).length;
};

describeLab("change under load", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    const [first] = lab.hosts;
    await docker(`swarm init --advertise-addr ${first?.address ?? ""}`);
    const token = await docker("swarm join-token -q worker");
    for (const host of lab.hosts.slice(1)) {
      await host.docker("swarm", "join", "--token", token, `${first?.address ?? ""}:2377`);
    }
    await docker("network create -d overlay shop");
    await docker(
      `service create --name web --network shop --replicas 10 --publish ${PORT}:80 --env VERSION=1` +
        " --update-parallelism 2 --update-delay 0s --update-monitor 100ms",
      ...bunMounts(),
      "lab:latest",
      "/bin/bun",
      "/traffic/server.ts",
    );
  }, 120_000);

  test("a rolling update, scaling and a drained node lose no request", async () => {
    const stop = startLoad({
      targets: lab.hosts.map(({ address }) => ({ host: address, port: PORT })),
      users: 16,
      requestsMin: REQUESTS_MIN,
      requestsMax: 10 * REQUESTS_MIN + 1_000_000,
    });
    const rounds = Math.min(ROUNDS_MAX, Math.max(1, Math.ceil(REQUESTS_MIN / 20_000)));
    for (let round = 1; round <= rounds; round++) {
      const order = round % 2 === 1 ? "stop-first" : "start-first";
      const version = `VERSION=${round + 1}`;
      await docker(`service update --update-order ${order} --env-add ${version} web`);
    }
    await docker("service scale web=4");
    await docker("service scale web=10");
    await docker(`node update --availability drain ${lab.host(3).name}`);
    const emptied = lab.host(3).name;
    let fewest = 10;
    await waitFor("10 tasks on two nodes", async () => {
      const count = await runningCount("web");
      fewest = Math.min(fewest, count);
      const left = await docker(`node ps --filter desired-state=running -q ${emptied}`);
      return count === 10 && left === "";
    });
    // A drain goes by the update's rules: two at a time.
    expect(fewest).toBeGreaterThanOrEqual(8);
    await docker(`node update --availability active ${lab.host(3).name}`);
    const result = await stop();
    console.log(
      `${result.requestCount} requests over ${result.connectionCount} connections, ${result.failureCount} failed, ${rounds} updates`,
    );
    expect(result.failures).toEqual([]);
    expect(result.requestCount).toBeGreaterThanOrEqual(REQUESTS_MIN);
    const texts = Object.keys(result.answers);
    // Each version answered, and every answer saw the client's own address.
    expect(new Set(texts.map((text) => text.split(" ")[0])).size).toBe(rounds + 1);
    expect(new Set(texts.map((text) => text.split(" ")[1]))).toEqual(new Set([lab.client.address]));
  }, 600_000);
});
