/**
 * User-Mode Linux: a real Linux kernel as a process, for what this machine's own kernel may lack
 * (IPVS). It boots in seconds on this machine's own file system (`hostfs`), so that every tool and
 * this checkout are there; its `/run` (with TMPDIR in it) and network are its own. Debian package user-mode-linux.
 *
 *   bun scripts/uml.ts COMMAND…    runs it inside, for a look by hand
 *
 * Traps: the kernel's command line takes no spaces or quotes, so what is to be run goes by a file;
 * modules are in the package's own directory (`uml-init.sh` tells the kernel where); it has one
 * processor, and nf_tables without the families ip and inet: iptables is the legacy variant there.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const KERNEL = "linux.uml";
const MODULES = "/usr/lib/uml/modules";
/** Memory of the guest; a file of this size, mostly empty, in TMPDIR. */
const MEMORY = "1500M";
/** Its memory file must be in memory, and executable: not every /tmp is. */
const MEMORY_DIR = "/dev/shm";
const DONE = "UML DONE";

export type UmlOptions = {
  argv: string[];
  timeoutMs: number;
  cwd?: string;
  env?: Record<string, string>;
};
export type UmlResult = {
  code: number | undefined;
  output: string;
  /** What the command left in the directory `$UML_OUT`, by name. */
  read(name: string): string | undefined;
  remove(): void;
};

/** Why no User-Mode Linux can run here; undefined when it can. */
export function umlObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!Bun.which(KERNEL) || !existsSync(MODULES))
    return "needs user-mode-linux: run scripts/setup.sh";
  if (!existsSync(MEMORY_DIR)) return `needs ${MEMORY_DIR}`;
  return undefined;
}

/** Boots, runs the command, powers off. The result's `code` is undefined when it did not come to its end. */
export async function runInUml(options: UmlOptions): Promise<UmlResult> {
  const dir = mkdtempSync("/var/tmp/shoal-uml-");
  const memoryDir = mkdtempSync(join(MEMORY_DIR, "shoal-uml-"));
  mkdirSync(join(dir, "out"));
  const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const lines = [
    `cd ${quote(options.cwd ?? process.cwd())}`,
    `export UML_OUT=${quote(join(dir, "out"))}`,
    ...Object.entries(options.env ?? {}).map(([key, value]) => `export ${key}=${quote(value)}`),
    options.argv.map(quote).join(" "),
    `echo $? > ${quote(join(dir, "code"))}`,
  ];
  writeFileSync(join(dir, "payload.sh"), `${lines.join("\n")}\n`);
  const child = Bun.spawn(
    [
      KERNEL,
      `mem=${MEMORY}`,
      "root=/dev/root",
      "rootfstype=hostfs",
      "rootflags=/",
      "rw",
      "quiet",
      "con=null",
      "con0=null,fd:1",
      `umid=shoal${process.pid}-${performance.now().toFixed(0)}`,
      `init=${join(import.meta.dir, "uml-init.sh")}`,
      `PAYLOAD=${join(dir, "payload.sh")}`,
    ],
    {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "ignore",
      env: { ...process.env, TMPDIR: memoryDir, HOME: memoryDir },
      timeout: options.timeoutMs,
      killSignal: "SIGKILL",
    },
  );
  const output = await new Response(child.stdout).text();
  await child.exited;
  rmSync(memoryDir, { recursive: true, force: true });
  const read = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : undefined);
  const code = read(join(dir, "code"));
  return {
    code: code === undefined ? undefined : Number(code),
    output: output.replaceAll("\r", "").split(DONE)[0] ?? "",
    read: (name) => read(join(dir, "out", name)),
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}

if (import.meta.main) {
  const obstacle = umlObstacle();
  if (obstacle !== undefined) {
    console.error(`uml: ${obstacle}`);
    process.exit(2);
  }
  const result = await runInUml({ argv: process.argv.slice(2), timeoutMs: 600_000 });
  console.log(result.output);
  result.remove();
  process.exit(result.code ?? 1);
}
