/** The API for another machine: docker CLI and curl over mutual TLS, with certificates that shoal makes. */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const PORT = 2_376;
let lab: Lab;

describeLab("the API over TLS", { hosts: 2 }, (made) => {
  /** The CLI of the host that is in no cluster, with the certificates of `client`. */
  const remote = (client: string, ...args: string[]) =>
    lab
      .host(2)
      .tryRun([
        "env",
        `DOCKER_HOST=tcp://${lab.host(1).address}:${PORT}`,
        "DOCKER_TLS_VERIFY=1",
        `DOCKER_CERT_PATH=${join(lab.dir, client)}`,
        ...args,
      ]);
  const docker = async (line: string, ...more: string[]) => {
    const result = await remote("api/client-alice", "docker", ...line.split(" "), ...more);
    if (result.code !== 0) throw new Error(`docker ${line}: ${result.stderr}`);
    return result.stdout.trim();
  };
  beforeAll(async () => {
    lab = made();
    const [h1] = lab.hosts;
    if (!h1) throw new Error("no host");
    const dir = join(lab.dir, "api");
    const server = join(dir, `server-${h1.address}`);
    const certs = (...args: string[]) => h1.run(["shoal", "api-certs", ...args]);
    await certs(dir, "--host", h1.address, h1.name, "--client", "alice");
    await certs(join(lab.dir, "others"), "--client", "mallory");
    await h1.startAgent([
      `--api-listen=tcp://0.0.0.0:${PORT}`,
      `--tlscacert=${join(server, "ca.pem")}`,
      `--tlscert=${join(server, "cert.pem")}`,
      `--tlskey=${join(server, "key.pem")}`,
    ]);
    await h1.docker("swarm", "init", "--advertise-addr", h1.address);
  }, 90_000);

  test("a CLI elsewhere runs services and containers, with their streams", async () => {
    await docker("service create -d --name web --replicas 2 lab:latest sleep 1000");
    await waitFor("two tasks", async () => (await docker("service ls")).includes("2/2"));
    expect(await docker("node ls --format", "{{.Hostname}} {{.ManagerStatus}}")).toBe("h1 Leader");
    const script = "echo over there | docker run -i --rm lab:latest cat";
    const echoed = await remote("api/client-alice", "sh", "-c", script);
    expect(echoed.stdout).toBe("over there\n");
    const task = (await docker("ps -q --filter name=web")).split("\n")[0] ?? "";
    expect(await docker(`exec ${task} hostname`)).toBe(task);
    // 3 MiB by a connection that the engine has taken over.
    expect(await docker(`exec ${task} head -c 3000000 /dev/zero`)).toHaveLength(3_000_000);
    const events = await docker("events --since 5m --until 0s --filter type=service");
    expect(events).toContain("service create");
  }, 60_000);

  test("whoever has no certificate of its CA gets nothing", async () => {
    const stranger = await remote("others/client-mallory", "docker", "service", "ls");
    expect(stranger.code).not.toBe(0);
    expect(stranger.stderr).toContain("certificate");
    const plain = await lab.host(2).tryRun(["curl", "-sk", `https://h1:${PORT}/services`]);
    expect(plain).toMatchObject({ stdout: "" });
    expect(plain.code).not.toBe(0);
    await waitFor("the log to say so", () =>
      lab.host(1).agentLog().includes("Refused API client 192.168.77.2"),
    );
    expect(await docker("service ls -q")).not.toBe("");
  });
});
