/** Compose texts as models, for the tests of this folder. */
import { composeToModel } from "../../../../agent/stacks/compose/compose.ts";
import type { ComposeInput, ComposeResult } from "../../../../agent/stacks/compose/model.ts";
import { ClusterError } from "../../../../core/errors.ts";
import type { ServiceSpec } from "../../../../core/objects/service.ts";
import type { ContainerSpec } from "../../../../core/objects/task.ts";

type Options = Partial<Pick<ComposeInput, "env" | "contents">>;

/** Files are named a.yml, b.yml, … */
export function compose(texts: string | string[], options: Options = {}): ComposeResult {
  const files = [texts].flat().map((text, i) => ({ name: `${"abcdef"[i]}.yml`, text }));
  return composeToModel({ stack: "s", files, env: {}, contents: {}, ...options });
}

/** The refusal's lines. */
export function problemsOf(texts: string | string[], options: Options = {}): string[] {
  try {
    compose(texts, options);
  } catch (error) {
    if (error instanceof ClusterError && error.code === "invalid-argument") {
      return error.message.split("\n");
    }
    throw error;
  }
  return [];
}

/** Of a service with the lines given, beside its image; `top` is what stands beside `services`. */
export function fileOf(lines: string, top = ""): string {
  const indented = lines.replaceAll("\n", "\n    ");
  return `services:\n  web:\n    image: nginx\n    ${indented}\n${top}`;
}

export function serviceOf(lines: string, top = "", options: Options = {}): ServiceSpec {
  const spec = compose(fileOf(lines, top), options).model.services.find(
    ({ Name }) => Name === "s_web",
  );
  if (!spec) throw new Error("There is no service web");
  return spec;
}

export function containerOf(lines: string, top = "", options: Options = {}): ContainerSpec {
  return serviceOf(lines, top, options).TaskTemplate.ContainerSpec;
}

export function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
