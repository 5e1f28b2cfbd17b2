/**
 * Shapes of what clients send, and their canonical form: zeros that Go leaves out (`omitempty`) are
 * left out, so that two clients' words for one spec are one value and no task is replaced for a
 * `"TTY": false`. Pure. What the values may be is validate.ts's part.
 *
 * Source: Docker Engine API v1.41; moby api/types/swarm.
 */
import { z } from "zod";
import { WHOLE_TEXT } from "./body.ts";
import { isEmptyMap, omitEmpty } from "./go-values.ts";

const text = z.string().exactOptional();
const texts = z.array(z.string()).exactOptional();
const textMap = z.record(z.string(), z.string());
const flag = z.boolean().exactOptional();
const whole = z.int().exactOptional();
const count = z.int().nonnegative().exactOptional();
const record = z.looseObject({});

/** A word of a few, or none; `say` is the whole refusal of another one. */
function oneOf<const W extends string>(words: readonly W[], say: (given: string) => string) {
  return z
    .union([z.enum(words), z.literal("")], {
      error: ({ input }) => (typeof input === "string" ? `${WHOLE_TEXT}${say(input)}` : undefined),
    })
    .exactOptional();
}

/** An object whose Go zeros are left out; `keep` names pointer fields, `maps` maps. */
function struct<S extends z.ZodRawShape>(
  shape: S,
  options: { keep?: readonly string[]; maps?: readonly string[] } = {},
) {
  return z.object(shape).transform((value) => {
    const kept = omitEmpty(value, options.keep);
    for (const name of options.maps ?? []) {
      // `name` is a field of the shape; empty maps are left out as Go does.
      const field = name as keyof typeof kept;
      if (isEmptyMap(kept[field])) delete kept[field];
    }
    return kept;
  });
}

const mountSchema = z
  .looseObject({
    Type: text,
    Source: text,
    Target: text,
    ReadOnly: flag,
    Consistency: text,
    BindOptions: z.looseObject({ Propagation: text }).exactOptional(),
    VolumeOptions: z
      .looseObject({
        NoCopy: flag,
        Labels: textMap.exactOptional(),
        DriverConfig: z
          .looseObject({ Name: text, Options: textMap.exactOptional() })
          .exactOptional(),
      })
      .exactOptional(),
    TmpfsOptions: z.looseObject({ SizeBytes: whole, Mode: whole }).exactOptional(),
  })
  // As in Go, no type is the first one; and binds have a propagation as soon as they have options.
  .transform(
    (mount): Record<string, unknown> => ({
      Type: "bind",
      ...omitEmpty(mount),
      ...(mount.BindOptions
        ? { BindOptions: { Propagation: "rprivate", ...omitEmpty(mount.BindOptions) } }
        : {}),
    }),
  );

const fileTargetSchema = z.looseObject({
  Name: z.string().default(""),
  UID: z.string().default("0"),
  GID: z.string().default("0"),
  Mode: z.int().default(0),
});
const secretReferenceSchema = z.looseObject({
  File: fileTargetSchema.exactOptional(),
  SecretID: z.string().default(""),
  SecretName: z.string().default(""),
});
const configReferenceSchema = z.looseObject({
  File: fileTargetSchema.exactOptional(),
  Runtime: record.exactOptional(),
  ConfigID: z.string().default(""),
  ConfigName: z.string().default(""),
});

const healthcheckSchema = struct({
  Test: texts,
  Interval: whole,
  Timeout: whole,
  Retries: whole,
  StartPeriod: whole,
  StartInterval: whole,
});

/** The Engine API's document has HealthCheck, Go's clients write Healthcheck; Go reads both. */
function withHealthcheck(container: unknown): unknown {
  if (typeof container !== "object" || container === null || !("HealthCheck" in container)) {
    return container;
  }
  const { HealthCheck: Healthcheck, ...rest } = container;
  return { Healthcheck, ...rest };
}

