import type { RaftIndex } from "../ids.ts";
import type { TableName, Tables } from "./action.ts";
import type { ClusterView } from "./view.ts";

/** `<table>/<id>`: names one object in indexes over several tables. */
export type ObjectKey = string;

/**
 * What `apply` needs of a store: the reads of a view, the three indexes behind the refusals
 * (claims.ts), and writes. Writes check nothing: apply has. `core/store/memory-rows.ts` implements it.
 */
export type RowStore = ClusterView & {
  get<T extends TableName>(table: T, id: string): Tables[T] | undefined;
  /**
   * Creates or replaces.
   * @throws when the object is so malformed that its claims cannot be read; nothing is changed then.
   */
  put<T extends TableName>(table: T, object: Tables[T]): void;
  delete(table: TableName, id: string): void;
  /** The object that holds an exclusive claim. */
  exclusiveHolder(claim: string): ObjectKey | undefined;
  /** The objects that hold a shared claim, ordered. */
  sharedHolders(claim: string): readonly ObjectKey[];
  /** The objects that use `target`, ordered. */
  referrers(target: ObjectKey): readonly ObjectKey[];
  /** Records that the entry at `index` is contained. */
  setIndex(index: RaftIndex): void;
};
