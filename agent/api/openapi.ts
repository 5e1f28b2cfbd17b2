import { STACK_STATES } from "../stacks/status.ts";

const query = (name: string, description: string) =>
  ({ name, in: "query", required: false, description, schema: { type: "string" } }) as const;
const STACK_NAME = {
  name: "name",
  in: "path",
  required: true,
  schema: { type: "string" },
} as const;
const SERVICE_ID = { name: "id", in: "path", required: true, schema: { type: "string" } } as const;
const STACK_OPTIONS = [
  query("prune", "0: leave services that the file lacks (where the body is a file; else Prune)"),
  query("resolve-image", "always, changed, never (else ResolveImage)"),
  query("token", "Of a plan: do what it says, or nothing (else Token)"),
];
const STACK_BODY = {
  required: true,
  description:
    "A compose file itself (application/yaml); or JSON: Files, Env, Contents (base64, of the files that they name), Prune, ResolveImage, Token, RegistryAuth (by registry); other fields are refused",
  content: { "application/yaml": {}, "application/json": { schema: { type: "object" } } },
} as const;
const STACK_PLAN = {
  description: "What is, or would be, changed",
  content: { "application/json": { schema: { $ref: "#/components/schemas/StackPlan" } } },
} as const;
const NULLABLE_OBJECT = { type: ["object", "null"] } as const;

