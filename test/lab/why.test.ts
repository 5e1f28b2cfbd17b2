/** `shoal why` on two managers: what keeps a service from running, node by node, and what would help. */
import { beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
const why = (host: number, ref: string) => lab.host(host).run(["shoal", "why", ref]);
const create = (name: string, ...rest: string[]) =>
  lab
    .host(1)
    .docker("service", "create", "--detach", "--no-resolve-image", "--name", name, ...rest);
const untilSaid = (ref: string, text: string | RegExp, host = 1) =>
  waitFor(
    `"${text}" of ${ref}`,
    async () => {
      const said = await why(host, ref);
      if (typeof text === "string" ? said.includes(text) : text.test(said)) return said;
      throw new Error(said);
    },
    { timeoutMs: 20_000 },
  );

/** This machine's kernel has ESP, so it is not refused here. */
const canEncrypt = (() => {
  const key = `0x${"00".repeat(36)}`;
  const state = `src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode transport aead rfc4106(gcm(aes)) ${key} 128`;
  const argv = ["unshare", "-n", "ip", "xfrm", "state", "add", ...state.split(" ")];
  return Bun.spawnSync(argv, { stderr: "ignore" }).exitCode === 0;
})();

describeLab("shoal why", { hosts: 2, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await lab.host(1).docker("swarm", "init");
    const token = await lab.host(1).docker("swarm", "join-token", "-q", "manager");
    const to = `${lab.host(1).address}:2377`;
    await lab.host(2).docker("swarm", "join", "--token", token, to);
    await lab.host(1).docker("node", "update", "--availability", "drain", "h2");
    await create("zoned", "--constraint", "node.labels.zone==a", "lab:latest", "sleep", "600");
    await create("huge", "--reserve-memory", "100t", "lab:latest", "sleep", "600");
    await create("broken", "--restart-delay", "1s", "lab:latest", "sh", "-c", "exit 3");
    await create("absent", "--restart-condition", "none", "absent:1", "true");
  }, 60_000);

  test("a pending task: each node with each reason, on either manager; the fix it names helps", async () => {
    const said = await untilSaid("zoned", "no suitable node", 2);
    expect(said).toMatch(/h1 +constraint +node\.labels\.zone==a: it has none/);
    expect(said).toMatch(/h2 +ready +its availability is drain +docker node update --availability/);
    const fix = /Nearest is h1: (docker node update --label-add zone=a h1)\./.exec(said)?.[1];
    expect(await why(1, "zoned")).toContain(fix ?? "?");
    await lab.host(1).run((fix ?? "").split(" "));
    await untilSaid("zoned", "1 of 1 tasks of zoned run");
    expect(await untilSaid("huge", "memory:")).toMatch(/free of \d+ MiB +reserve \d+ MiB or less/);
  }, 60_000);

  test("failures: the last errors, of the service and of one task", async () => {
    const said = await untilSaid("broken", /broken\.1\.\w+ +h1 +failed .*non-zero exit \(3\)/);
    const task = /FAILED[^\n]*\n(broken\.1\.\w+)/.exec(said)?.[1] ?? "";
    expect(await untilSaid(task, "Its place has")).toContain(`${task} is failed on h1`);
    await untilSaid("absent", /rejected .*No such image: absent:1/);
    const unknown = await lab.host(1).tryRun(["shoal", "why", "nobody"]);
    expect([unknown.code, unknown.stderr]).toEqual([
      1,
      'There is no service and no task "nobody": see docker service ls, docker service ps\n',
    ]);
  }, 60_000);

  const whyNot = canEncrypt ? " (skipped: this kernel can)" : "";
  test.skipIf(canEncrypt)(
    `an encrypted network is refused with what the kernels lack and what to do${whyNot}`,
    async () => {
      const argv = ["docker", "network", "create", "-d", "overlay", "--opt", "encrypted", "secret"];
      const refused = await waitFor(
        "both nodes to have said that they cannot",
        async () => {
          const { code, stderr } = await lab.host(2).tryRun(argv);
          if (code === 0) throw new Error("it was created");
          return stderr.includes("it has not said") ? undefined : stderr;
        },
        { timeoutMs: 20_000 },
      );
      expect(refused).toMatch(
        /cannot create encrypted network secret: no node of this cluster can encrypt \(kernel .*load modules? .*esp4\)\. Load these modules on every node/,
      );
      const networks = await lab.host(1).docker("network", "ls", "--format", "{{.Name}}");
      expect(networks.split("\n")).not.toContain("secret");
      // What does not ask for encryption is as ever.
      await lab.host(1).docker("network", "create", "-d", "overlay", "clear");
    },
    30_000,
  );
});
