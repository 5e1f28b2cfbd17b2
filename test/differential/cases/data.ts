/** `docker secret`, `docker config`, /secrets and /configs: the same cases for both. */
import {
  type Case,
  create,
  del,
  filters,
  get,
  http,
  post,
  setup,
  sh,
  type Step,
  table,
} from "../case.ts";

const DATA = "aGVsbG8=";

function casesOf(kind: "secret" | "config"): Case[] {
  const make = (name: unknown, set: Record<string, unknown> = {}): Step =>
    post(`/${kind}s/create`, { Name: name, Data: DATA, ...set });
  const made = (name = "x", labels = ""): Step =>
    setup(`printf hello | docker ${kind} create ${labels} ${name} -`, { save: "it" });
  const version = get(`/${kind}s/x`, { save: "v", pick: "Version.Index", setup: true });
  const list = (given: unknown): Step => get(`/${kind}s?${filters(given)}`);
  const usedBy =
    kind === "secret"
      ? create("--name user --replicas 0 --secret x")
      : create("--name user --replicas 0 --config x");
  return [
    ...table(`${kind}/cli`, {
      "create from stdin": [
        sh(`printf hello | docker ${kind} create x -`, { save: "it" }),
        sh(`docker ${kind} ls`),
        sh(`docker ${kind} inspect x`),
      ],
      "create from a file": [
        sh(`echo a > f; docker ${kind} create -l a=b -l c x f`, { save: "it" }),
        sh(`docker ${kind} inspect x`),
      ],
      "create with a template driver": [
        sh(`printf hello | docker ${kind} create --template-driver golang x -`, { save: "it" }),
        sh(`docker ${kind} inspect x`),
      ],
      "create with an unknown template driver": `printf hello | docker ${kind} create --template-driver nosuch x -`,
      "create of nothing": `printf '' | docker ${kind} create x -`,
      "create without a file": `docker ${kind} create x nosuchfile`,
      "create without arguments": `docker ${kind} create`,
      "create twice": [made(), sh(`printf hello | docker ${kind} create x -`)],
      "create with a bad name": [
        sh(`printf hello | docker ${kind} create 'a b' -`),
        sh(`printf hello | docker ${kind} create -- -x -`),
        sh(`printf hello | docker ${kind} create x. -`),
        sh(`printf hello | docker ${kind} create ${"x".repeat(65)} -`),
      ],
      "create with a name of 64": `printf hello | docker ${kind} create ${"x".repeat(64)} - | wc -c`,
      "create with a dotted name": `printf hello | docker ${kind} create a.b-c_d - | wc -c`,
      "create too large": `head -c 1100000 /dev/zero | docker ${kind} create x -`,
      "create of the largest": `head -c ${kind === "secret" ? 511_999 : 1_023_999} /dev/zero | docker ${kind} create x - | wc -c`,
      "create of one more": `head -c ${kind === "secret" ? 512_000 : 1_024_000} /dev/zero | docker ${kind} create x -`,
      ls: [
        made("x", "-l a=b"),
        made("y"),
        sh(`docker ${kind} ls -q | wc -l`),
        sh(`docker ${kind} ls --format '{{.Name}} {{.Labels}}'`),
        sh(`docker ${kind} ls --format '{{json .}}'`),
        sh(`docker ${kind} ls --format 'table {{.Name}}'`),
        sh(`docker ${kind} ls --filter name=x --format '{{.Name}}'`),
        sh(`docker ${kind} ls --filter label=a --format '{{.Name}}'`),
        sh(`docker ${kind} ls --filter label=a=c --format '{{.Name}}'`),
        sh(`docker ${kind} ls --filter id=$it --format '{{.Name}}'`),
        sh(`docker ${kind} ls --filter nosuch=x`),
      ],
      "ls of none": `docker ${kind} ls`,
      inspect: [
        made(),
        sh(`docker ${kind} inspect $it`),
        sh(`docker ${kind} inspect --pretty x`),
        sh(`docker ${kind} inspect -f '{{.Spec.Name}}' x`),
        sh(`docker ${kind} inspect x nosuch`),
        sh(`docker ${kind} inspect --pretty -f x x`),
      ],
      "inspect of none": [sh(`docker ${kind} inspect nosuch`), sh(`docker ${kind} inspect`)],
      rm: [made("x"), made("y"), sh(`docker ${kind} rm x y`), sh(`docker ${kind} ls -q`)],
      "rm of none": [made(), sh(`docker ${kind} rm nosuch x`), sh(`docker ${kind} rm`)],
      "rm of one in use": [
        made(),
        setup(usedBy),
        sh(`docker ${kind} rm x`),
        setup("docker service rm user"),
        sh(`docker ${kind} rm x`),
      ],
      "no such command": `docker ${kind} update x`,
    }),
    ...table(`${kind}/api`, {
      "create and inspect": [
        post(`/${kind}s/create`, { Name: "x", Data: DATA, Labels: { a: "b" } }, { save: "it" }),
        get(`/${kind}s/$it`),
        get(`/${kind}s/x`),
        get(`/${kind}s`),
      ],
      "create without labels": [make("x", { Labels: null }), get(`/${kind}s/x`)],
      "create with templating": [
        make("x", { Templating: { Name: "golang", Options: { a: "b" } } }),
        get(`/${kind}s/x`),
      ],
      "create with no templating": [make("x", { Templating: { Name: "" } }), get(`/${kind}s/x`)],
      "create without body": [http("POST", `/${kind}s/create`, "")],
      "create of an empty object": [post(`/${kind}s/create`, {})],
      "create without data": [post(`/${kind}s/create`, { Name: "x" })],
      "create with empty data": [make("x", { Data: "" })],
      "create with data that is no base64": [make("x", { Data: "%%%" })],
      "create with data as list": [make("x", { Data: [1, 2] })],
      "create with urlsafe base64": [make("x", { Data: "_-8=" })],
      "create without padding": [make("x", { Data: "aGVsbG8" })],
      "create with a number as name": [make(5)],
      "create with an empty name": [make("")],
      "create with a slash in the name": [make("a/b")],
      "create twice": [make("x"), make("x")],
      "create in another case": [make("x"), make("X")],
      "create with an unknown field": [make("x", { Nosuch: 1 }), get(`/${kind}s/x`)],
      "update of labels": [
        made(),
        version,
        post(`/${kind}s/x/update?version=$v`, { Name: "x", Labels: { a: "b" } }),
        get(`/${kind}s/x`),
      ],
      "update with the same data": [
        made(),
        version,
        post(`/${kind}s/x/update?version=$v`, { Name: "x", Data: DATA, Labels: { c: "d" } }),
        get(`/${kind}s/x`),
      ],
      "update of data": [
        made(),
        version,
        post(`/${kind}s/x/update?version=$v`, { Name: "x", Data: "eA==" }),
      ],
      "update of the name": [made(), version, post(`/${kind}s/x/update?version=$v`, { Name: "y" })],
      "update without name": [
        made(),
        version,
        post(`/${kind}s/x/update?version=$v`, { Labels: {} }),
      ],
      "update out of sequence": [
        made(),
        post(`/${kind}s/x/update?version=1`, { Name: "x", Labels: {} }),
      ],
      "update with a bad version": [
        made(),
        post(`/${kind}s/x/update?version=x`, { Name: "x" }),
        post(`/${kind}s/x/update`, { Name: "x" }),
      ],
      "update of none": [post(`/${kind}s/nosuch/update?version=1`, { Name: "x" })],
      "update without body": [made(), http("POST", `/${kind}s/x/update?version=1`, "")],
      filters: [
        make("x", { Labels: { a: "b" } }),
        make("xy"),
        ...[
          { name: ["x"] },
          { names: ["x"] },
          { names: ["nosuch"] },
          { name: { xy: true } },
          { label: ["a"] },
          { label: ["a=b"] },
          { label: { "a=b": true } },
          { id: ["nosuch"] },
          { nosuch: ["x"] },
          {},
        ].map(list),
        get(`/${kind}s?filters=nonsense`),
      ],
      delete: [make("x"), del(`/${kind}s/x`), del(`/${kind}s/x`)],
      "delete by prefix of the id": [made(), get(`/${kind}s/$it`), del(`/${kind}s/$it`)],
    }),
  ];
}

export const DATA_CASES: readonly Case[] = [...casesOf("secret"), ...casesOf("config")];
