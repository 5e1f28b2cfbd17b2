/** Words of a command that is one text, as a shell would split it; nothing is expanded. Pure. */

/**
 * `undefined` when a quote or a backslash is not closed. A `#` at the start of a word begins a comment.
 * Source: google/shlex, which docker uses.
 */
export function splitWords(text: string): string[] | undefined {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  let isEscaped = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] ?? "";
    if (isEscaped) {
      word = (word ?? "") + char;
      isEscaped = false;
    } else if (char === "\\" && quote !== "'") {
      isEscaped = true;
    } else if (quote !== "") {
      if (char === quote) quote = "";
      else word = (word ?? "") + char;
    } else if (char === '"' || char === "'") {
      quote = char;
      word ??= "";
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (char === "#" && word === undefined) {
      const end = text.indexOf("\n", i);
      if (end < 0) break;
      i = end;
    } else {
      word = (word ?? "") + char;
    }
  }
  if (quote !== "" || isEscaped) return undefined;
  if (word !== undefined) words.push(word);
  return words;
}
