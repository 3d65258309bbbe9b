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
  if (one.length !== other.length) return false;
  const known = new Set(one.map((row) => row.values));
  return other.every((row) => known.has(row.values));
}

/** Rows as the reader wants them: by their own place, by value, by cluster, or as they were moved. */
export function ordered(rows: readonly Row[], state: State, mean: (row: Row) => number, side: Side | null): Row[] {
  const result = [...rows];
  const byValue = state.arrange === "value" || state.arrange === "layer";
  const means = new Map(byValue ? result.map((row) => [row, mean(row)]) : []);
  const down = (a: Row, b: Row): number => (means.get(b) as number) - (means.get(a) as number);
  if (state.arrange === "value") return result.sort(down);
  if (state.arrange === "layer") return result.sort((a, b) => a.base.gridRow - b.base.gridRow || down(a, b));
  const leaves = state.arrange === "cluster" ? side?.cluster?.order : undefined;
  if (leaves) {
    const place = new Map(leaves.map((leaf, i) => [leaf, i]));
    const columns = side?.heads.length ?? 1;
    const rank = ({ base }: Row): number => place.get(base.gridRow * columns + base.gridColumn) ?? 0;
    return result.sort((a, b) => rank(a) - rank(b));
  }
  if (!state.order.length) return result;
  const place = new Map(state.order.map((key, i) => [key, i]));
  const rank = (row: Row): number => place.get(row.key) ?? Infinity;
  return result.sort((a, b) => {
    const left = rank(a);
    const right = rank(b);
    return left === right ? 0 : left - right;
  });
}
