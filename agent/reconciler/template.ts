/**
 * The templates of Docker's service specs: `{{.Service.Name}}` and the like in environment values,
 * hostname, mounts and (with functions) in secret and config payloads. A small evaluator of the part
 * of Go's text/template that Swarm documents: field paths, the functions `join`, `secret`, `config`,
 * `env`, `index` over labels, and quoted strings. Conditions, loops, pipes and variables are refused by name.
 *
 * Source: SwarmKit template/context.go, template/expand.go (option missingkey=error).
 */
import { ClusterError } from "../../core/errors.ts";
import type { NodeSettings } from "../../core/dispatcher/assignment.ts";
import { shownSlot, type Task, taskName } from "../../core/objects/task.ts";

type Value = string | { [key: string]: Value };

/** What a template may name. */
export type TemplateContext = {
  fields: { [key: string]: Value };
  /** Functions beyond `join` and `index`, by name; they get evaluated arguments. */
  functions?: Record<string, (args: string[]) => string>;
};

/** The context of a task on this node. Source: SwarmKit template/context.go NewContext. */
export function taskTemplateContext(
  task: Task,
  node: Pick<NodeSettings, "nodeId" | "hostname"> & { architecture: string; os: string },
): TemplateContext {
  return {
    fields: {
      Service: { ID: task.serviceId, Name: task.serviceName, Labels: { ...task.serviceLabels } },
      Node: {
        ID: node.nodeId,
        Hostname: node.hostname,
        Platform: { Architecture: node.architecture, OS: node.os },
      },
      Task: {
        ID: task.id,
        Name: taskName(task),
        // As Swarm: tasks of global services have the node's id in place of a slot.
        Slot: String(shownSlot(task) ?? node.nodeId),
      },
    },
  };
}

/**
 * The text with every `{{…}}` evaluated; text without any is returned as it is.
 * @throws {ClusterError} invalid-argument when a template cannot be parsed or names what is not there.
 */
export function expandTemplate(text: string, context: TemplateContext): string {
  let result = "";
  let position = 0;
  while (true) {
    const open = text.indexOf("{{", position);
    if (open < 0) return result + text.slice(position);
    const close = findClose(text, open + 2);
    let before = text.slice(position, open);
    let body = text.slice(open + 2, close);
    position = close + 2;
    // `{{- x -}}` trims the white space next to it, as in Go.
    if (/^-\s/.test(body)) {
      before = before.trimEnd();
      body = body.slice(1);
    }
    if (/\s-$/.test(body)) {
      body = body.slice(0, -1);
      position += text.slice(position).length - text.slice(position).trimStart().length;
    }
    result += before + evaluateAction(body.trim(), context);
  }
}

function findClose(text: string, from: number): number {
  let quote = "";
  for (let i = from; i < text.length; i++) {
    const char = text[i] ?? "";
    if (quote) {
      if (char === "\\" && quote === '"') i++;
      else if (char === quote) quote = "";
    } else if (char === '"' || char === "`") quote = char;
    else if (char === "}" && text[i + 1] === "}") return i;
  }
  throw invalid(text, "it has an opening {{ without a closing }}");
}

function evaluateAction(body: string, context: TemplateContext): string {
  if (body.startsWith("/*")) return "";
  const words = splitWords(body);
  const [head, ...rest] = words;
  if (head === undefined) throw invalid(body, "it is empty");
  if (/^(if|else|end|range|with|define|template|block)$/.test(head) || words.includes("|")) {
    throw invalid(body, `"${words.includes("|") ? "|" : head}" is not supported`);
  }
  const value = isOperand(head)
    ? evaluateOperand(head, context, body)
    : callFunction(head, rest, context, body);
  if (isOperand(head) && rest.length > 0) throw invalid(body, `"${head}" takes no argument`);
  if (typeof value !== "string") throw invalid(body, "it does not name a text");
  return value;
}

function isOperand(word: string): boolean {
  return word.startsWith(".") || word.startsWith('"') || word.startsWith("`");
}

function splitWords(body: string): string[] {
  return body.match(/"(?:\\.|[^"\\])*"|`[^`]*`|\||[^\s|]+/g) ?? [];
}

function evaluateOperand(word: string, context: TemplateContext, body: string): Value {
  if (word.startsWith("`")) return word.slice(1, -1);
  if (word.startsWith('"')) {
    try {
      return String(JSON.parse(word));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw invalid(body, `${word} is not a valid string`);
    }
  }
  let value: Value = context.fields;
  for (const name of word.split(".").slice(1)) {
    value = fieldOf(value, name, body);
  }
  return value;
}

function fieldOf(value: Value, name: string, body: string): Value {
  if (typeof value === "string" || !Object.hasOwn(value, name)) {
    throw invalid(body, `it has no entry for "${name}"`);
  }
  const field = value[name];
  if (field === undefined) throw invalid(body, `it has no entry for "${name}"`);
  return field;
}

function callFunction(
  name: string,
  words: string[],
  context: TemplateContext,
  body: string,
): string {
  for (const word of words) {
    if (!isOperand(word)) throw invalid(body, `"${word}" is not a field or a string`);
  }
  const values = words.map((word) => evaluateOperand(word, context, body));
  if (name === "index") {
    const found = values.slice(1).reduce<Value>((value, key) => {
      if (typeof key !== "string") throw invalid(body, "an index must be a text");
      // As in Go: a map's missing entry is the empty text here, unlike in a path of fields.
      if (typeof value !== "string" && !Object.hasOwn(value, key)) return "";
      return fieldOf(value, key, body);
    }, values[0] ?? "");
    if (typeof found !== "string") throw invalid(body, "it does not name a text");
    return found;
  }
  const args = values.map((value) => {
    if (typeof value !== "string") throw invalid(body, "an argument does not name a text");
    return value;
  });
  if (name === "join") return args.slice(1).join(args[0] ?? "");
  const custom = context.functions?.[name];
  if (!custom) throw invalid(body, `function "${name}" is not defined`);
  return custom(args);
}

function invalid(template: string, why: string): ClusterError {
  return new ClusterError(
    "invalid-argument",
    `Cannot expand template "${template}": ${why}; use fields such as .Service.Name, .Node.Hostname, .Task.Slot`,
  );
}
