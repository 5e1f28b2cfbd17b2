import { expect, test } from "bun:test";
import { createAskManagers } from "../../agent/ask-managers.ts";

test("a node that is in no cluster is told so, whoever still asks", async () => {
  const ask = createAskManagers({ pool: () => undefined, isStopping: () => false });
  const asked = ask("cluster-status", {}, 1_000, [{ nodeId: "n1", addr: "192.0.2.1:2377" }]);
  expect(await asked.catch(String)).toContain("This node is in no cluster");
});
