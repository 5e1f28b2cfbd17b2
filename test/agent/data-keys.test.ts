import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { openSigningCa, openTokens, sealFounding } from "../../agent/cluster-secrets.ts";
import {
  planActivation,
  planPossession,
  planReseal,
  planRotation,
  vaultStatus,
} from "../../agent/data-keys.ts";
import {
  openRegistryAuth,
  openSecret,
  openVault,
  sealRegistryAuth,
  sealSecret,
  type Vault,
} from "../../agent/vault.ts";
import { ClusterError } from "../../core/errors.ts";
import type { ServiceSpec } from "../../core/objects/service.ts";
import type { StoreAction } from "../../core/store/action.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import {
  applyOrThrow,
  clusterDraft,
  create,
  nodeDraft,
  secretDraft,
  serviceDraft,
  taskDraft,
} from "../core/store/objects.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
const fail = (error: ClusterError) => {
  throw error;
};

const MANAGERS = [0, 1, 2] as const;
type Name = (typeof MANAGERS)[number];

/** Three managers over one state, each with its own file of keys. */
function cluster() {
  const rows = createMemoryRows();
  const apply = (actions: StoreAction[]) => {
    if (actions.length > 0) applyOrThrow(rows, ...actions);
  };
  const homes = MANAGERS.map(() => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-keys-"));
    dirs.push(dir);
    return dir;
  });
  const vaults: Vault[] = homes.map((dir) => openVault(dir));
  const isUp = [true, true, true];
  const vaultOf = (name: Name): Vault => vaults[name]!;
  vaultOf(0).make(1);
  for (const name of [1, 2] as const) vaultOf(name).learn(vaultOf(0).keys());
  const founding = { id: "p", atMs: 0, mode: "all" as const, actions: [] };
  apply(
    sealFounding(vaultOf(0), { ...founding, actions: [create("cluster", clusterDraft())] }).actions,
  );
  apply(
    MANAGERS.map((name) =>
      create("node", nodeDraft(`m${name}`, name + 1, { role: "manager", managerAddr: `m${name}` })),
    ),
  );
  let count = 0;
  const follow = () => {
    for (const name of MANAGERS) vaultOf(name).follow(rows.cluster()?.dataKeys);
  };
  const steps = {
    rotate: (name: Name) => {
      apply(planRotation(rows.cluster()!, vaultOf(name).prepare(++count)));
    },
    learn: (name: Name) => {
      if (!vaultOf(name).isWanting()) return;
      for (const other of MANAGERS) {
        if (isUp[other]) vaultOf(name).learn(vaultOf(other).keys());
      }
    },
    say: (name: Name) => apply(planPossession(rows, vaultOf(name), `m${name}`)),
    activate: () => apply(planActivation(rows)),
    reseal: (name: Name) => apply(planReseal(rows, vaultOf(name), () => {}, 2)),
    makeSecret: (name: Name) => {
      const id = `s${++count}`;
      const draft = secretDraft(id);
      const Data = Buffer.from(id).toString("base64");
      const spec = sealSecret(vaultOf(name), id, { ...draft.spec, Data });
      apply([create("secret", { ...draft, spec })]);
    },
    stop: (name: Name) => {
      isUp[name] = false;
      const status = { state: "down" as const, message: "", addr: "" };
      apply([{ type: "update", table: "node", id: `m${name}`, set: { status } }]);
    },
    start: (name: Name) => {
      isUp[name] = true;
      vaults[name] = openVault(homes[name]!);
      const status = { state: "ready" as const, message: "", addr: "" };
      apply([{ type: "update", table: "node", id: `m${name}`, set: { status } }]);
    },
  };
  return { rows, apply, vaultOf, isUp, steps, follow };
}

/** What of the state this manager cannot open. */
function failuresOf(rows: ReturnType<typeof cluster>["rows"], vault: Vault): string[] {
  const failures: string[] = [];
  const attempt = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      failures.push(error.message);
    }
  };
  attempt(() => openSigningCa(vault, rows.cluster()!));
  attempt(() => openTokens(vault, rows.cluster()!));
  for (const { id, spec } of rows.secrets()) {
    attempt(() =>
      expect(openSecret(vault, id, spec).Data).toBe(Buffer.from(id).toString("base64")),
    );
  }
  return failures;
}

test("whatever stops half way, what is sealed can be opened by all managers with the keys, and a rotation ends", () => {
  const step = fc.record({
    what: fc.constantFrom(
      ...(["rotate", "learn", "say", "activate", "reseal", "makeSecret", "stop", "start"] as const),
    ),
    who: fc.constantFrom(...MANAGERS),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (sequence) => {
      const { rows, vaultOf, isUp, steps, follow } = cluster();
      for (const { what, who } of sequence) {
        follow();
        if (what === "stop" && isUp.filter(Boolean).length < 3) continue;
        if (what !== "start" && !isUp[who]) continue;
        if (what === "start" && isUp[who]) continue;
        if (what === "makeSecret" && vaultOf(who).isWanting()) continue;
        if (what === "reseal" && vaultOf(who).isWanting()) continue;
        steps[what](who);
        follow();
        const sealing = rows.cluster()?.dataKeys?.sealingId;
        for (const name of MANAGERS) {
          if (sealing !== undefined && !vaultOf(name).has(sealing)) continue;
          expect(failuresOf(rows, vaultOf(name))).toEqual([]);
        }
        // What seals is known to a majority.
        if (sealing !== undefined) {
          const holders = MANAGERS.filter((name) => vaultOf(name).has(sealing));
          expect(holders.length).toBeGreaterThanOrEqual(2);
        }
      }
      for (const name of MANAGERS) if (!isUp[name]) steps.start(name);
      for (let round = 0; round < 60; round++) {
        follow();
        for (const name of MANAGERS) {
          steps.learn(name);
          steps.say(name);
        }
        steps.activate();
        follow();
        steps.reseal(0);
      }
      const status = vaultStatus(rows, vaultOf(0));
      expect([status.nextKeyId, status.lateManagers, status.staleCount]).toEqual([
        undefined,
        [],
        rows.cluster()?.dataKeys ? 0 : status.staleCount,
      ]);
      for (const name of MANAGERS) expect(failuresOf(rows, vaultOf(name))).toEqual([]);
    }),
    { numRuns: 150 },
  );
});

