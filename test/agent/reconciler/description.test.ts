import { expect, test } from "bun:test";
import { nodeDescription } from "../../../agent/reconciler/description.ts";

test("nodeDescription() has the shape that a stock node reports", () => {
  const description = nodeDescription({
    name: "vm",
    version: "20.10.24",
    architecture: "x86_64",
    os: "linux",
    cpuCount: 2,
    memoryBytes: 100,
    labels: ["zone=a=b", "bare"],
    plugins: { Volume: ["local"], Network: ["null", "bridge"], Log: ["json-file"] },
  });
  expect(description).toEqual({
    Hostname: "vm",
    Platform: { Architecture: "x86_64", OS: "linux" },
    Resources: { NanoCPUs: 2_000_000_000, MemoryBytes: 100 },
    Engine: {
      EngineVersion: "20.10.24",
      Labels: { zone: "a=b", bare: "" },
      Plugins: [
        { Type: "Log", Name: "json-file" },
        { Type: "Network", Name: "bridge" },
        { Type: "Network", Name: "null" },
        { Type: "Volume", Name: "local" },
      ],
    },
  });
});
