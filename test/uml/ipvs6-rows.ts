/**
 * The rows of IPv6 by IPVS, inside of User-Mode Linux. By hand, since they take as long as those of
 * IPv4: bun scripts/uml.ts "$(command -v bun)" test --timeout=60000 ./test/uml/ipvs6-rows.ts
 */
import { describeIpv6Matrix } from "../net/mesh/ipv6-matrix.ts";

describeIpv6Matrix({ backend: "ipvs" });
