/** Addresses of either family as the plan sorts and writes them. Pure. */
import { parseIpv4 } from "./ipv4.ts";
import { compareText } from "./plan-lists.ts";

/** The block of this one address. */
export function hostBlock(address: string): string {
  return `${address}/${address.includes(":") ? 128 : 32}`;
}

/** By value in IPv4, by text in IPv6. */
export function compareAddress(a: string, b: string): number {
  return (parseIpv4(a) ?? 0) - (parseIpv4(b) ?? 0) || compareText(a, b);
}

/** As sorted by `compareAddress`, but each address is read once. */
export function sortByAddress<Item>(
  items: readonly Item[],
  addressOf: (item: Item) => string,
): Item[] {
  return items
    .map((item) => ({ item, address: addressOf(item), value: parseIpv4(addressOf(item)) ?? 0 }))
    .sort((a, b) => a.value - b.value || compareText(a.address, b.address))
    .map(({ item }) => item);
}

/** Up to so many are read again and again: most lists are a service's few tasks. */
const SHORT = 16;

/** Each address once, sorted. */
export function uniqueAddresses(addresses: readonly string[]): string[] {
  const sorted =
    addresses.length <= SHORT
      ? [...addresses].sort(compareAddress)
      : sortByAddress(addresses, (address) => address);
  return sorted.filter((address, place) => address !== sorted[place - 1]);
}
