/** One app over fake ports, and short words to call it. */
import type { Hono } from "hono";
import { createApp } from "../../../agent/api/app.ts";
import { createFakePorts, type FakeEngine, type FakePorts, startFakeEngine } from "./fake-ports.ts";

export type Answer = { status: number; body: unknown; headers: Headers; text: string };

export type ApiLab = {
  app: Hono;
  ports: FakePorts;
  engine: FakeEngine;
  call(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<Answer>;
  /** Creates a service; its id. */
  createService(spec: Record<string, unknown>, headers?: Record<string, string>): Promise<string>;
};

export function createLab(): ApiLab {
  const engine = startFakeEngine();
  const ports = createFakePorts(engine.socketPath);
  const app = createApp(ports);
  const call: ApiLab["call"] = async (method, path, body, headers) => {
    const answer = await app.request(path, {
      method,
      ...(body === undefined
        ? {}
        : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      headers: { "content-type": "application/json", ...headers },
    });
    const text = await answer.text();
    const isJson = (answer.headers.get("content-type") ?? "").startsWith("application/json");
    const parsed: unknown = isJson ? JSON.parse(text) : text;
    return { status: answer.status, body: parsed, headers: answer.headers, text };
  };
  return {
    app,
    ports,
    engine,
    call,
    createService: async (spec, headers) => {
      const answer = await call("POST", "/services/create", serviceSpec(spec), headers);
      if (answer.status !== 201) throw new Error(answer.text);
      return field(answer.body, "ID");
    },
  };
}

/** What `docker service create` sends, with the given fields on top. */
export function serviceSpec(set: Record<string, unknown> = {}): Record<string, unknown> {
  const { container, template, ...rest } = set;
  return {
    Name: "web",
    Labels: {},
    TaskTemplate: {
      ContainerSpec: {
        Image: "busybox:latest",
        Init: false,
        DNSConfig: {},
        ...asObject(container),
      },
      Resources: { Limits: {}, Reservations: {} },
      Placement: {},
      ForceUpdate: 0,
      ...asObject(template),
    },
    Mode: { Replicated: { Replicas: 2 } },
    EndpointSpec: { Mode: "vip" },
    ...rest,
  };
}

export function asObject(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(Object.entries(value));
}

/** A text at a path of keys, or "". */
export function field(value: unknown, ...keys: (string | number)[]): string {
  const found = at(value, ...keys);
  return typeof found === "string" ? found : "";
}

export function at(value: unknown, ...keys: (string | number)[]): unknown {
  let found = value;
  for (const key of keys) {
    if (typeof found !== "object" || found === null) return undefined;
    found = new Map(Object.entries(found)).get(String(key));
  }
  return found;
}

/** Every path of keys in a value, `[]` for the items of lists; leaves of maps in `maps` are `*`. */
export function keyPaths(value: unknown, maps: readonly string[] = [], path = ""): Set<string> {
  const paths = new Set<string>();
  const add = (key: string, child: unknown) => {
    const here = `${path}.${key}`;
    paths.add(here);
    for (const deeper of keyPaths(child, maps, here)) paths.add(deeper);
  };
  if (Array.isArray(value)) {
    for (const item of value)
      for (const deeper of keyPaths(item, maps, `${path}[]`)) paths.add(deeper);
  } else if (typeof value === "object" && value !== null) {
    const isMap = maps.some((map) => path.endsWith(map));
    for (const [key, child] of Object.entries(value)) add(isMap ? "*" : key, child);
  }
  return paths;
}
