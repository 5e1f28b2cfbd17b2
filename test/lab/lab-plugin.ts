/**
 * A plugin for the engine, of what every Debian has: Perl, which listens on the plugin's socket. The
 * engine asks no more of a plugin than that somebody does.
 */
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const SERVE = `
use Socket;
$SIG{TERM} = sub { exit 0 };
my $path = "/run/docker/plugins/lab.sock";
unlink $path;
socket(my $server, PF_UNIX, SOCK_STREAM, 0) or die;
bind($server, sockaddr_un($path)) or die;
listen($server, 5) or die;
while (accept(my $client, $server)) { close $client; }
`;

/** Writes it below `dir`, for \`docker plugin create\`; `version` is the default of its variable VERSION. */
export function writePlugin(dir: string, version: string): void {
  const root = join(dir, "rootfs");
  const listed = Bun.spawnSync(["ldd", "/usr/bin/perl"]).stdout.toString();
  const libraries = [...listed.matchAll(/\/\S+/g)].map(([path]) => path);
  const modules = Bun.spawnSync(["perl", "-e", 'print join "\\n", grep { m{/perl-base$} } @INC']);
  for (const path of ["/usr/bin/perl", ...libraries, modules.stdout.toString().trim()]) {
    const target = join(root, path);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(path, target, { recursive: true, dereference: true });
  }
  mkdirSync(join(root, "run/docker/plugins"), { recursive: true });
  writeFileSync(join(root, "serve.pl"), SERVE);
  const variable = (name: string, value: string) => ({
    name,
    description: "",
    settable: ["value"],
    value,
  });
  const config = {
    description: "lab",
    entrypoint: ["/usr/bin/perl", "/serve.pl"],
    workdir: "/",
    interface: { types: ["docker.volumedriver/1.0"], socket: "lab.sock" },
    network: { type: "host" },
    env: [variable("COLOUR", "none"), variable("VERSION", version)],
    linux: { capabilities: ["CAP_NET_ADMIN"] },
  };
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
}
