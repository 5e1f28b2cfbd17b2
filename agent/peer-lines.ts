/**
 * Connections of the consensus thread to the other managers' ports. What consensus sends would
 * otherwise wake the main thread for each message, twice in every write; what comes in still comes
 * through it, for one port serves all.
 *
 * Main says who the peers are and where (`configure`): it alone knows of roaming managers, of members
 * cut off, and of the certificate. A peer that is not among them is main's to reach.
 */
import type { NodeId } from "../core/ids.ts";
import type { LineSettings, PeerLines } from "../core/protocol.ts";
import { createPool } from "../net/rpc/pool.ts";

/** `failed`: something could not be brought to the peer; advisory. */
export function createPeerLines(failed: (nodeId: NodeId) => void): PeerLines {
  let settings: LineSettings | undefined;
  let addresses = new Map<NodeId, string>();
  const pool = createPool({
    tls: () => {
      if (!settings) throw new Error("Lines are configured before they are used");
      return settings.tls;
    },
    onUnreachable: failed,
  });
  return {
    configure: (next) => {
      const isRenewed = settings?.tls.certificatePem !== next.tls.certificatePem;
      settings = next;
      addresses = new Map(next.peers.map(({ nodeId, addr }) => [nodeId, addr]));
      pool.retain([...addresses.keys()]);
      // Connections keep the role of the certificate they were opened with.
      if (isRenewed) pool.reset();
    },
    send: (to, data) => {
      const addr = addresses.get(to);
      if (addr === undefined) return false;
      if (!pool.note(to, addr, "raft", { data })) failed(to);
      return true;
    },
    close: () => pool.close(),
  };
}
