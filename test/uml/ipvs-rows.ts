/** Run inside of User-Mode Linux by test/lab/mesh-ipvs.test.ts: the matrix on a kernel with IPVS. */
import { describeMatrix } from "../net/mesh/matrix.ts";

describeMatrix({ backend: "ipvs", hasSctp: true });
