/** The client verbs of the binary: status, why, net doctor, vault, backup, …; each is loaded when used. */
import { type Command, Option } from "commander";
import { DEFAULT_SOCKET, orExit } from "./socket.ts";
import type { FileFlags, RollbackFlags, WaitFlags } from "./stack.ts";

const WITH_REGISTRY_AUTH = [
  "--with-registry-auth",
  "give the nodes the credentials of docker login",
] as const;

/** Adds them to the program. */
export function addClientCommands(program: Command): void {
  program
    .command("status")
    .description("this node and its cluster, as JSON")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((flags: { socket: string }) =>
      orExit(async () => {
        const { printStatus } = await import("./status.ts");
        await printStatus(flags.socket);
      }),
    );

  program
    .command("why")
    .description("why a service or a task does not run: node by node, and its last failures")
    .argument("<service or task>", "name, id or prefix of an id")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((ref: string, flags: { socket: string }) =>
      orExit(async () => {
        const { printWhy } = await import("./why.ts");
        await printWhy(ref, flags.socket);
      }),
    );

  const net = program.command("net").description("the cluster's network");
  net
    .command("ask", { hidden: true })
    .argument("<server>")
    .argument("<name>")
    .argument("<timeout in ms>")
    .action(async (server: string, name: string, timeoutMs: string) => {
      const { printAsked } = await import("./net.ts");
      await printAsked(server, name, Number(timeoutMs));
    });
  net
    .command("doctor")
    .description("look at the network of every node: what is wrong, and what to do (exit code 1)")
    .option("--node <node>", "one node only: name, id or prefix of an id")
    .option("--json", "the report as JSON")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((flags: { node?: string; json?: boolean; socket: string }) =>
      orExit(async () => {
        const { runDoctor } = await import("./net.ts");
        await runDoctor(flags);
      }),
    );

  program
    .command("vault")
    .description("the keys by which secrets are sealed at rest")
    .command("rotate")
    .description("replace the key, and seal everything anew; run it on a manager")
    .option("--detach", "do not wait for the end")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((flags: { detach?: boolean; socket: string }) =>
      orExit(async () => {
        const { rotateVault } = await import("./vault.ts");
        await rotateVault(flags);
      }),
    );

  program
    .command("api-certs")
    .description("certificates for the API over TLS (shoal agent --api-listen), of a CA of its own")
    .argument("<dir>", "where the CA is, or is made: keep it to yourself")
    .option("--host <name...>", "a server's, with the names and addresses by which clients call it")
    .option("--client <name>", "a user's")
    .option("--days <number>", "how long they hold", "365")
    .action((dir: string, flags: { host?: string[]; client?: string; days: string }) =>
      orExit(async () => {
        const { makeApiCertificates } = await import("./api-certs.ts");
        await makeApiCertificates(dir, flags);
      }),
    );

  program
    .command("backup")
    .description("write the whole cluster into one file; run it on a manager")
    .option(
      "--output <file>",
      "where to; - is standard output (default: named by cluster and time)",
    )
    .option(
      "--passphrase-file <file>",
      "encrypt it; the first line of the file is the passphrase (default: of a locked cluster, its unlock key)",
    )
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((flags: { output?: string; passphraseFile?: string; socket: string }) =>
      orExit(async () => {
        const { runBackup } = await import("./backup.ts");
        await runBackup(flags);
      }),
    );

  program
    .command("restore")
    .description("make this node, which is in no cluster, the only manager of a backup's cluster")
    .argument("<file>", "what shoal backup wrote; - is standard input")
    .option(
      "--passphrase-file <file>",
      "of an encrypted backup; of a locked cluster: its unlock key",
    )
    .option("--advertise-addr <address>", "as of docker swarm init")
    .option("--listen-addr <address>", "as of docker swarm init")
    .option("--data-path-addr <address>", "as of docker swarm init")
    .option("--availability <kind>", "active, pause, drain", "active")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action(
      (
        file: string,
        flags: {
          passphraseFile?: string;
          advertiseAddr?: string;
          listenAddr?: string;
          dataPathAddr?: string;
          availability: string;
          socket: string;
        },
      ) =>
        orExit(async () => {
          const { runRestore } = await import("./restore.ts");
          await runRestore(file, flags);
        }),
    );

  addStackCommands(program);
  addSlotCommands(program);
}

