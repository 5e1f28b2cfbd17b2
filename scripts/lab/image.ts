/**
 * The lab's container image: busybox alone, since no registry can be reached. Its web server answers
 * `/` with one line: `<hostname> client=<address it sees> task=<$TASK> version=<$LAB_VERSION>`.
 */
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { run } from "./command.ts";

export const IMAGE = "lab:latest";
/** The same with another version in its answers, for updates. */
export const IMAGE_2 = "lab:2";

// busybox's httpd gives the address of any client in brackets, that of an IPv4 one mapped into IPv6.
const ANSWER = `#!/bin/sh
address=\${REMOTE_ADDR#[::ffff:}
address=\${address#[}
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "$(hostname) client=\${address%%]*} task=$TASK version=$LAB_VERSION"
`;

// As process 1, a program without a handler never gets SIGTERM, and each stop would take 10 s.
const SERVE = `#!/bin/sh
trap 'exit 0' TERM INT
httpd -f -p "\${PORT:-80}" -h /www &
wait
`;

/** Writes the image's root file system as a tar file. Needs Debian's busybox-static. */
export async function makeImageTar(workDir: string): Promise<string> {
  const root = join(workDir, "image");
  const tarPath = join(workDir, "image.tar");
  await run(["rm", "-rf", root]);
  for (const name of ["bin", "www/cgi-bin", "tmp", "etc", "proc", "sys", "dev", "root"]) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  for (const applet of (await run(["/bin/busybox", "--list"])).split("\n")) {
    if (applet !== "busybox" && applet !== "") symlinkSync("busybox", join(root, "bin", applet));
  }
  // httpd runs index.cgi for "/" when there is no index.html.
  for (const [name, text] of [
    ["www/cgi-bin/index.cgi", ANSWER],
    ["bin/serve", SERVE],
  ] as const) {
    writeFileSync(join(root, name), text);
    chmodSync(join(root, name), 0o755);
  }
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\n");
  await run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", tarPath, "."]);
  await run(["rm", "-rf", root]);
  return tarPath;
}

/** Gives the image to one engine, under both of its names. */
export async function loadImage(engineSocket: string, tarPath: string): Promise<void> {
  const tar = readFileSync(tarPath);
  for (const [name, version] of [
    [IMAGE, "1"],
    [IMAGE_2, "2"],
  ] as const) {
    const changes = ['CMD ["/bin/serve"]', "EXPOSE 80", `ENV LAB_VERSION=${version}`];
    const flags = changes.flatMap((change) => ["--change", change]);
    const socket = ["-H", `unix://${engineSocket}`];
    await run(["docker", ...socket, "import", ...flags, "-", name], { stdin: tar });
  }
}
