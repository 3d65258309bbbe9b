/** What the page carries of pairs: attviz/viewer/pairs.py writes it. */

import { DataFault } from "../data/types";

export interface Side {
  readonly tokens: readonly string[];
  readonly special?: readonly number[];
}

export interface LayerMeta {
  readonly name: string;
  readonly cross: boolean;
  /** Place of the query tokens and of the key tokens among the sides. */
  readonly q: number;
  readonly k: number;
  /** Indices of the heads in the model. */
  readonly heads: readonly number[];
  /** q_len, kv_len */
  readonly size: readonly [number, number];
  readonly form: "f16" | "f32" | "weights";
  /** For each head the place of its key head. */
  readonly kv?: readonly number[];
  readonly dim?: number;
  readonly scale?: number;
  /** Query i sees key j where low <= j - i <= high; null is no limit. */
  readonly band?: readonly [number | null, number | null];
  readonly error?: number;
  readonly bias?: readonly ["line" | "full", number];
  readonly hidden?: number;
}

export interface PairsMeta {
  readonly sides: readonly Side[];
  readonly layers: readonly LayerMeta[];
}

function isMeta(value: unknown): value is PairsMeta {
  const meta = value as PairsMeta | null;
  if (!meta || !Array.isArray(meta.sides) || !Array.isArray(meta.layers)) return false;
  return meta.layers.every((layer) => meta.sides[layer.q]?.tokens.length === layer.size[0] && meta.sides[layer.k]?.tokens.length === layer.size[1]);
}

export function readMeta(value: unknown, index: number): PairsMeta | null {
  if (value === null) return null;
  if (!isMeta(value)) throw new DataFault(`The pairs of document ${index} are damaged; make the page again.`);
  return value;
}
