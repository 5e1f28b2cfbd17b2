/**
 * Keeps one connection and asks on it again and again, until a line comes on standard input; prints
 * `ready` after the first answer and a HoldResult as JSON at the end. Arguments: host, port.
 */
import { connect } from "./load.ts";

export type HoldResult = {
  answerCount: number;
  /** Between two answers. */
  longestGapMs: number;
  /** Tasks that answered: one, unless something is very wrong. */
  answers: string[];
  failure?: string;
};

const PERIOD_MS = 50;

async function main(host: string, port: number): Promise<HoldResult> {
  let isOver = false;
  process.stdin.once("data", () => {
    isOver = true;
  });
  const result: HoldResult = { answerCount: 0, longestGapMs: 0, answers: [] };
  const seen = new Set<string>();
  try {
    const connection = await connect({ host, port });
    let lastMs = performance.now();
    while (!isOver) {
      const { text } = await connection.ask(true);
      const nowMs = performance.now();
      result.longestGapMs = Math.max(result.longestGapMs, Math.round(nowMs - lastMs));
      lastMs = nowMs;
      if (result.answerCount === 0) console.log("ready");
      result.answerCount += 1;
      seen.add(text);
      await Bun.sleep(PERIOD_MS);
    }
    connection.close();
  } catch (error) {
    result.failure = String(error);
  }
  return { ...result, answers: [...seen] };
}

if (import.meta.main) {
  const [host = "", port = ""] = process.argv.slice(2);
  console.log(JSON.stringify(await main(host, Number(port))));
  process.exit(0);
}
