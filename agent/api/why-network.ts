/**
 * What `shoal why` says beside the managers' state: programs on hosts that listen on a port which the
 * service publishes. Only the nodes can see them, so they are asked as `shoal net doctor` asks. Stock
 * Swarm writes "could not bind" into the daemon's log of that node and goes on, as we do: the service
 * has the port, the program gets no connection from outside any more.
 */
import type { Service } from "../../core/objects/service.ts";
import type { NetReport } from "../../net/rpc/methods.ts";

/** The TCP ports that the service has on every node. */
export function meshPortsOf(service: Service): number[] {
  return (service.endpoint?.ports ?? []).flatMap(({ Protocol, PublishedPort, PublishMode }) =>
    Protocol === "tcp" && PublishMode === "ingress" && PublishedPort ? [PublishedPort] : [],
  );
}

/** A sentence for each node and port. */
export function listenerNotes(report: NetReport, ports: readonly number[]): string[] {
  const wanted = new Set(ports.map((port) => `${port}/tcp`));
  return report.nodes.flatMap(({ hostname, findings }) =>
    findings
      .filter(({ check, about }) => check === "listeners" && wanted.has(about))
      .map(({ seen, fix }) => `${hostname}: ${seen}${fix === undefined ? "" : `: ${fix}`}`),
  );
}