const containerSpecFields = struct(
  {
    Image: z.string().default(""),
    Labels: textMap.exactOptional(),
    Command: texts,
    Args: texts,
    Hostname: text,
    Env: texts,
    Dir: text,
    User: text,
    Groups: texts,
    Privileges: record.transform((given) => omitEmpty(given)).exactOptional(),
    Init: flag,
    StopSignal: text,
    TTY: flag,
    OpenStdin: flag,
    ReadOnly: flag,
    Mounts: z.array(mountSchema).exactOptional(),
    StopGracePeriod: whole,
    Healthcheck: healthcheckSchema.exactOptional(),
    Hosts: texts,
    DNSConfig: struct({ Nameservers: texts, Search: texts, Options: texts }).exactOptional(),
    Secrets: z.array(secretReferenceSchema).exactOptional(),
    Configs: z.array(configReferenceSchema).exactOptional(),
    Isolation: z
      .string()
      .default("default")
      .transform((isolation) => isolation || "default"),
    Sysctls: textMap.exactOptional(),
    CapabilityAdd: texts,
    CapabilityDrop: texts,
    Ulimits: z.array(z.object({ Name: z.string(), Hard: z.int(), Soft: z.int() })).exactOptional(),
    OomScoreAdj: whole,
    // Its fields are checked by their own table (agent/reconciler/container-options.ts).
    Shoal: record.exactOptional(),
  },
  // An empty Image is kept too: it is refused with its own words.
  { keep: ["Init", "StopGracePeriod", "Image"], maps: ["Labels", "Sysctls"] },
);
const containerSpecSchema = z.preprocess(withHealthcheck, containerSpecFields);

const limitsShape = { NanoCPUs: whole, MemoryBytes: whole };
const resourcesSchema = z.object({
  Limits: struct({ ...limitsShape, Pids: whole }).exactOptional(),
  Reservations: struct({
    ...limitsShape,
    GenericResources: z.array(record).exactOptional(),
  }).exactOptional(),
  SwapBytes: z.int().min(-1).exactOptional(),
  MemorySwappiness: z.int().min(-1).max(100).exactOptional(),
});

const restartPolicySchema = struct(
  {
    Condition: oneOf(
      ["none", "on-failure", "any"],
      (given) => `invalid RestartCondition: "${given}"`,
    ),
    Delay: whole,
    MaxAttempts: count,
    Window: whole,
  },
  { keep: ["Delay", "MaxAttempts", "Window"] },
);

const attachmentSchema = struct(
  {
    Target: z.string().default(""),
    Aliases: texts,
    DriverOpts: textMap.exactOptional(),
  },
  { keep: ["Target"], maps: ["DriverOpts"] },
);

const placementSchema = struct({
  Constraints: texts,
  Preferences: z
    .array(z.object({ Spread: z.object({ SpreadDescriptor: z.string() }) }))
    .exactOptional(),
  MaxReplicas: count,
  Platforms: z.array(struct({ Architecture: text, OS: text })).exactOptional(),
});

const logDriverSchema = z.object({
  Name: z.string().default(""),
  Options: textMap.exactOptional(),
});
const taskDefaultsSchema = z.object({ LogDriver: logDriverSchema.exactOptional() });

const pluginPrivileges = z
  .array(struct({ name: text, description: text, value: texts }))
  .exactOptional();
const pluginSpecSchema = struct({
  name: text,
  remote: text,
  privileges: pluginPrivileges,
  // As the API's description has it.
  PluginPrivilege: pluginPrivileges,
  disabled: flag,
  env: texts,
});

const taskSpecSchema = z.object({
  ContainerSpec: containerSpecSchema.exactOptional(),
  PluginSpec: pluginSpecSchema.exactOptional(),
  NetworkAttachmentSpec: record.exactOptional(),
  Resources: resourcesSchema.exactOptional(),
  RestartPolicy: restartPolicySchema.exactOptional(),
  Placement: placementSchema.exactOptional(),
  Networks: z.array(attachmentSchema).exactOptional(),
  LogDriver: logDriverSchema.exactOptional(),
  ForceUpdate: z.int().nonnegative().default(0),
  Runtime: text,
});

