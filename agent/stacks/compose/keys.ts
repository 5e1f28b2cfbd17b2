/**
 * The keys of compose files: what each becomes, or why it becomes nothing. The table in DESIGN.md is this one
 * (test/agent/stacks/compose/keys.test.ts). Keys that begin with `x-` are for people and other programs.
 */
import type { Mapping } from "./node.ts";
import { nearestName } from "../../nearest-name.ts";
import { type Report, refuseKey, warn } from "./report.ts";
import { DEPLOY_SECTIONS } from "./keys-deploy.ts";
import { SERVICE_KEYS } from "./keys-service.ts";

/** Where the value goes; or the warning, or the error, that the key is. */
export type KeyRule = { to: string } | { warning: string } | { error: string };
export type KeyRules = Readonly<Record<string, KeyRule>>;

const CREATE = "POST /networks/create";

const FILE_KEYS: KeyRules = {
  version: { to: "nothing; it says no more than that the file is one" },
  name: { to: "nothing; a warning when it is not the stack's name" },
  services: { to: "services" },
  networks: { to: "networks that a service is attached to" },
  volumes: { to: "the mounts that name them" },
  secrets: { to: "secrets, externals.secrets" },
  configs: { to: "configs, externals.configs" },
  include: { error: "name the files one after the other (-c a.yml -c b.yml)" },
  models: { error: "the cluster runs no models: run one as a service" },
};

const LABELS = { labels: { to: "Labels" } } as const;
const EXTERNAL = {
  name: { to: "the name, as it is" },
  external: { to: "it must be there already; the older `external: {name: …}` too" },
} as const;
const DATA_KEYS: KeyRules = {
  ...EXTERNAL,
  ...LABELS,
  file: { to: "Data: the file's contents" },
  content: { to: "Data: the text; of configs only" },
  environment: { to: "Data: the variable's value" },
  template_driver: { to: "Templating.Name" },
};

/** By what has them. */
export const KEY_SECTIONS: Readonly<Record<string, KeyRules>> = {
  file: FILE_KEYS,
  service: SERVICE_KEYS,
  ...DEPLOY_SECTIONS,
  "service.depends_on.*": {
    condition: { to: "started, healthy or completed" },
    required: { to: "false: left out if there is no such service" },
    restart: { to: "nothing; a warning when it is true" },
  },
  "service.networks.*": {
    aliases: { to: "Networks[].Aliases" },
    ipv4_address: { to: "Shoal.Addresses" },
    driver_opts: { to: "Networks[].DriverOpts" },
    ipv6_address: { warning: "it follows from the IPv4 address: set ipv4_address" },
    link_local_ips: { warning: "link-local addresses end at the node, whose tasks come and go" },
    mac_address: { warning: "set mac_address of the service: it is that of its first network" },
    priority: { warning: "networks are attached in the order of their names" },
    gw_priority: { warning: "the first network by name that is not internal is the way out" },
    interface_name: { warning: "interfaces are named by the engine" },
  },
  network: {
    ...EXTERNAL,
    ...LABELS,
    driver: { to: `Driver of ${CREATE}; overlay unless given` },
    driver_opts: { to: "Options" },
    internal: { to: "Internal" },
    attachable: { to: "Attachable" },
    enable_ipv6: { to: "EnableIPv6" },
    enable_ipv4: { warning: "networks of the cluster always have IPv4" },
    ipam: { to: "IPAM" },
  },
  "network.ipam": {
    driver: { to: "IPAM.Driver" },
    config: { to: "IPAM.Config" },
    options: { to: "IPAM.Options" },
  },
  "network.ipam.config[]": {
    subnet: { to: "Subnet" },
    gateway: { to: "Gateway" },
    ip_range: { to: "IPRange" },
    aux_addresses: { to: "AuxiliaryAddresses" },
  },
  volume: {
    ...EXTERNAL,
    labels: { to: "VolumeOptions.Labels of the mounts" },
    driver: { to: "VolumeOptions.DriverConfig.Name" },
    driver_opts: { to: "VolumeOptions.DriverConfig.Options" },
  },
  secret: {
    ...DATA_KEYS,
    driver: { error: "there are no external secret drivers: give a file" },
    driver_opts: { error: "there are no external secret drivers: give a file" },
  },
  config: DATA_KEYS,
};

/** Reports the keys of a map that are not known, or that come to nothing. */
export function checkKeys(report: Report, section: string, map: Mapping): void {
  const rules = KEY_SECTIONS[section] ?? {};
  for (const [key, node] of map.entries) {
    if (key.startsWith("x-")) continue;
    const rule = Object.hasOwn(rules, key) ? rules[key] : undefined;
    if (!rule) {
      const near = nearestName(key, Object.keys(rules));
      const hint = near === undefined ? "remove it, or name it x-…" : `did you mean ${near}?`;
      refuseKey(report, node, `there is no such key: ${hint}`);
    } else if ("error" in rule) refuseKey(report, node, rule.error);
    else if ("warning" in rule) warn(report, node, `ignored: ${rule.warning}`);
  }
}
