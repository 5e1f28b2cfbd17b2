/** Reads the results that `bun test --reporter=junit` writes. */

export type TestResult = {
  /** Relative to where bun ran. */
  file: string;
  /** Enclosing groups and the test's own name. */
  title: string;
  outcome: "passed" | "failed" | "skipped";
  /** Why it was skipped: from a title with "(skipped: REASON)", or the report's own message. */
  reason?: string;
  seconds: number;
};

/** The tests in the order of the report. A file that could not be loaded has none there. */
export function parseJunit(xml: string): TestResult[] {
  const results: TestResult[] = [];
  for (const match of xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const attributes = parseAttributes(match[1] ?? "");
    const inside = match[2] ?? "";
    const title = [attributes.get("classname") ?? "", attributes.get("name") ?? ""]
      .filter((part) => part !== "")
      .join(" > ");
    const skipped = /<skipped([^>]*)>/.exec(inside);
    const result: TestResult = {
      file: attributes.get("file") ?? "",
      title,
      outcome: /<(?:failure|error)[\s>]/.test(inside) ? "failed" : skipped ? "skipped" : "passed",
      seconds: Number(attributes.get("time") ?? 0),
    };
    const reason =
      /\(skipped: ([^)]*)\)/.exec(title)?.[1] ?? parseAttributes(skipped?.[1] ?? "").get("message");
    if (result.outcome === "skipped" && reason !== undefined) result.reason = reason;
    results.push(result);
  }
  return results;
}

function parseAttributes(text: string): Map<string, string> {
  const named: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  const attributes = new Map<string, string>();
  for (const [, name = "", value = ""] of text.matchAll(/([\w-]+)="([^"]*)"/g)) {
    const plain = value.replaceAll(/&(?:#(\d+)|(\w+));/g, (whole, code?: string, word?: string) =>
      code === undefined ? (named[word ?? ""] ?? whole) : String.fromCodePoint(Number(code)),
    );
    attributes.set(name, plain);
  }
  return attributes;
}
