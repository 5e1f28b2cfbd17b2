/** The keys of `deploy` and of the smaller maps of a service; see keys.ts. */
import type { KeyRules } from "./keys.ts";

const UPDATE_KEYS: KeyRules = {
  parallelism: { to: "Parallelism; 1 unless given" },
  delay: { to: "Delay" },
  failure_action: { to: "FailureAction" },
  monitor: { to: "Monitor" },
  max_failure_ratio: { to: "MaxFailureRatio" },
  order: { to: "Order" },
};

const FILE_REFERENCE_KEYS: KeyRules = {
  source: { to: "the name of what it is" },
  target: { to: "File.Name; the source unless given" },
  uid: { to: "File.UID" },
  gid: { to: "File.GID" },
  mode: { to: "File.Mode; 0444 unless given" },
};

const DEVICE_REQUEST_KEYS: KeyRules = {
  driver: { to: "DeviceRequests[].Driver" },
  count: { to: "Count" },
  device_ids: { to: "DeviceIDs" },
  capabilities: { to: "Capabilities" },
  options: { to: "Options" },
};

const BLKIO_RATES = Object.fromEntries(
  ["device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops"].map((key) => [
    key,
    { to: "BlkioDevice…" },
  ]),
);

export const DEPLOY_SECTIONS: Readonly<Record<string, KeyRules>> = {
  "service.deploy": {
    mode: { to: "Mode" },
    replicas: { to: "Mode.Replicated.Replicas; of a job: MaxConcurrent and TotalCompletions" },
    endpoint_mode: { to: "EndpointSpec.Mode" },
    labels: { to: "Labels of the service" },
    update_config: { to: "UpdateConfig" },
    rollback_config: { to: "RollbackConfig" },
    resources: { to: "Resources" },
    restart_policy: { to: "RestartPolicy" },
    placement: { to: "Placement" },
  },
  "service.deploy.update_config": UPDATE_KEYS,
  "service.deploy.rollback_config": UPDATE_KEYS,
  "service.deploy.resources": {
    limits: { to: "Resources.Limits" },
    reservations: { to: "Resources.Reservations" },
  },
  "service.deploy.resources.limits": {
    cpus: { to: "NanoCPUs" },
    memory: { to: "MemoryBytes" },
    pids: { to: "Pids" },
  },
  "service.deploy.resources.reservations": {
    cpus: { to: "NanoCPUs" },
    memory: { to: "MemoryBytes" },
    generic_resources: { to: "GenericResources" },
    devices: { to: "Shoal.DeviceRequests" },
  },
  "service.deploy.resources.reservations.generic_resources[]": {
    discrete_resource_spec: { to: "DiscreteResourceSpec: kind and value" },
  },
  "service.deploy.resources.reservations.devices[]": DEVICE_REQUEST_KEYS,
  "service.gpus[]": DEVICE_REQUEST_KEYS,
  "service.deploy.restart_policy": {
    condition: { to: "Condition" },
    delay: { to: "Delay" },
    max_attempts: { to: "MaxAttempts" },
    window: { to: "Window" },
  },
  "service.deploy.placement": {
    constraints: { to: "Constraints" },
    preferences: { to: "Preferences: spread" },
    max_replicas_per_node: { to: "MaxReplicas" },
  },
  "service.healthcheck": {
    test: { to: "Test; one text is CMD-SHELL" },
    interval: { to: "Interval" },
    timeout: { to: "Timeout" },
    retries: { to: "Retries" },
    start_period: { to: "StartPeriod" },
    start_interval: { to: "StartInterval" },
    disable: { to: "Test: NONE" },
  },
  "service.logging": { driver: { to: "LogDriver.Name" }, options: { to: "LogDriver.Options" } },
  "service.ports[]": {
    target: { to: "TargetPort" },
    published: { to: "PublishedPort" },
    protocol: { to: "Protocol" },
    mode: { to: "PublishMode" },
    host_ip: { warning: "the port is published on all addresses" },
    name: { to: "Name" },
    app_protocol: { warning: "it tells other programs about the port" },
  },
  "service.volumes[]": {
    type: { to: "Type" },
    source: { to: "Source" },
    target: { to: "Target" },
    read_only: { to: "ReadOnly" },
    consistency: { to: "Consistency" },
    bind: { to: "BindOptions" },
    volume: { to: "VolumeOptions" },
    tmpfs: { to: "TmpfsOptions" },
    image: { to: "ImageOptions" },
  },
  "service.volumes[].bind": {
    propagation: { to: "BindOptions.Propagation" },
    create_host_path: { to: "Shoal.Binds in place of the mount, if true" },
    selinux: { to: "Shoal.Binds in place of the mount" },
    recursive: { warning: "mounts below the source are bound as the engine does it" },
  },
  "service.volumes[].volume": {
    nocopy: { to: "VolumeOptions.NoCopy" },
    subpath: { to: "VolumeOptions.Subpath" },
    labels: { to: "VolumeOptions.Labels" },
  },
  "service.volumes[].tmpfs": {
    size: { to: "TmpfsOptions.SizeBytes" },
    mode: { to: "TmpfsOptions.Mode" },
  },
  "service.volumes[].image": { subpath: { to: "ImageOptions.Subpath" } },
  "service.secrets[]": FILE_REFERENCE_KEYS,
  "service.configs[]": FILE_REFERENCE_KEYS,
  "service.blkio_config": {
    weight: { to: "BlkioWeight" },
    weight_device: { to: "BlkioWeightDevice" },
    ...BLKIO_RATES,
  },
  "service.env_file[]": {
    path: { to: "Env" },
    required: { to: "nothing; if false, the file may be missing" },
    format: { warning: "lines are KEY=value as they are, as in docker stack" },
  },
  "service.devices[]": {
    source: { to: "PathOnHost" },
    target: { to: "PathInContainer" },
    permissions: { to: "CgroupPermissions" },
  },
};
