/**
 * Options of a container that Docker's ServiceSpec has no word for, under the engine's own names and in
 * its own shapes. What each means, its label and its place: agent/reconciler/container-options.ts.
 *
 * Source: Docker Engine API, HostConfig and ContainerConfig of POST /containers/create.
 */
export type DeviceMapping = {
  PathOnHost: string;
  PathInContainer: string;
  CgroupPermissions: string;
};
export type DeviceRequest = {
  Driver?: string;
  Count?: number;
  DeviceIDs?: string[];
  Capabilities?: string[][];
  Options?: Record<string, string>;
};
export type ThrottleDevice = { Path: string; Rate: number };
export type WeightDevice = { Path: string; Weight: number };

export type ContainerOptions = {
  Privileged?: boolean;
  Devices?: DeviceMapping[];
  DeviceCgroupRules?: string[];
  DeviceRequests?: DeviceRequest[];
  SecurityOpt?: string[];
  MaskedPaths?: string[];
  ReadonlyPaths?: string[];
  PidMode?: string;
  IpcMode?: string;
  UTSMode?: string;
  UsernsMode?: string;
  CgroupnsMode?: string;
  NetworkMode?: string;
  CgroupParent?: string;
  Runtime?: string;
  Annotations?: Record<string, string>;
  ShmSize?: number;
  Tmpfs?: Record<string, string>;
  Binds?: string[];
  VolumesFrom?: string[];
  VolumeDriver?: string;
  StorageOpt?: Record<string, string>;
  CpuShares?: number;
  CpuPeriod?: number;
  CpuQuota?: number;
  CpuRealtimePeriod?: number;
  CpuRealtimeRuntime?: number;
  CpusetCpus?: string;
  CpusetMems?: string;
  MemoryReservation?: number;
  MemorySwap?: number;
  MemorySwappiness?: number;
  OomKillDisable?: boolean;
  OomScoreAdj?: number;
  BlkioWeight?: number;
  BlkioWeightDevice?: WeightDevice[];
  BlkioDeviceReadBps?: ThrottleDevice[];
  BlkioDeviceWriteBps?: ThrottleDevice[];
  BlkioDeviceReadIOps?: ThrottleDevice[];
  BlkioDeviceWriteIOps?: ThrottleDevice[];
  PublishAllPorts?: boolean;
  ExposedPorts?: Record<string, Record<string, never>>;
  MacAddress?: string;
  /**
   * Addresses that the task is given on overlay networks, by the network's name or id; "" stands for the
   * first that is not ingress. Carried out by the allocator (core/allocator/fixed.ts).
   */
  Addresses?: Record<string, string>;
  Domainname?: string;
  OpenStdin?: boolean;
  StdinOnce?: boolean;
  Shell?: string[];
  /** How the image is had; not part of the container. */
  PullPolicy?: string;
};
