/** The binary's entry: `shoal agent` runs the node, the other verbs are thin clients of its socket. */
import { Command, Option } from "commander";
import { BACKEND_NAMES, type BackendName } from "../net/mesh/backend.ts";
import { addClientCommands } from "./cli/commands.ts";
import { DEFAULT_SOCKET } from "./cli/socket.ts";
import type { FormRole } from "./formation/decide.ts";
import { startDnsEarly } from "./dns-thread.ts";
import { VERSION } from "./version.ts";

const program = new Command("shoal")
  .description("Docker hosts as one cluster: a manager or worker beside a stock Docker Engine")
  .version(`${VERSION.version} (${VERSION.commit})`);

program
  .command("agent")
  .description("run this host's node")
  .option("--data-dir <dir>", "state of this node", "/var/lib/shoal")
  .option("--socket <path>", "where the docker CLI talks to shoal", DEFAULT_SOCKET)
  .option("--engine <path>", "socket of the local Docker Engine", "/run/docker.sock")
  .option("--log-level <level>", "debug, info, warn, error", "info")
  .addOption(
    new Option(
      "--advertise-addr <address>",
      "this host's address: for --cluster-peers, or when it has changed since it joined",
    ).env("SHOAL_ADVERTISE_ADDR"),
  )
  .addOption(
    new Option("--mesh-backend <name>", "what balances and filters in this host's kernel")
      .choices(["auto", ...BACKEND_NAMES])
      .default("auto")
      .env("SHOAL_MESH_BACKEND"),
  )
  .addOption(
    new Option(
      "--api-listen <tcp://address:port>",
      "serve the API to other machines too, by mutual TLS with the next three",
    ).env("SHOAL_API_LISTEN"),
  )
  .addOption(
    new Option("--tlscacert <file>", "the CA of those who may use the API").env("SHOAL_TLSCACERT"),
  )
  .addOption(new Option("--tlscert <file>", "the API's certificate").env("SHOAL_TLSCERT"))
  .addOption(new Option("--tlskey <file>", "and its key").env("SHOAL_TLSKEY"))
  .addOption(
    new Option(
      "--cluster-peers <hosts>",
      "form a cluster without an init: its managers, the founder first, the same list on every host",
    ).env("SHOAL_CLUSTER_PEERS"),
  )
  .addOption(
    new Option("--cluster-secret-file <file>", "what all hosts of it share").env(
      "SHOAL_CLUSTER_SECRET_FILE",
    ),
  )
  .addOption(
    new Option("--cluster-role <role>", "auto: manager when this host is one of the peers")
      .choices(["auto", "manager", "worker"])
      .default("auto")
      .env("SHOAL_CLUSTER_ROLE"),
  )
  .action(
    async (flags: {
      dataDir: string;
      socket: string;
      engine: string;
      logLevel: string;
      advertiseAddr?: string;
      meshBackend: "auto" | BackendName;
      apiListen?: string;
      tlscacert?: string;
      tlscert?: string;
      tlskey?: string;
      clusterPeers?: string;
      clusterSecretFile?: string;
      clusterRole: FormRole;
    }) => {
      startDnsEarly(flags.dataDir);
      const { runAgent } = await import("./agent.ts");
      await runAgent(flags);
    },
  );

addClientCommands(program);

await program.parseAsync();
