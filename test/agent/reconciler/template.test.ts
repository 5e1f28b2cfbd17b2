import { describe, expect, test } from "bun:test";
import { expandTemplate, taskTemplateContext } from "../../../agent/reconciler/template.ts";
import { aSettings, aTask } from "./wanted.ts";

const node = { ...aSettings(), architecture: "x86_64", os: "linux" };
const task = aTask("t1", { serviceLabels: { tier: "db", "a.b": "dotted" } });
const context = taskTemplateContext(task, node);

describe("expandTemplate()", () => {
  test.each([
    ["plain", "plain"],
    ["{{.Service.Name}}-{{ .Task.Slot }}", "web-1"],
    ["{{.Service.ID}}/{{.Task.ID}}/{{.Task.Name}}", "service1/t1/web.1.t1"],
    ["{{.Node.ID}} {{.Node.Hostname}}", "node1 host1"],
    ["{{.Node.Platform.Architecture}} {{.Node.Platform.OS}}", "x86_64 linux"],
    ["{{.Service.Labels.tier}}", "db"],
    ['{{index .Service.Labels "a.b"}}', "dotted"],
    ['{{join "-" .Service.Name .Node.ID "x"}}', "web-node1-x"],
    ['{{"}}"}}', "}}"],
    ["a {{- .Service.Name -}} b", "awebb"],
    ["{{/* nothing */}}x", "x"],
  ])("gives %p as %p", (text, expected) => {
    expect(expandTemplate(text, context)).toBe(expected);
  });

  test.each([
    ["{{.Service.Nam}}", 'no entry for "Nam"'],
    ["{{.Service}}", "does not name a text"],
    ["{{.Service.Name", "without a closing"],
    ["{{if .Service.Name}}x{{end}}", '"if" is not supported'],
    ["{{.Service.Name | printf}}", '"|" is not supported'],
    ["{{upper .Service.Name}}", 'function "upper" is not defined'],
    ["{{}}", "is empty"],
    ["{{.constructor.name}}", 'no entry for "constructor"'],
  ])("refuses %p: %s", (text, why) => {
    expect(() => expandTemplate(text, context)).toThrow(why);
  });

  test("slots of jobs are counted from 0", () => {
    const context = taskTemplateContext({ ...task, slot: 1, jobIteration: 0 }, node);
    expect(expandTemplate("{{.Task.Slot}}", context)).toBe("0");
    expect(expandTemplate("{{.Task.Name}}", context)).toStartWith("web.0.");
  });

  test("a global task has its node's id as slot", () => {
    const context = taskTemplateContext({ ...task, slot: 0 }, node);
    expect(expandTemplate("{{.Task.Slot}}", context)).toBe("node1");
  });
});
