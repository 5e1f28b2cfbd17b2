/** Files that are either their old or their new text, whole, after a crash at any point. Synchronous: small files. */
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";

/** Undefined when there is no such file. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Replaces the file; its name is on disk only after syncDirectory(). */
export function writeAtomically(path: string, text: string, mode: number): void {
  const temporary = `${path}.tmp`;
  // A leftover of a crash may have other rights: start from none.
  rmSync(temporary, { force: true });
  const file = openSync(temporary, "wx", mode);
  try {
    writeFileSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
}

/** What was renamed in the directory is on disk when it returns. */
export function syncDirectory(dir: string): void {
  const directory = openSync(dir, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}
