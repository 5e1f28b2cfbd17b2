/**
 * What compose files mean to the cluster: by full names, without ids, as plain JSON that can be kept
 * as a revision of a stack. Only types.
 */
import type { ServiceSpec } from "../../../core/objects/service.ts";

/** In the shape of the body of POST /networks/create. */
export type NetworkModel = {
  Name: string;
  Driver: string;
  Labels: Record<string, string>;
  Options: Record<string, string>;
  Internal: boolean;
  Attachable: boolean;
  EnableIPv6: boolean;
  IPAM: {
    Driver: string;
    Options: Record<string, string>;
    Config: {
      Subnet?: string;
      IPRange?: string;
      Gateway?: string;
      AuxiliaryAddresses?: Record<string, string>;
    }[];
  };
};

/** A secret or config to be made. Its name has a digest of the data, unless the file names it. */
export type DataModel = {
  Name: string;
  Labels: Record<string, string>;
  Templating?: { Name: string };
  /** base64 */
  Data: string;
};

export type StackModel = {
  /**
   * In the Docker API's shape as `docker stack deploy` would send them, but: a network's Target is its
   * full name; references to secrets and configs have the name and an empty id. What Docker's API lacks
   * is in ContainerSpec.Shoal. Ordered by name.
   */
  services: ServiceSpec[];
  /** Networks to be created, ordered by name. */
  networks: NetworkModel[];
  /** What must be there already, by name. */
  externals: { networks: string[]; secrets: string[]; configs: string[] };
  secrets: DataModel[];
  configs: DataModel[];
};

export type ComposeFile = { name: string; text: string };

export type ComposeInput = {
  stack: string;
  /** In the order in which they override each other. */
  files: ComposeFile[];
  /**
   * For interpolation. `PWD` (or an absolute name of the first file) is what relative sources of binds
   * are relative to, `HOME` is their `~`.
   */
  env: Record<string, string>;
  /** base64, by the path as the files write it. */
  contents: Record<string, string>;
};

export type ComposeResult = { model: StackModel; warnings: string[] };
