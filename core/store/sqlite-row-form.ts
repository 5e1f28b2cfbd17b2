/** How rows lie in state.db: bodies and names in clear, or sealed (../sqlite-seal.ts). */
import { isSealedText, type RowSealer } from "../sqlite-seal.ts";
import type { TableName } from "./action.ts";

type StoredRow = { id: string; version: number; body: string };

export type RowForm = {
  seal(table: TableName, row: StoredRow): string;
  /** @throws {ClusterError} internal when it cannot be opened. */
  open(table: TableName, row: StoredRow): string;
  /** What stands in the column that a name is looked for in. */
  nameOf(name: string): string;
  /** Whether a body is of this form. */
  isOf(body: string): boolean;
};

export const CLEAR_ROWS: RowForm = {
  seal: (_, { body }) => body,
  open: (_, { body }) => body,
  nameOf: (name) => name,
  isOf: (body) => !isSealedText(body),
};

/** Opened bodies of a reader, in characters: opening costs three times what parsing does. */
const OPENED_LENGTH_MAX = 16 * 1024 * 1024;

/**
 * Id and version are authenticated with the body. `isReader`: of one who reads the same rows again and again; what
 * was opened is kept beside the sealed text that it came from.
 */
export function sealedRows(sealer: RowSealer, isReader = false): RowForm {
  const contextOf = (table: TableName, { id, version }: StoredRow) => `${table} ${id} ${version}`;
  const opened = new Map<string, { stored: string; body: string }>();
  let openedLength = 0;
  const keep = (key: string, stored: string, body: string) => {
    openedLength += stored.length + body.length;
    if (openedLength > OPENED_LENGTH_MAX) {
      opened.clear();
      openedLength = stored.length + body.length;
    }
    opened.set(key, { stored, body });
  };
  return {
    seal: (table, row) => sealer.sealText(contextOf(table, row), row.body),
    open: (table, row) => {
      const key = `${table} ${row.id}`;
      const known = opened.get(key);
      if (known?.stored === row.body) return known.body;
      const body = sealer.openText(contextOf(table, row), row.body);
      if (isReader) keep(key, row.body, body);
      return body;
    },
    nameOf: (name) => sealer.tokenOf(name),
    isOf: isSealedText,
  };
}
