/** Weights of the shown heads as CSV: one line a query and head, one column a key. */

import { single, toCsv } from "../data/csv";
import type { PairsData } from "./data";
import type { Choice } from "./options";

export async function pairsCsv(data: PairsData, choice: Choice): Promise<string[]> {
  const layer = await data.layer(choice.layer);
  const { meta, qLen, kvLen } = layer;
  const { sides } = data.meta;
  const keys = sides[meta.k]?.tokens ?? [];
  const queries = sides[meta.q]?.tokens ?? [];
  const parts = [toCsv([["layer", "head", "query", "token", ...keys.map((token, key) => `${key} ${token}`)]])];
  const row = new Float32Array(kvLen);
  for (const head of choice.heads) {
    for (let query = 0; query < qLen; query++) {
      layer.row(head, query, row);
      parts.push(toCsv([[meta.name, meta.heads[head] ?? head, query, queries[query] ?? "", ...Array.from(row, single)]]));
    }
  }
  return parts;
}
