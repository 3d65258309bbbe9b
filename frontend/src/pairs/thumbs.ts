/** Small pictures of heads: sampled queries down, groups of keys across, the largest weight of each group. */

import type { Layer } from "./layer";

export const SIDE = 48;

export interface Thumb {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

/** Queries that a thumbnail shows. */
export function sampled(qLen: number): number[] {
  const count = Math.min(qLen, SIDE);
  return Array.from({ length: count }, (_, i) => (count < 2 ? 0 : Math.round((i * (qLen - 1)) / (count - 1))));
}

let scratch = new Float32Array(0);

export function thumbnail(layer: Layer, head: number): Thumb {
  const { qLen, kvLen } = layer;
  const queries = sampled(qLen);
  const columns = Math.min(kvLen, SIDE);
  const values = new Float32Array(queries.length * columns);
  if (scratch.length < queries.length * kvLen) scratch = new Float32Array(queries.length * kvLen);
  layer.rows(head, queries, scratch);
  for (let column = 0; column < columns; column++) {
    const [from, to] = [Math.ceil((column * kvLen) / columns), Math.ceil(((column + 1) * kvLen) / columns)];
    for (let r = 0; r < queries.length; r++) {
      let most = 0;
      for (let j = r * kvLen + from; j < r * kvLen + to; j++) if ((scratch[j] as number) > most) most = scratch[j] as number;
      values[r * columns + column] = most;
    }
  }
  return { rows: queries.length, columns, values };
}