/** The answer of /shoal/v1/openapi.json. It describes /shoal/v1 only; the rest is Docker's own document. */
export const OPENAPI = {
  openapi: "3.1.0",
  info: {
    title: "shoal",
    version: "1",
    description: "Shoal's own calls. All other paths of this socket are the Docker Engine API.",
  },
  paths: {
    "/shoal/v1/status": {
      get: {
        operationId: "getStatus",
        summary: "This node, the raft group as its leader sees it, and the versions",
        responses: {
          "200": {
            description:
              "The status. Parts that cannot be had are null, with an error beside them.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Status" } } },
          },
        },
      },
    },
    "/shoal/v1/metrics": {
      get: {
        operationId: "getMetrics",
        summary: "This node's metrics as Prometheus text",
        responses: {
          "200": { description: "The metrics.", content: { "text/plain": {} } },
        },
      },
    },
    "/shoal/v1/why/{ref}": {
      get: {
        operationId: "why",
        summary:
          "Why a service's tasks, or one task, do not run: node by node, and their last failures",
        parameters: [
          {
            name: "ref",
            in: "path",
            required: true,
            description: "Name, id or unique prefix of an id of a service or task",
            schema: { type: "string" },
          },
        ],
        responses: {
          "200": {
            description: "The reasons.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Why" } } },
          },
          "404": { description: "There is no such service or task" },
        },
      },
    },
    "/shoal/v1/net/doctor": {
      get: {
        operationId: "netDoctor",
        summary:
          "Every node looks at its network: what is wrong and what to do; takes up to 6 s and changes nothing",
        parameters: [
          {
            name: "node",
            in: "query",
            required: false,
            description: "Name, id or unique prefix of an id: this node only",
            schema: { type: "string" },
          },
        ],
        responses: {
          "200": {
            description:
              "The findings. On a worker, or without a leader, of the asked node alone, and `note` says so.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/NetReport" } } },
          },
          "404": { description: "There is no such node" },
        },
      },
    },
    "/shoal/v1/backup": {
      get: {
        operationId: "getBackup",
        summary:
          "Everything of the cluster in one file, with the CA's key, all secrets and the key that opens them; managers only",
        responses: {
          "200": {
            description:
              "The file, for restore. With the header Shoal-Stale it was made without a leader and may lack the newest changes.",
            content: { "application/octet-stream": {} },
          },
        },
      },
    },
    "/shoal/v1/restore": {
      post: {
        operationId: "restore",
        summary: "Makes this node, which is in no cluster, the only manager of a backup's cluster",
        parameters: ["listen-addr", "advertise-addr", "data-path-addr", "availability"].map(
          (name) => ({ name, in: "query", required: false, schema: { type: "string" } }),
        ),
        requestBody: { required: true, content: { "application/octet-stream": {} } },
        responses: {
          "200": { description: "Done: node and cluster id, and how much was restored" },
          "400": { description: "Not a backup, damaged, encrypted, or of a newer format" },
          "503": { description: "This node is in a cluster" },
        },
      },
    },
    "/shoal/v1/vault": {
      get: {
        operationId: "getVault",
        summary:
          "By which key secrets are sealed, and how far a change of it has come; managers only",
        responses: {
          "200": {
            description: "The state of the keys; never a key.",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Vault" } } },
          },
        },
      },
    },
    "/shoal/v1/vault/rotate": {
      post: {
        operationId: "rotateVault",
        summary: "Begins to seal all secrets by a new key; managers only",
        responses: { "200": { description: "Begun; getVault tells how far it is" } },
      },
    },
    "/shoal/v1/stacks": {
      get: {
        operationId: "listStacks",
        summary: "All stacks; managers only",
        responses: {
          "200": {
            description: "Each with its state",
            content: {
              "application/json": {
                schema: { type: "array", items: { $ref: "#/components/schemas/Stack" } },
              },
            },
          },
        },
      },
    },
    "/shoal/v1/stacks/{name}": {
      parameters: [STACK_NAME],
      get: {
        operationId: "getStack",
        summary: "A stack: its services and their states, its files, its revisions",
        responses: {
          "200": {
            description: "The stack",
            content: { "application/json": { schema: { $ref: "#/components/schemas/Stack" } } },
          },
          "404": { description: "There is no such stack" },
        },
      },
      put: {
        operationId: "deployStack",
        summary:
          "Makes the stack what the files say, in one proposal: all of it or nothing. Repeated, it changes nothing",
        parameters: STACK_OPTIONS,
        requestBody: STACK_BODY,
        responses: {
          "200": STACK_PLAN,
          "400": {
            description: "The files are wrong: each line of the message says where, what and why",
          },
          "404": { description: "An external network, secret or config is not there" },
          "409": {
            description: "A name is another's, or the plan that the token names is out of date",
          },
        },
      },
      delete: {
        operationId: "removeStack",
        summary:
          "Removes the stack and its services; its networks, secrets and configs go with their last user",
        responses: { "204": { description: "Removed" } },
      },
    },
    "/shoal/v1/stacks/{name}/plan": {
      parameters: [STACK_NAME],
      post: {
        operationId: "planStack",
        summary: "What deployStack would change; changes nothing",
        parameters: STACK_OPTIONS,
        requestBody: STACK_BODY,
        responses: { "200": STACK_PLAN },
      },
    },
    "/shoal/v1/stacks/{name}/rollback": {
      parameters: [STACK_NAME],
      post: {
        operationId: "rollBackStack",
        summary: "Makes the stack what an earlier revision said, as a new revision",
        parameters: [
          query("revision", "Its number; else the last one that differs"),
          query("plan", "1: only say what it would change"),
        ],
        requestBody: {
          required: false,
          description:
            "RegistryAuth, by registry, as revisions have none: services that it makes again need it, others keep theirs without it. Other fields are refused",
          content: {
            "application/json": {
              schema: {
                type: "object",
                properties: {
                  RegistryAuth: { type: "object", additionalProperties: { type: "string" } },
                },
                additionalProperties: false,
              },
            },
          },
        },
        responses: { "200": STACK_PLAN },
      },
    },
    "/shoal/v1/stacks/{name}/revisions/{number}": {
      parameters: [
        STACK_NAME,
        { name: "number", in: "path", required: true, schema: { type: "integer" } },
      ],
      get: {
        operationId: "getStackRevision",
        summary: "The files of a revision, and what they meant",
        responses: { "200": { description: "Number, time, files and the specs made of them" } },
      },
    },
    "/shoal/v1/services/{id}/slots": {
      parameters: [SERVICE_ID],
      get: {
        operationId: "listSlots",
        summary: "Where the slots of a stateful service live; managers only",
        responses: {
          "200": { description: "Each slot: its name, home, addresses, and the state of its task" },
          "400": { description: "The service is not stateful" },
        },
      },
    },
    "/shoal/v1/services/{id}/slots/{slot}": {
      parameters: [
        SERVICE_ID,
        { name: "slot", in: "path", required: true, schema: { type: "integer" } },
      ],
      post: {
        operationId: "moveSlot",
        summary:
          "Gives a slot another home: its task stops, and the next one starts there. Its volumes are not moved",
        requestBody: {
          required: true,
          description:
            "Node: name or id; empty: any node that the scheduler chooses. Force: also to a node that cannot take it now",
          content: {
            "application/json": {
              schema: {
                type: "object",
                properties: {
                  Node: { type: "string" },
                  Force: { type: "boolean", default: false },
                },
              },
            },
          },
        },
        responses: {
          "200": { description: "Begun" },
          "400": {
            description:
              "The service is not stateful; or the node cannot take the slot: why, and what would help",
          },
          "404": { description: "No such service, slot or node" },
        },
      },
      delete: {
        operationId: "forgetSlot",
        summary:
          "Forgets home and addresses of a slot that the service was scaled below. Its volumes stay",
        responses: {
          "200": { description: "Forgotten" },
          "400": { description: "The slot is wanted, or has a task that has not stopped" },
          "404": { description: "No such service or slot" },
        },
      },
    },
    "/shoal/v1/openapi.json": {
      get: {
        operationId: "getOpenapi",
        summary: "This document",
        responses: { "200": { description: "An OpenAPI 3.1 document" } },
      },
    },
  },
  components: {
    schemas: {
      Stack: {
        type: "object",
        required: ["ID", "Name", "Revision", "State", "ServiceCount", "SettledCount"],
        properties: {
          ID: { type: "string" },
          Name: { type: "string" },
          Revision: { type: "integer" },
          State: { enum: STACK_STATES },
          ServiceCount: { type: "integer" },
          SettledCount: { type: "integer", description: "Services that are as they shall be" },
          Services: { type: "array", items: { type: "object" } },
          Networks: { type: "array", items: { type: "string" } },
          Secrets: { type: "array", items: { type: "string" } },
          Configs: { type: "array", items: { type: "string" } },
          Files: { type: "array", items: { type: "object" } },
          Revisions: { type: "array", items: { type: "object" } },
        },
      },
      StackPlan: {
        type: "object",
        required: ["Revision", "IsChange", "Token", "Warnings", "Changes"],
        properties: {
          Revision: { type: "integer", description: "That it makes, or that is the newest" },
          IsChange: { type: "boolean" },
          Token: { type: "string", description: "Stands for these changes of this state" },
          Warnings: { type: "array", items: { type: "string" } },
          Changes: {
            type: "array",
            items: {
              type: "object",
              required: ["Kind", "Name", "Action"],
              properties: {
                Kind: { enum: ["service", "network", "secret", "config"] },
                Name: { type: "string" },
                Action: { enum: ["create", "update", "remove", "keep"] },
                Effect: { type: "string", description: "On what runs" },
                Fields: {
                  type: "array",
                  items: {
                    type: "object",
                    required: ["Path"],
                    properties: { Path: { type: "string" }, From: {}, To: {} },
                  },
                },
              },
            },
          },
        },
      },
      Vault: {
        type: "object",
        required: ["lateManagers", "staleCount"],
        properties: {
          sealingKeyId: { type: "string", description: "Absent before the first rotation" },
          nextKeyId: { type: "string", description: "While it is made known to the managers" },
          lateManagers: {
            type: "array",
            items: { type: "string" },
            description: "Ids of managers that do not have the next key yet",
          },
          staleCount: { type: "integer", description: "Objects that are still to be sealed anew" },
        },
      },
      NetFinding: {
        type: "object",
        required: ["check", "severity", "about", "seen", "count"],
        properties: {
          check: { type: "string" },
          severity: { enum: ["ok", "warning", "error"] },
          about: { type: "string", description: "What was looked at" },
          seen: { type: "string" },
          fix: { type: "string", description: "What to do; absent where nothing is wrong" },
          count: { type: "integer", description: "Targets of the check that it stands for" },
        },
      },
      NetReport: {
        type: "object",
        required: ["scope", "cluster", "nodes", "checks", "warnings", "errors"],
        properties: {
          scope: { enum: ["cluster", "node"] },
          note: { type: "string", description: "Why not all nodes were asked" },
          cluster: { type: "array", items: { $ref: "#/components/schemas/NetFinding" } },
          nodes: {
            type: "array",
            items: {
              type: "object",
              required: ["nodeId", "hostname", "findings"],
              properties: {
                nodeId: { type: "string" },
                hostname: { type: "string" },
                findings: { type: "array", items: { $ref: "#/components/schemas/NetFinding" } },
              },
            },
          },
          checks: { type: "integer" },
          warnings: { type: "integer" },
          errors: { type: "integer" },
        },
      },
      Why: {
        type: "object",
        required: ["kind", "id", "name", "summary", "notes", "pending", "underWay", "failures"],
        properties: {
          kind: { enum: ["service", "task"] },
          id: { type: "string" },
          name: { type: "string" },
          summary: { type: "string" },
          notes: { type: "array", items: { type: "string" } },
          pending: {
            type: "array",
            description: "Tasks without a node, grouped by what they wait for",
            items: {
              type: "object",
              properties: {
                tasks: { type: "array", items: { type: "string" } },
                reason: { type: "string" },
                nodes: {
                  type: "array",
                  description: "The nearest first; without reasons a node could take the task",
                  items: {
                    type: "object",
                    properties: {
                      nodeId: { type: "string" },
                      hostname: { type: "string" },
                      reasons: {
                        type: "array",
                        items: {
                          type: "object",
                          properties: {
                            filter: { type: "string" },
                            text: { type: "string" },
                            fix: { type: "string" },
                          },
                        },
                      },
                    },
                  },
                },
              },
            },
          },
          underWay: { type: "array", items: { type: "object" } },
          failures: {
            type: "array",
            description: "Of the tasks kept as history, the newest first",
            items: { type: "object" },
          },
        },
      },
      Status: {
        type: "object",
        required: ["version", "node", "raft", "raftError", "engine"],
        properties: {
          version: { type: "string", description: "Version of shoal" },
          node: {
            type: "object",
            required: ["state", "isManager", "managers"],
            properties: {
              state: { enum: ["inactive", "pending", "active", "error", "locked"] },
              error: { type: "string" },
              nodeId: { type: "string" },
              clusterId: { type: "string" },
              nodeAddr: { type: "string" },
              isManager: { type: "boolean" },
              leaderLostMs: {
                type: "integer",
                description: "No leader has been known for so long; reads are stale meanwhile",
              },
              disk: {
                type: "object",
                properties: {
                  state: { enum: ["ok", "low", "critical"] },
                  freeBytes: { type: "integer" },
                },
              },
              certificate: {
                type: "object",
                properties: {
                  notAfterMs: { type: "integer", description: "Its end, Unix time" },
                  failure: {
                    type: "string",
                    description: "Why it was not renewed at the last try",
                  },
                  failureCount: { type: "integer", description: "Since the start of the agent" },
                },
              },
              managers: {
                type: "array",
                items: {
                  type: "object",
                  properties: { nodeId: { type: "string" }, addr: { type: "string" } },
                },
              },
            },
          },
          raft: {
            ...NULLABLE_OBJECT,
            description: "Null on workers and when it cannot be read",
            properties: {
              term: { type: "integer" },
              leaderId: { type: ["string", "null"] },
              isLeader: { type: "boolean" },
              commitIndex: { type: "integer" },
              appliedIndex: { type: "integer" },
              members: { type: "array", items: { type: "object" } },
            },
          },
          raftError: NULLABLE_OBJECT,
          engine: { type: "object", description: "Versions of the local engine, or the error" },
        },
      },
    },
  },
} as const;
