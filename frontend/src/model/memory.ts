/** What was worked out of a set of vectors: kept as long as the set, as the reader may come back to it. */

import type { TokenSet } from "../data/types";
import type { Row, Scene } from "./scene";

export interface Memory {
  readonly vectors: readonly Float32Array[];
  readonly lifts: WeakMap<Float32Array, Float32Array>;
  /** Statistics of the vectors by name, each a value a place. */
  readonly known: Map<string, (number | undefined)[]>;
  /** The scene that was made of it last. */
  last: Scene | null;
}

/** With special tokens and without them. */
export const memories = new WeakMap<TokenSet, Map<boolean, Memory>>();
const holes = new WeakMap<TokenSet, boolean>();
const keyed = new WeakMap<readonly Row[], ReadonlyMap<string, Row>>();

/** Whether the set itself lacks values. */
export function incomplete(set: TokenSet): boolean {
  let found = holes.get(set);
  if (found === undefined) {
    const { values } = set;
    let at = 0;
    while (at < values.length && values[at] === values[at]) at++; // a callback for each of millions would take a frame
    holes.set(set, (found = at < values.length));
  }
  return found;
}

export function byKey(rows: readonly Row[]): ReadonlyMap<string, Row> {
  let known = keyed.get(rows);
  if (!known) keyed.set(rows, (known = new Map(rows.map((row) => [row.key, row]))));
  return known;
}
