/** The matrix of the data path by the back-ends that this machine's kernel has; IPVS: test/uml. */
import { describeMatrix } from "./matrix.ts";

describeMatrix({ backend: "nftables" });
describeMatrix({ backend: "iptables", variant: "nft" });
describeMatrix({ backend: "iptables", variant: "legacy" });