const updateConfigSchema = struct(
  {
    // In Go a config that is given but says nothing of these two means zero: all at once, none may fail.
    Parallelism: z.int().nonnegative().default(0),
    Delay: whole,
    FailureAction: oneOf(
      ["pause", "continue", "rollback"],
      (given) => `unrecognized update failure action ${given}`,
    ),
    Monitor: whole,
    MaxFailureRatio: z.number().default(0),
    Order: oneOf(["stop-first", "start-first"], (given) => `unrecognized update order ${given}`),
  },
  { keep: ["Parallelism", "MaxFailureRatio"] },
);

const portNumber = z.int().min(0).max(65_535);
const portSchema = struct(
  {
    Name: text,
    Protocol: oneOf(
      ["tcp", "udp", "sctp"],
      (given) => `invalid port protocol "${given}": use tcp, udp or sctp`,
    ),
    TargetPort: portNumber.default(0),
    PublishedPort: portNumber.exactOptional(),
    PublishMode: oneOf(
      ["ingress", "host"],
      (given) => `invalid publish mode "${given}": use ingress or host`,
    ),
  },
  { keep: ["TargetPort"] },
);

const jobSchema = z.object({ MaxConcurrent: count, TotalCompletions: count });
const emptyObject = z.object({}).transform((): Record<string, never> => ({}));

/** Body of POST /services/create and /services/{id}/update. */
export const serviceSpecSchema = z.object({
  Name: z.string().default(""),
  Labels: textMap.default({}),
  TaskTemplate: taskSpecSchema.default({ ForceUpdate: 0 }),
  Mode: z
    .object({
      Replicated: z.object({ Replicas: count }).exactOptional(),
      Global: emptyObject.exactOptional(),
      ReplicatedJob: jobSchema.exactOptional(),
      GlobalJob: emptyObject.exactOptional(),
    })
    .default({}),
  UpdateConfig: updateConfigSchema.exactOptional(),
  RollbackConfig: updateConfigSchema.exactOptional(),
  EndpointSpec: struct({
    Mode: oneOf(["vip", "dnsrr"], (given) => `invalid resolution mode: "${given}"`),
    Ports: z.array(portSchema).exactOptional(),
  }).exactOptional(),
  Networks: z.array(attachmentSchema).exactOptional(),
});
export type ParsedServiceSpec = z.output<typeof serviceSpecSchema>;

/** Body of POST /nodes/{id}/update. */
export const nodeSpecSchema = z.object({
  Name: text,
  Labels: textMap.default({}),
  Role: z.string().default(""),
  Availability: z.string().default(""),
});

/** Body of POST /secrets/create, /configs/create and their updates. */
export const dataSpecSchema = z.object({
  Name: z.string().default(""),
  Labels: textMap.default({}),
  Data: text,
  Driver: z.looseObject({ Name: text }).exactOptional(),
  Templating: z.object({ Name: z.string(), Options: textMap.exactOptional() }).exactOptional(),
});
export type ParsedDataSpec = z.output<typeof dataSpecSchema>;

/** Body of POST /networks/create. */
export const networkCreateSchema = z.object({
  Name: z.string().default(""),
  Driver: z.string().default(""),
  Scope: z.string().default(""),
  Internal: z.boolean().default(false),
  Attachable: z.boolean().default(false),
  Ingress: z.boolean().default(false),
  EnableIPv6: z.boolean().default(false),
  ConfigOnly: z.boolean().default(false),
  ConfigFrom: z.object({ Network: z.string().default("") }).exactOptional(),
  IPAM: z
    .object({
      Driver: z.string().default(""),
      Options: textMap.default({}),
      Config: z
        .array(
          struct({
            Subnet: text,
            IPRange: text,
            Gateway: text,
            AuxiliaryAddresses: textMap.exactOptional(),
          }),
        )
        .default([]),
    })
    .default({ Driver: "", Options: {}, Config: [] }),
  Options: textMap.default({}),
  Labels: textMap.default({}),
});
export type NetworkCreate = z.output<typeof networkCreateSchema>;

