/** The order of vectors, and whether two lists of them are the same. */

import type { Side } from "../data/types";
import type { Row } from "./scene";
import type { State } from "./state";

/** The same rows in the same order. */
export function sameRows(one: readonly Row[], other: readonly Row[]): boolean {
  return one.length === other.length && one.every((row, i) => row.values === other[i]?.values);
}

/** The same rows, in whatever order: aggregates do not ask for one. */
export function sameSet(one: readonly Row[], other: readonly Row[]): boolean {
  if (sameRows(one, other)) return true;
  if (one.length !== other.length) return false;
  const known = new Set(one.map((row) => row.values));
  return other.every((row) => known.has(row.values));
}

/** Rows as the reader wants them: by their own place, by value, by cluster, or as they were moved. */
export function ordered(rows: readonly Row[], state: State, mean: (row: Row) => number, side: Side | null): Row[] {
  if (state.arrange === "value" || state.arrange === "layer") {
    const within = state.arrange === "layer";
    const down = sortedBy(rows, (row) => -mean(row));
    return within ? sortedBy(down, (row) => row.base.gridRow) : down;
  }
  const leaves = state.arrange === "cluster" ? side?.cluster?.order : undefined;
  if (leaves) {
    const place = new Map(leaves.map((leaf, i) => [leaf, i]));
    const columns = side?.heads.length ?? 1;
    const rank = ({ base }: Row): number => place.get(base.gridRow * columns + base.gridColumn) ?? 0;
    return sortedBy(rows, rank);
  }
  if (!state.order.length) return [...rows];
  const place = new Map(state.order.map((key, i) => [key, i]));
  return sortedBy(rows, (row) => place.get(row.key) ?? rows.length);
}

/** By a number that is worked out once a row. */
function sortedBy(rows: readonly Row[], rank: (row: Row) => number): Row[] {
  return rows.map((row) => ({ row, rank: rank(row) })).sort((a, b) => a.rank - b.rank).map(({ row }) => row);
}