test("a key that is to seal next seals nothing before a majority has it, and all that are there", () => {
  const { rows, vaultOf, steps, follow } = cluster();
  const before = vaultOf(0).keys()[0]!.id;
  steps.rotate(0);
  follow();
  const nextId = rows.cluster()!.dataKeys!.nextId!;
  expect(nextId).not.toBe(before);
  expect([vaultOf(0).isWanting(), vaultOf(1).isWanting()]).toEqual([false, true]);
  expect(vaultOf(0).seal("a", new Uint8Array(1))).toStartWith(`${before}.`);
  steps.say(0);
  steps.activate();
  steps.learn(1);
  steps.say(1);
  steps.activate();
  expect(vaultStatus(rows, vaultOf(0)).lateManagers).toEqual(["m2"]);
  expect(rows.cluster()!.dataKeys).toEqual({ nextId });
  steps.stop(2);
  steps.activate();
  expect(rows.cluster()!.dataKeys).toEqual({ sealingId: nextId });
  follow();
  expect(vaultOf(0).seal("a", new Uint8Array(1))).toStartWith(`${nextId}.`);
  // It was away: it seals nothing until it has the key.
  steps.start(2);
  follow();
  expect(() => vaultOf(2).seal("a", new Uint8Array(1))).toThrow("does not have the key yet");
  steps.learn(2);
  expect(vaultOf(2).seal("a", new Uint8Array(1))).toStartWith(`${nextId}.`);
});

test("sealing anew changes no service: no task is replaced, and no version that clients know", () => {
  const { rows, apply, vaultOf, steps, follow } = cluster();
  const vault = vaultOf(0);
  const service = serviceDraft("svc");
  const withAuth = (auth: string) => {
    const { ContainerSpec } = service.spec.TaskTemplate;
    const PullOptions = { RegistryAuth: sealRegistryAuth(vault, auth) };
    const TaskTemplate = {
      ...service.spec.TaskTemplate,
      ContainerSpec: { ...ContainerSpec, PullOptions },
    };
    return { ...service.spec, TaskTemplate };
  };
  const spec = withAuth("auth");
  apply([create("service", { ...service, spec, previousSpec: withAuth("before") })]);
  const { specVersion } = rows.service("svc")!;
  apply([create("task", taskDraft("t1", "svc", { spec: spec.TaskTemplate, specVersion }))]);
  const sealedBefore = JSON.stringify([rows.service("svc"), rows.task("t1")]);
  steps.rotate(0);
  for (const name of MANAGERS) {
    follow();
    steps.learn(name);
    steps.say(name);
  }
  steps.activate();
  follow();
  while (planReseal(rows, vault, fail).length > 0) steps.reseal(0);
  const after = rows.service("svc")!;
  expect(after.specVersion).toBe(specVersion);
  const authOf = (of: ServiceSpec | undefined) =>
    openRegistryAuth(vault, of!.TaskTemplate.ContainerSpec.PullOptions!.RegistryAuth);
  expect([authOf(after.spec), authOf(after.previousSpec)]).toEqual(["auth", "before"]);
  const task = rows.task("t1")!;
  expect(openRegistryAuth(vault, task.spec.ContainerSpec.PullOptions!.RegistryAuth)).toBe("auth");
  expect(JSON.stringify([after, task])).not.toContain(vault.keys()[0]!.id);
  expect(sealedBefore).toContain(vault.keys()[0]!.id);
});

test("what cannot be opened is told, and holds up nothing else", () => {
  const { rows, apply, vaultOf, steps, follow } = cluster();
  steps.makeSecret(0);
  const draft = secretDraft("broken");
  const { Data: _, ...spec } = draft.spec;
  apply([create("secret", { ...draft, spec: { ...spec, Sealed: "gone.AAAA" } })]);
  steps.rotate(0);
  for (const name of MANAGERS) {
    follow();
    steps.learn(name);
    steps.say(name);
  }
  steps.activate();
  follow();
  const told: string[] = [];
  const plan = () => planReseal(rows, vaultOf(0), (error) => void told.push(error.message), 2);
  for (let actions = plan(); actions.length > 0; actions = plan()) apply(actions);
  expect(told.at(-1)).toContain("Cannot open what is sealed for secret broken");
  expect(failuresOf(rows, vaultOf(0))).toHaveLength(1);
});
