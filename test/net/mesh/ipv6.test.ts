/** The data path in IPv6, in real kernels: the rows of matrix.ts as far as the families differ. */
import { describeIpv6Matrix } from "./ipv6-matrix.ts";

describeIpv6Matrix({ backend: "nftables" });
describeIpv6Matrix({ backend: "iptables", variant: "nft" });
describeIpv6Matrix({ backend: "iptables", variant: "legacy" });
