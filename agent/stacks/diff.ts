/** What differs between two specs, field by field, for people. */

import { MAP_FIELDS } from "../../core/orchestrator/task-dirty.ts";

/** `from` or `to` absent: the field is new, or gone. Values are as they would be in JSON. */
export type FieldChange = { path: string; from?: unknown; to?: unknown };

/** Of one object; what is beyond is counted in a last line. */
const CHANGES_MAX = 100;

/**
 * The fields that differ, in the order of `to`. Absent, null, empty and zero are the same, as for Go's clients.
 * Lists of texts are compared as sets: an item that went or came is a change of its own.
 */
export function diffFields(from: unknown, to: unknown): FieldChange[] {
  const changes: FieldChange[] = [];
  compare("", from, to, changes);
  if (changes.length <= CHANGES_MAX) return changes;
  const rest = changes.length - CHANGES_MAX;
  return [...changes.slice(0, CHANGES_MAX), { path: `… and ${rest} more` }];
}

function compare(path: string, from: unknown, to: unknown, changes: FieldChange[]): void {
  if (isRecord(from) || isRecord(to)) {
    if ((!isRecord(from) && !isEmpty(from)) || (!isRecord(to) && !isEmpty(to))) {
      changes.push(fieldChange(path, from, to));
      return;
    }
    const left = isRecord(from) ? from : {};
    const right = isRecord(to) ? to : {};
    const isMap = MAP_FIELDS.has(path.slice(path.lastIndexOf(".") + 1));
    for (const key of new Set([...Object.keys(right), ...Object.keys(left)])) {
      const field = path === "" ? key : `${path}.${key}`;
      if (!isMap) compare(field, left[key], right[key], changes);
      else if (left[key] !== right[key])
        changes.push({ path: field, ...ends(left[key], right[key]) });
    }
    return;
  }
  if (isList(from) && isList(to)) {
    compareLists(path, from, to, changes);
    return;
  }
  if (from !== to && !(isEmpty(from) && isEmpty(to))) changes.push(fieldChange(path, from, to));
}

function isList(value: unknown): value is unknown[] | undefined | null {
  return Array.isArray(value) || value === undefined || value === null;
}

function compareLists(
  path: string,
  from: unknown[] | undefined | null,
  to: unknown[] | undefined | null,
  changes: FieldChange[],
): void {
  const left = (from ?? []).map((item) => JSON.stringify(item));
  const right = (to ?? []).map((item) => JSON.stringify(item));
  const gone = left.filter((item) => !right.includes(item));
  const come = right.filter((item) => !left.includes(item));
  for (const item of gone) changes.push({ path, from: JSON.parse(item) as unknown });
  for (const item of come) changes.push({ path, to: JSON.parse(item) as unknown });
  const isReordered = gone.length + come.length === 0 && left.join() !== right.join();
  if (isReordered) changes.push(fieldChange(path, from, to));
}

/** As they are; one that is not there is absent. */
function ends(from: unknown, to: unknown): Omit<FieldChange, "path"> {
  return { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
}

function fieldChange(path: string, from: unknown, to: unknown): FieldChange {
  return { path, ...(isEmpty(from) ? {} : { from }), ...(isEmpty(to) ? {} : { to }) };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === 0 || value === "" || value === false) {
    return true;
  }
  if (Array.isArray(value)) return value.length === 0;
  return false;
}
