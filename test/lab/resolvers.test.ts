/**
 * Names as programs ask for them: glibc's getent, a musl program (when musl-gcc is there) and busybox,
 * in containers of services, through the engine's own resolver. glibc and musl ask for A and AAAA at
 * the same time; musl before 1.2.4 cannot ask over TCP.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../scripts/lab/command.ts";
import { namespacePath } from "../../scripts/lab/fabric.ts";
import { describeLab, type Lab, waitFor } from "./lab.ts";

const HOST_RESOLVER = "192.168.77.254";
const USER_RESOLVER = "203.0.113.1";
/** More than an answer of 512 bytes holds. */
const MANY = 34;
const UDP_RECORDS = 28;
/** A resolver that lacks an answer waits for 2.5 s or 5 s, then asks again. */
const QUICK_MS = 2_000;
const TIMEOUT_MS = 60_000;

let lab: Lab;
let outside: Bun.Subprocess | undefined;
const hasMusl = Bun.which("musl-gcc") !== null;
const docker = (line: string, ...more: string[]) => lab.host(1).docker(...line.split(" "), ...more);

type Found = { code: number; tookMs: number; text: string };
type Look = (service: string, name: string) => Promise<Found>;

async function inTask(service: string, ...command: string[]): Promise<Found> {
  const id = await containerOf(service);
  const script =
    'a=$(cut -d" " -f1 /proc/uptime); out=$("$@" 2>&1); code=$?; echo "$out"; echo "$code $a $(cut -d" " -f1 /proc/uptime)"';
  const text = await lab.host(1).docker("exec", id, "sh", "-c", script, "sh", ...command);
  const lines = text.trim().split("\n");
  const [code, from, to] = (lines.pop() ?? "").split(" ").map(Number);
  return {
    code: code ?? -1,
    tookMs: Math.round(1_000 * ((to ?? 0) - (from ?? 0))),
    text: lines.join("\n"),
  };
}
const ids = new Map<string, string>();
async function containerOf(service: string): Promise<string> {
  const known = ids.get(service);
  if (known !== undefined) return known;
  const found = await waitFor(`a container of ${service}`, async () => {
    const label = `label=com.docker.swarm.service.name=${service}`;
    const listed = await lab.host(1).engine("ps", "-q", "--filter", label);
    return listed.split("\n")[0] || undefined;
  });
  ids.set(service, found);
  return found;
}

const loader = ["/tools/ld.so", "--library-path", "/tools"];
const glibc: Look = (service, name) =>
  inTask(service, ...loader, "/tools/getent", /^[\d.]+$/.test(name) ? "hosts" : "ahosts", name);
const busybox: Look = (service, name) => inTask(service, "nslookup", name);
const musl: Look = async (service, name) => {
  const found = await inTask(service, "/tools/lookup-musl", name);
  const [, code, , ...rest] = found.text.split(" ");
  return { ...found, code: Number(code), text: rest.join(" ") };
};
const resolvers: [string, Look][] = [
  ["glibc", glibc],
  ...(hasMusl ? [["musl", musl] as [string, Look]] : []),
  ["busybox", busybox],
];

/** Addresses of the overlay or the world in what was printed; not those of the resolver itself. */
function addressesIn({ text }: Found): string[] {
  const all = [...text.matchAll(/\b(?:10|192|203)(?:\.\d+){3}\b/g)].map((match) => match[0]);
  return [...new Set(all)].sort();
}

async function virtualIp(service: string): Promise<string> {
  const format = "{{(index .Endpoint.VirtualIPs 0).Addr}}";
  const text = await docker("service inspect --format", format, service);
  return text.split("/")[0] ?? "";
}

