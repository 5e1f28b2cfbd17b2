/** MTU of the network below the mesh, for those who make overlay networks. */
import { commandRunner, type RunCommand } from "./backend.ts";
import { parseInterfaces } from "./observe.ts";

const MTU_DEFAULT = 1_500;

/** MTU of the device that carries `dataPathAddr`; 1500 when no device does. */
export async function readUnderlayMtu(
  dataPathAddr: string,
  run: RunCommand = commandRunner(),
): Promise<number> {
  const result = await run(["ip", "-j", "-d", "addr", "show"]);
  if (result.code !== 0) return MTU_DEFAULT;
  const device = parseInterfaces(result.stdout).find((candidate) =>
    candidate.addresses.some(({ address }) => address === dataPathAddr),
  );
  return device?.mtu ?? MTU_DEFAULT;
}
