/** The name that was perhaps meant, for messages. Pure. */

/** The known name that is least different, if it can be meant: up to a third of it differs. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  let best: { name: string; distance: number } | undefined;
  for (const one of known) {
    const distance = editDistance(name.toLowerCase().slice(0, 64), one.toLowerCase());
    if (!best || distance < best.distance) best = { name: one, distance };
  }
  return best && best.distance <= Math.max(2, best.name.length / 3) ? best.name : undefined;
}

/** Source: Levenshtein's distance, Wagner and Fischer. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