function addSlotCommands(program: Command): void {
  const slots = program.command("slots").description("the slots of a stateful service");
  slots
    .command("ls")
    .description("where each lives, and its addresses")
    .argument("<service>")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((service: string, flags: { socket: string }) =>
      orExit(async () => {
        const { listSlots } = await import("./slots.ts");
        await listSlots(service, flags.socket);
      }),
    );
  slots
    .command("move")
    .description("give a slot another home; its volumes are not moved")
    .argument("<service>")
    .argument("<slot>", "its number")
    .option("--node <node>", "name or id (default: the scheduler chooses)")
    .option("--force", "also to a node that cannot take it now: the slot waits there")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action(
      (service: string, slot: string, flags: { node?: string; force?: boolean; socket: string }) =>
        orExit(async () => {
          const { moveSlot } = await import("./slots.ts");
          await moveSlot(service, slot, flags);
        }),
    );
  slots
    .command("forget")
    .description("forget home and addresses of a slot that the service was scaled below")
    .argument("<service>")
    .argument("<slot>", "its number")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((service: string, slot: string, flags: { socket: string }) =>
      orExit(async () => {
        const { forgetSlot } = await import("./slots.ts");
        await forgetSlot(service, slot, flags.socket);
      }),
    );
}

function addStackCommands(program: Command): void {
  const stack = program
    .command("stack")
    .description("stacks as objects of the cluster: compose files with plan, revisions, rollback");
  const withFiles = (command: Command) =>
    command
      .requiredOption("-c, --compose-file <path...>", "compose files; - is standard input")
      .option("--env-file <path>", "variables of the files (default: .env beside the first one)")
      .option("--no-prune", "leave services that the files lack")
      .addOption(
        new Option("--resolve-image <when>", "ask the registries for the images' digests")
          .choices(["always", "changed", "never"])
          .default("always"),
      )
      .option(...WITH_REGISTRY_AUTH)
      .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET);
  const withWait = (command: Command) =>
    command
      .option("-d, --detach", "do not wait until it runs")
      .option("--timeout <seconds>", "wait so long", "600");

  withFiles(stack.command("plan").description("what a deployment would change; changes nothing"))
    .argument("<name>")
    .option("--json", "as JSON")
    .action((name: string, flags: FileFlags & { json?: boolean }) =>
      orExit(async () => {
        const { planDeployment } = await import("./stack.ts");
        await planDeployment(name, flags);
      }),
    );
  withWait(withFiles(stack.command("deploy").description("make it so, and wait until it runs")))
    .argument("<name>")
    .option("--token <token>", "of a plan: do what it says, or nothing")
    .action((name: string, flags: FileFlags & WaitFlags & { token?: string }) =>
      orExit(async () => {
        const { deployStack } = await import("./stack.ts");
        await deployStack(name, flags);
      }),
    );
  withWait(stack.command("rollback").description("back to an earlier revision, as a new one"))
    .argument("<name>")
    .option("--revision <number>", "which one (default: the last that differs)")
    .option("--plan", "only say what it would change")
    .option(...WITH_REGISTRY_AUTH)
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((name: string, flags: WaitFlags & RollbackFlags) =>
      orExit(async () => {
        const { rollBackStack } = await import("./stack.ts");
        await rollBackStack(name, flags);
      }),
    );
  stack
    .command("ls")
    .description("all stacks")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((flags: { socket: string }) =>
      orExit(async () => {
        const { listStacks } = await import("./stack.ts");
        await listStacks(flags.socket);
      }),
    );
  stack
    .command("show")
    .description("services, states and revisions of a stack")
    .argument("<name>")
    .option("--files", "the compose files as they were given")
    .option("--revision <number>", "whose files")
    .option("--json", "as JSON")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action(
      (
        name: string,
        flags: { json?: boolean; files?: boolean; revision?: string; socket: string },
      ) =>
        orExit(async () => {
          const { showStack } = await import("./stack.ts");
          await showStack(name, flags);
        }),
    );
  stack
    .command("rm")
    .description("remove a stack and all that is its")
    .argument("<name>")
    .option("--socket <path>", "shoal's socket", DEFAULT_SOCKET)
    .action((name: string, flags: { socket: string }) =>
      orExit(async () => {
        const { removeStack } = await import("./stack.ts");
        await removeStack(name, flags.socket);
      }),
    );
}
