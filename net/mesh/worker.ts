/** The mesh worker's shell: messages of `protocol.ts` to one `Mesh`. */
import { assert, unreachable } from "../../core/assert.ts";
import { serveWorker } from "../../core/worker-server.ts";
import { linkNameService } from "../dns/link.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import type { MeshAnswer, MeshInput, MeshOutput } from "./protocol.ts";

/** Serves the thread it is called in; call it once, from the worker's entry file. */
export function startMeshWorker(): void {
  // Later messages wait for the start in the order they came in.
  let starting: Promise<Mesh> | undefined;
  const running = () => {
    assert(starting !== undefined, "The mesh worker's first message is init");
    return starting;
  };
  /** A mesh that could not start has told so to init; what follows has nothing to act on. */
  const ifRunning = async (act: (mesh: Mesh) => void) => {
    const mesh = await running().catch(() => undefined);
    if (mesh) act(mesh);
    return undefined;
  };
  const server = serveWorker<MeshInput, MeshAnswer, MeshOutput>(async (input, port) => {
    switch (input.type) {
      case "init": {
        assert(starting === undefined, "The mesh worker is initialised once");
        starting = startMesh({
          dir: input.dir,
          backend: input.backend,
          notify: (output) => server.notify(output),
          onEncryption: (encryption) => server.notify({ type: "encryption", encryption }),
          ...(port ? { dns: linkNameService(port) } : {}),
        });
        const mesh = await starting;
        return { type: "ready", backend: mesh.status().backend };
      }
      case "switch": {
        const mesh = await running();
        await mesh.switchBackend(input.backend);
        return { type: "ready", backend: mesh.status().backend };
      }
      case "assignments":
        return ifRunning((mesh) => mesh.assignments(input));
      case "networks-present":
        return ifRunning((mesh) => mesh.networksPresent(input.networkIds));
      case "status": {
        const mesh = await running();
        return { type: "status", ...mesh.status() };
      }
      case "connections": {
        const mesh = await running();
        return { type: "connections", counts: await mesh.connections() };
      }
      case "wipe": {
        const mesh = await running();
        await mesh.wipe();
        return { type: "done" };
      }
      case "stop": {
        const mesh = await starting?.catch(() => undefined);
        await mesh?.stop();
        // After this answer has been written.
        setImmediate(() => server.exit());
        return { type: "done" };
      }
      default:
        return unreachable(input);
    }
  });
}
