import { assert } from "../assert.ts";
import type { UnixMs } from "../ids.ts";

const RENEW_FROM = 0.5;
const RENEW_UNTIL = 0.8;

/**
 * When a node asks for its next certificate: uniform between 50 and 80 % of the certificate's life,
 * so that nodes which joined together do not renew together, and a fifth of the life is left for
 * retries. `unitRandom` is in [0, 1). The result may be in the past (renew at once).
 *
 * Source: SwarmKit ca/renewer.go, calculateRandomExpiry.
 */
export function renewAtMs(
  certificate: { notBeforeMs: UnixMs; notAfterMs: UnixMs },
  unitRandom: number,
): UnixMs {
  assert(unitRandom >= 0 && unitRandom < 1, `Random ${unitRandom} is in [0, 1)`);
  const lifeMs = certificate.notAfterMs - certificate.notBeforeMs;
  assert(lifeMs > 0, `A certificate's life is positive, got ${lifeMs} ms`);
  const fraction = RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * unitRandom;
  return Math.floor(certificate.notBeforeMs + lifeMs * fraction);
}
