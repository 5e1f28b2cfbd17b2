/**
 * A map that forgets: at least the newest `keptMin` keys are there, at most twice as many. Two maps that
 * take turns, because a map from which the oldest key is taken each time gets slow: finding that key
 * passes over all that were taken before it (measured: 14 % of a loaded leader's main thread).
 */
export type Recent<V> = {
  get(key: string): V | undefined;
  set(key: string, value: V): void;
  delete(key: string): void;
};

export function createRecent<V>(keptMin: number): Recent<V> {
  let young = new Map<string, V>();
  let old = new Map<string, V>();
  return {
    get: (key) => young.get(key) ?? old.get(key),
    set: (key, value) => {
      young.set(key, value);
      if (young.size < keptMin) return;
      old = young;
      young = new Map();
    },
    delete: (key) => {
      young.delete(key);
      old.delete(key);
    },
  };
}
