/**
 * Before each file of tests: property tests take the same random values in every run, so that a run says
 * something about the change and not about its luck. SHOAL_TEST_SEED=random (or a number) looks elsewhere.
 */
import { configureGlobal } from "fast-check";

const SEED = 20_261_122;
const wanted = process.env["SHOAL_TEST_SEED"];
if (wanted !== "random") {
  configureGlobal({ seed: wanted === undefined ? SEED : Number(wanted) });
}
