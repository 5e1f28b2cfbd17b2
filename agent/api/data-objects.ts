/**
 * /secrets and /configs: named bytes that never change, only their labels do. They differ in what
 * is shown and how large they may be.
 *
 * Source: Docker Engine API, tags Secret and Config; SwarmKit manager/controlapi/secret.go, config.go.
 */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import { newId } from "../../core/ids.ts";
import type { Secret, SecretSpec } from "../../core/objects/secret.ts";
import type { Service } from "../../core/objects/service.ts";
import { configIdsOf, secretIdsOf } from "../../core/store/claims.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { openSecret, sealSecret } from "../vault.ts";
import { readBody } from "./body.ts";
import { type ApiContext, propose } from "./context.ts";
import {
  type Filters,
  matchesExactly,
  matchesLabels,
  matchesPrefix,
  parseFilters,
} from "./filters.ts";
import { parseVersion } from "./go-values.ts";
import { findConfig, findSecret } from "./lookup.ts";
import { controlError } from "./problem.ts";
import { type Json, renderConfig, renderSecret } from "./render.ts";
import { dataSpecSchema, type ParsedDataSpec } from "./spec-schema.ts";

/** What the two kinds differ in. */
export type DataKind = {
  kind: "secret" | "config";
  dataBytesMax: number;
  /** Stored sealed, shown to nobody. */
  isSealed: boolean;
  list(view: ClusterView): readonly Secret[];
  byName(view: ClusterView, name: string): Secret | undefined;
  find(view: ClusterView, ref: string): Secret;
  idsUsedBy(service: Service): string[];
  render(object: Secret): Json;
};

const FILTERS = ["id", "label", "name", "names"] as const;
const NAME_PATTERN = /^[a-zA-Z0-9](?:[a-zA-Z0-9\-_.]{0,62}[a-zA-Z0-9])?$/;

export function dataRoutes(context: ApiContext, of: DataKind): Hono {
  const { ports } = context;
  const { kind } = of;
  const app = new Hono();

  app.get("/", async (c) => {
    const filters = parseFilters(c.req.query("filters"), FILTERS);
    const found = await ports.read((view) => of.list(view).filter((one) => matches(one, filters)));
    return c.json(found.map((one) => of.render(one)));
  });

  app.post("/create", async (c) => {
    const spec = checkDataSpec(of, await readBody(c, dataSpecSchema));
    const name = spec.Name.toLowerCase();
    const isTaken = await ports.read((view) =>
      of.list(view).some((other) => other.spec.Name.toLowerCase() === name),
    );
    if (isTaken) throw controlError("name-conflict", `${kind} ${spec.Name} already exists`);
    const id = newId(ports.random);
    const stored = of.isSealed ? sealSecret(ports.vault, id, spec) : spec;
    await propose(context, [{ type: "create", table: kind, object: { id, spec: stored } }]);
    return c.json({ ID: id }, 201);
  });

  app.get("/:id", async (c) => {
    const found = await ports.read((view) => of.find(view, c.req.param("id")));
    return c.json(of.render(found));
  });

  app.post("/:id/update", async (c) => {
    const version = parseVersion(kind, c.req.query("version"));
    const given = await readBody(c, dataSpecSchema);
    const found = await ports.read((view) => of.find(view, c.req.param("id")));
    const isOtherData =
      given.Data !== undefined &&
      decodeBase64(given.Data).compare(
        decodeBase64(openSecret(ports.vault, found.id, found.spec).Data ?? ""),
      ) !== 0;
    if (given.Name !== found.spec.Name || isOtherData) {
      throw controlError("invalid-argument", "only updates to Labels are allowed");
    }
    const spec: SecretSpec = { ...found.spec, Labels: given.Labels };
    await propose(context, [
      { type: "update", table: kind, id: found.id, ifVersion: version, set: { spec } },
    ]);
    return c.body(null, 200);
  });

  app.delete("/:id", async (c) => {
    const found = await ports.read((view) => {
      const one = of.find(view, c.req.param("id"));
      const users = view.services().filter((service) => of.idsUsedBy(service).includes(one.id));
      if (users.length === 0) return one;
      const names = users.map((service) => service.spec.Name).join(", ");
      const noun = users.length > 1 ? "services" : "service";
      throw controlError(
        "invalid-argument",
        `${kind} '${one.spec.Name}' is in use by the following ${noun}: ${names}`,
      );
    });
    await propose(context, [{ type: "remove", table: kind, id: found.id }]);
    return c.body(null, 204);
  });
  return app;
}

function matches(one: Secret, filters: Filters): boolean {
  return (
    matchesPrefix(filters, "id", one.id) &&
    matchesPrefix(filters, "name", one.spec.Name) &&
    matchesExactly(filters, "names", one.spec.Name) &&
    matchesLabels(filters, "label", one.spec.Labels)
  );
}

function refuseDriver(name: string | undefined): never {
  if (!name) throw controlError("invalid-argument", "secret driver must have a name");
  throw controlError(
    "not-implemented",
    "external secret drivers are not supported yet: give the data itself",
  );
}

/** @throws {ClusterError} what cannot be a secret or config. */
export function checkDataSpec(of: DataKind, given: ParsedDataSpec): SecretSpec {
  if (given.Name === "") throw controlError("invalid-argument", "name must be provided");
  if (!NAME_PATTERN.test(given.Name)) {
    throw controlError(
      "invalid-argument",
      "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]",
    );
  }
  // Configs have none, in stock: what is given there means nothing.
  if (given.Driver && of.kind === "secret") refuseDriver(given.Driver.Name);
  // A template driver without a name is none.
  if (given.Templating?.Name && given.Templating.Name !== "golang") {
    throw controlError(
      "invalid-argument",
      `template driver "${given.Templating.Name}" is unknown: use golang`,
    );
  }
  const sizeBytes = decodeBase64(given.Data ?? "").length;
  if (sizeBytes === 0 || sizeBytes >= of.dataBytesMax) {
    throw controlError(
      "invalid-argument",
      `${of.kind} data must be larger than 0 and less than ${of.dataBytesMax} bytes`,
    );
  }
  return {
    Name: given.Name,
    Labels: given.Labels,
    Data: given.Data ?? "",
    ...(given.Templating?.Name ? { Templating: given.Templating } : {}),
  };
}

/** @throws {ClusterError} invalid-argument; Buffer alone would skip what is not base64. */
function decodeBase64(text: string): Buffer {
  const bare = text.replace(/[\r\n]/g, "");
  if (bare.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(bare)) {
    throw new ClusterError("invalid-argument", "invalid value for Data: illegal base64 data");
  }
  return Buffer.from(bare, "base64");
}

const SECRETS: DataKind = {
  kind: "secret",
  dataBytesMax: 512_000,
  isSealed: true,
  list: (view) => view.secrets(),
  byName: (view, name) => view.secretByName(name),
  find: findSecret,
  idsUsedBy: (service) => secretIdsOf(service.spec.TaskTemplate),
  render: renderSecret,
};

const CONFIGS: DataKind = {
  kind: "config",
  dataBytesMax: 1_024_000,
  isSealed: false,
  list: (view) => view.configs(),
  byName: (view, name) => view.configByName(name),
  find: findConfig,
  idsUsedBy: (service) => configIdsOf(service.spec.TaskTemplate),
  render: renderConfig,
};

export const DATA_KINDS = { secrets: SECRETS, configs: CONFIGS } as const;