describeLab("resolvers", { hosts: 1, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    const tools = join(lab.dir, "tools");
    mkdirSync(tools);
    const libraries = (await run(["ldd", "/usr/bin/getent"])).matchAll(/(\/\S+)\/(\S+) \(0x/g);
    for (const [, folder, name = ""] of libraries) {
      copyFileSync(`${folder}/${name}`, join(tools, name.startsWith("ld-") ? "ld.so" : name));
    }
    copyFileSync("/usr/bin/getent", join(tools, "getent"));
    if (hasMusl) {
      const source = join(import.meta.dir, "resolvers/lookup.c");
      await run(["musl-gcc", "-static", "-O1", "-o", join(tools, "lookup-musl"), source]);
    }
    const router = ["nsenter", `--net=${namespacePath(lab.name, "rtr")}`];
    const program = [process.execPath, join(import.meta.dir, "resolvers/outside.ts")];
    outside = Bun.spawn([...router, ...program, HOST_RESOLVER, USER_RESOLVER], { stdout: "pipe" });

    await docker(`swarm init --advertise-addr ${lab.host(1).address}`);
    await docker("network create -d overlay shop");
    const mount = `--mount type=bind,source=${tools},target=/tools,readonly`;
    const create = (name: string, flags: string) =>
      docker(`service create --detach --name ${name} ${flags} lab:latest`, "sleep", "3600");
    await create("tool", `--network shop ${mount} --init`);
    await create(
      "chosen",
      `--network shop ${mount} --init --dns ${USER_RESOLVER} --dns-search inner.example --dns-option edns0`,
    );
    await create("db", "--init --network name=shop,alias=database");
    await create("many", `--init --network shop --replicas ${MANY}`);
    await waitFor(
      "all tasks",
      async () => {
        const states = await docker(
          "service ps --format {{.CurrentState}}",
          "tool",
          "chosen",
          "db",
          "many",
        );
        return (
          states.split("\n").filter((state) => state.startsWith("Running")).length === MANY + 3
        );
      },
      { timeoutMs: TIMEOUT_MS, intervalMs: 200 },
    );
  }, 2 * TIMEOUT_MS);
  afterAll(() => outside?.kill());

  for (const [resolver, look] of resolvers) {
    test(
      `${resolver} finds services, tasks and aliases, at once`,
      async () => {
        const vip = await virtualIp("db");
        for (const name of ["db", "database", "DB", "db.", "db.shop"]) {
          const found = await look("tool", name);
          expect([name, addressesIn(found)]).toEqual([name, [vip]]);
          expect(found.tookMs).toBeLessThan(QUICK_MS);
        }
        const inspect = "inspect --format {{.NetworkSettings.Networks.shop.IPAddress}}|{{.Name}}";
        const [address = "", name = ""] = (
          await lab.host(1).engine(...inspect.split(" "), await containerOf("db"))
        ).split("|/");
        for (const one of ["tasks.db", name]) {
          expect([one, addressesIn(await look("tool", one))]).toEqual([one, [address]]);
        }
        const back = await look("tool", address);
        expect(back.text).toContain(name);
        expect(back.tookMs).toBeLessThan(QUICK_MS);
      },
      TIMEOUT_MS,
    );

    test(
      `${resolver} gets large answers`,
      async () => {
        const found = await look("tool", "tasks.many");
        const count = addressesIn(found).length;
        // What does not fit one packet is asked for over TCP, by those that can.
        if (resolver === "glibc") expect(count).toBe(MANY);
        else expect(count).toBeGreaterThanOrEqual(UDP_RECORDS);
        expect(found.tookMs).toBeLessThan(QUICK_MS);
      },
      TIMEOUT_MS,
    );

    test(
      `${resolver} is told at once of names that nobody has, and of those of the world`,
      async () => {
        for (const name of ["nothing", "tasks.nothing", "nothing.shop"]) {
          const found = await look("tool", name);
          expect([name, addressesIn(found)]).toEqual([name, []]);
          expect(found.code).not.toBe(0);
          expect(found.tookMs).toBeLessThan(QUICK_MS);
        }
        expect(addressesIn(await look("tool", "web.example"))).toEqual([HOST_RESOLVER]);
      },
      TIMEOUT_MS,
    );

    test(
      `${resolver} finds the cluster's names, and others by the servers and domain that a user chose`,
      async () => {
        const name = resolver === "busybox" ? "db." : "db";
        expect(addressesIn(await look("chosen", name))).toEqual([await virtualIp("db")]);
        expect(addressesIn(await look("chosen", "web.example"))).toEqual([USER_RESOLVER]);
        // musl does not search with ndots:0, which the engine sets; nslookup searches before it asks.
        if (resolver === "glibc") {
          expect(addressesIn(await look("chosen", "search"))).toEqual([USER_RESOLVER]);
        }
        const many = addressesIn(await look("chosen", "tasks.many")).length;
        // With EDNS one packet is enough; the engine's resolver asks for it only if the program does.
        expect(many).toBeGreaterThanOrEqual(resolver === "glibc" ? MANY : UDP_RECORDS);
      },
      TIMEOUT_MS,
    );
  }

  test(
    "busybox's wget reaches a service by its name",
    async () => {
      const unknown = await inTask("tool", "wget", "-O-", "http://nothing/");
      expect(unknown.text).toContain("bad address");
      expect(unknown.tookMs).toBeLessThan(QUICK_MS);
      await inTask("tool", "httpd", "-p", "8099", "-h", "/www");
      await waitFor("an answer", async () => {
        const { text } = await inTask("tool", "timeout", "3", "wget", "-qO-", "http://tool:8099/");
        return text.includes("client=");
      });
    },
    TIMEOUT_MS,
  );
});
