import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { neededContents } from "../../../../agent/stacks/compose/compose.ts";
import { NAMED_FILES_BYTES_MAX } from "../../../../agent/stacks/compose/environment.ts";
import { base64, compose, containerOf, fileOf, problemsOf } from "./compose-of.ts";

const LABELS = { "com.docker.stack.namespace": "s" };
const digest = (...parts: string[]) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex").slice(0, 10);
};

test("the name of an own secret has a digest of its data, its file has the key", () => {
  const top = "secrets:\n  a: {file: ./a, labels: [x=y]}\n";
  const contents = { "./a": base64("data") };
  const { model } = compose(fileOf("secrets: [a]", top), { contents });
  const Name = `s_a-${digest("data")}`;
  expect(model.secrets).toEqual([{ Name, Labels: { x: "y", ...LABELS }, Data: base64("data") }]);
  expect(containerOf("secrets: [a]", top, { contents }).Secrets).toEqual([
    { File: { Name: "a", UID: "0", GID: "0", Mode: 0o444 }, SecretID: "", SecretName: Name },
  ]);
  const other = compose(fileOf("secrets: [a]", top), { contents: { "./a": base64("other") } });
  expect(other.model.secrets[0]?.Name).toBe(`s_a-${digest("other")}`);
});

test("a template driver is part of the digest; a name of the user's is taken as it is", () => {
  const top =
    "configs:\n  t: {content: x, template_driver: golang}\n  n: {content: x, name: mine}\n  p: {content: x}\n";
  const { model } = compose(fileOf("", top));
  expect(model.configs).toEqual([
    { Name: "mine", Labels: LABELS, Data: base64("x") },
    { Name: `s_p-${digest("x")}`, Labels: LABELS, Data: base64("x") },
    {
      Name: `s_t-${digest("x", "\0golang")}`,
      Labels: LABELS,
      Templating: { Name: "golang" },
      Data: base64("x"),
    },
  ]);
});

test("a secret's data must not stand in the file, which is kept and shown", () => {
  expect(problemsOf(fileOf("secrets: [a]", "secrets:\n  a: {content: hush}\n")).join()).toContain(
    "a secret's data must not stand in the file",
  );
});

test("contents come of files, of texts with variables and of variables", () => {
  const top = "configs:\n  c: {content: 'a=${A}'}\nsecrets:\n  e: {environment: A}\n";
  const { model } = compose(fileOf("", top), { env: { A: "1" } });
  expect(model.configs[0]?.Data).toBe(base64("a=1"));
  expect(model.secrets[0]?.Data).toBe(base64("1"));
});

test("external ones keep their names, and are needed only if something refers to them", () => {
  const top =
    "secrets:\n  a: {external: true}\n  b: {external: {name: other}}\n  c: {external: true}\nconfigs:\n  d: {external: true, name: dd}\n";
  const lines =
    "secrets:\n  - {source: a, target: /x, uid: 5, gid: '6', mode: '0400'}\n  - b\nconfigs: [d]";
  const { model } = compose(fileOf(lines, top));
  expect(model.externals).toEqual({ networks: [], secrets: ["a", "other"], configs: ["dd"] });
  expect(model.services[0]?.TaskTemplate.ContainerSpec.Secrets).toEqual([
    { File: { Name: "/x", UID: "5", GID: "6", Mode: 0o400 }, SecretID: "", SecretName: "a" },
    { File: { Name: "b", UID: "0", GID: "0", Mode: 0o444 }, SecretID: "", SecretName: "other" },
  ]);
});

test("variables of files come before those of the file, blank ones from the caller", () => {
  const lines =
    "env_file: [one, {path: two, required: false}, {path: three, required: false}]\nenvironment: {C: own, F: }";
  const contents = {
    one: base64("# c\nA=1\n B=x \nC=1\nD\nE\n"),
    two: base64('\uFEFFA="2"\r\nG=\n'),
  };
  const env = { D: "called", F: "called", G: "called" };
  expect(containerOf(lines, "", { contents, env }).Env).toEqual([
    'A="2"',
    "B=x ",
    "C=own",
    "D=called",
    "F=called",
    "G=called",
  ]);
  expect(compose(fileOf(lines), { contents, env }).warnings[0]).toContain(
    "the quotes around the value of A are part of it",
  );
});

test.each([
  ["is not UTF-8", btoa("A=\xff"), /env_file.path is "one": the file is not text in UTF-8/],
  ["has a NUL", btoa("A=1\nB=\0"), /line 2 of it: it has a NUL/],
  ["is larger than all may be", "A".repeat(NAMED_FILES_BYTES_MAX * 2), /more than 2097152 bytes/],
])("a file of variables that %s is refused", (_what, one, problem) => {
  expect(problemsOf(fileOf("env_file: one"), { contents: { one } })[0]).toMatch(problem);
});

test("files of variables count for each service that names them", () => {
  const one = base64(`A=${"x".repeat(NAMED_FILES_BYTES_MAX / 2)}`);
  const twice = "services:\n  a: {image: x, env_file: one}\n  b: {image: x, env_file: one}\n";
  expect(problemsOf(twice, { contents: { one } })[0]).toMatch(
    /services\.b\.env_file.* with it env_file and label_file of all services have more than/,
  );
  expect(containerOf("env_file: one", "", { contents: { one } }).Env).toHaveLength(1);
});

test("labels of files come before those of the file", () => {
  const contents = { l: base64("a=1\nb=1\n") };
  expect(containerOf("label_file: l\nlabels: {b: 2}", "", { contents }).Labels).toEqual({
    a: "1",
    b: "2",
    ...LABELS,
  });
});

test("what is needed are the files of env_file, label_file, secrets and configs, each once", () => {
  const top =
    "secrets:\n  a: {file: '${DIR}/a'}\n  b: {external: true}\nconfigs:\n  c: {file: ./c}\n  d: {file: ./c}\n";
  const text = fileOf("env_file: ./e\nlabel_file: [l]\nports: [nonsense]", top);
  const files = [
    { name: "a.yml", text },
    { name: "b.yml", text: "services: {web: {env_file: [{path: f}]}}" },
  ];
  expect(neededContents({ files, env: { DIR: "/x" } })).toEqual(["./e", "f", "l", "/x/a", "./c"]);
});

test.each([
  ["secrets: {a: {file: ./no}}", 'secrets.a.file is "./no": there is no such file'],
  ["secrets: {a: {environment: NO}}", 'secrets.a.environment is "NO": there is no such variable'],
  ["secrets: {a: }", "secrets.a: the secret has no data: give it one of file"],
  ["configs: {a: {file: x, content: y}}", "configs.a: the config has both file and content"],
  ["configs: {a: {file: x, external: true}}", "configs.a: it is external, so file means nothing"],
  ["secrets: {a: {driver: x}}", "secrets.a.driver: there are no external secret drivers"],
  [`configs: {a${"b".repeat(60)}: {content: x}}`, "is longer than 64: give it a name"],
])("%s is refused", (top, problem) => {
  expect(problemsOf(fileOf("", top)).join("\n")).toContain(problem);
});