/** SwarmSpec, for POST /swarm/update: the whole spec, not a merge. Absent numbers are zero. */
const externalCa = z.object({
  Protocol: text,
  URL: text,
  Options: textMap.exactOptional(),
  CACert: text,
});

export const clusterSpecSchema = z.object({
  Name: z.string().default(""),
  Labels: textMap.default({}),
  Orchestration: z
    .object({ TaskHistoryRetentionLimit: z.int().default(0) })
    .default({ TaskHistoryRetentionLimit: 0 }),
  Raft: z
    .object({
      SnapshotInterval: z.int().nonnegative().default(0),
      KeepOldSnapshots: z.int().nonnegative().default(0),
      LogEntriesForSlowFollowers: z.int().nonnegative().default(0),
      ElectionTick: z.int().nonnegative().default(0),
      HeartbeatTick: z.int().nonnegative().default(0),
    })
    .exactOptional(),
  Dispatcher: z.object({ HeartbeatPeriod: z.int().default(0) }).exactOptional(),
  CAConfig: z
    .object({
      NodeCertExpiry: z.int().default(0),
      ForceRotate: whole,
      ExternalCAs: z.array(externalCa).exactOptional(),
      SigningCACert: text,
      SigningCAKey: text,
    })
    .exactOptional(),
  TaskDefaults: taskDefaultsSchema.default({}),
  EncryptionConfig: z
    .object({ AutoLockManagers: z.boolean().default(false) })
    .default({ AutoLockManagers: false }),
});
export type ParsedClusterSpec = z.output<typeof clusterSpecSchema>;

const availability = z.enum(["active", "pause", "drain"]);

/** Body of POST /swarm/init. */
export const initSchema = z.object({
  ListenAddr: text,
  AdvertiseAddr: text,
  DataPathAddr: text,
  DataPathPort: count,
  ForceNewCluster: flag,
  Spec: z
    .object({
      Name: text,
      Labels: textMap.exactOptional(),
      Orchestration: z.object({ TaskHistoryRetentionLimit: whole }).exactOptional(),
      Raft: z
        .object({
          SnapshotInterval: count,
          KeepOldSnapshots: count,
          LogEntriesForSlowFollowers: count,
          ElectionTick: count,
          HeartbeatTick: count,
        })
        .exactOptional(),
      Dispatcher: z.object({ HeartbeatPeriod: count }).exactOptional(),
      CAConfig: z
        .object({
          NodeCertExpiry: count,
          ForceRotate: count,
          ExternalCAs: z.array(externalCa).exactOptional(),
          SigningCACert: text,
          SigningCAKey: text,
        })
        .exactOptional(),
      TaskDefaults: taskDefaultsSchema.exactOptional(),
      EncryptionConfig: z.object({ AutoLockManagers: flag }).exactOptional(),
    })
    .exactOptional(),
  AutoLockManagers: flag,
  Availability: availability.or(z.literal("")).exactOptional(),
  DefaultAddrPool: texts,
  SubnetSize: whole,
});

/** Body of POST /swarm/unlock. */
export const unlockSchema = z.object({ UnlockKey: text });

/** Body of POST /swarm/join. */
export const joinSchema = z.object({
  ListenAddr: text,
  AdvertiseAddr: text,
  DataPathAddr: text,
  RemoteAddrs: z.array(z.string()).default([]),
  JoinToken: z.string().default(""),
  Availability: availability.or(z.literal("")).exactOptional(),
});
