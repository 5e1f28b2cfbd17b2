/** What the engine and the machine are, in the Docker API's words. */
import { hostname } from "node:os";
import { readGenericResources } from "../../core/objects/generic-resource.ts";
import type { NodeDescription } from "../../core/objects/node.ts";
import type { EngineInfo } from "./docker.ts";

const NANO_PER_CPU = 1_000_000_000;

/** Source: moby daemon/cluster/executor/container/executor.go Describe. */
export function nodeDescription(info: EngineInfo): NodeDescription {
  const plugins = (["Log", "Network", "Volume"] as const).flatMap((type) =>
    [...(info.plugins[type] ?? [])].sort().map((name) => ({ Type: type, Name: name })),
  );
  const labels = Object.fromEntries(
    info.labels.map((line) => {
      const [key = "", ...value] = line.split("=");
      return [key, value.join("=")];
    }),
  );
  const generic = readGenericResources(info.genericResources ?? []);
  return {
    Hostname: info.name || hostname(),
    Platform: { Architecture: info.architecture, OS: info.os },
    Resources: {
      NanoCPUs: info.cpuCount * NANO_PER_CPU,
      MemoryBytes: info.memoryBytes,
      ...(generic.length > 0 ? { GenericResources: generic } : {}),
    },
    Engine: {
      EngineVersion: info.version,
      ...(info.labels.length > 0 ? { Labels: labels } : {}),
      Plugins: plugins,
    },
  };
}
