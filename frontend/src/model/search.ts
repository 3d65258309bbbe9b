/** Which documents the table lists, and in which order. */

import type { Collection, DocumentRow } from "../data/types";
import type { Filters, SortKey, Special } from "./state";

/** Negative log-likelihood of the true class; null where label or probabilities are unknown. */
export function loss(row: DocumentRow): number | null {
  if (row.label === null || row.probabilities === null) return null;
  const share = row.probabilities[row.label];
  return share === null || share === undefined ? null : -Math.log(Math.max(share, 1e-12));
}

export function correct(row: DocumentRow): boolean | null {
  return row.label === null || row.prediction === null ? null : row.label === row.prediction;
}

export function confidence(row: DocumentRow): number | null {
  return row.prediction === null ? null : (row.probabilities?.[row.prediction] ?? null);
}

function within(value: number | null, [low, high]: readonly [number | null, number | null]): boolean {
  if (low === null && high === null) return true;
  return value !== null && (low === null || value >= low) && (high === null || value <= high);
}

export function matches(row: DocumentRow, filters: Filters, query: string): boolean {
  if (query && !row.text.toLowerCase().includes(query) && !row.name.toLowerCase().includes(query)) return false;
  if (filters.outcome !== "all" && correct(row) !== (filters.outcome === "correct")) return false;
  if (filters.label !== null && row.label !== filters.label) return false;
  if (filters.prediction !== null && row.prediction !== filters.prediction) return false;
  return within(row.tokens, filters.tokens) && within(loss(row), filters.loss);
}

function sortValue(row: DocumentRow, index: number, key: SortKey, classes: readonly string[], special: Special): number | string | null {
  switch (key) {
    case "index":
      return index;
    case "name":
      return row.name;
    case "ok": {
      const right = correct(row);
      return right === null ? null : Number(right);
    }
    case "prediction":
      return row.prediction === null ? null : (classes[row.prediction] ?? String(row.prediction));
    case "label":
      return row.label === null ? null : (classes[row.label] ?? String(row.label));
    case "probability":
      return confidence(row);
    case "loss":
      return loss(row);
    case "tokens":
      return row.tokens;
    case "mean":
      return special === "in" ? row.meanIn : row.mean;
  }
}

/** Indices of the documents that pass, sorted; those without the value come last either way. */
export function listed(collection: Collection, filters: Filters, [key, direction]: readonly [SortKey, 1 | -1], special: Special): number[] {
  const query = filters.query.trim().toLowerCase();
  const found: number[] = [];
  collection.rows.forEach((row, index) => {
    if (matches(row, filters, query)) found.push(index);
  });
  if (key === "index") return direction === 1 ? found : found.reverse();
  const values = new Map(found.map((index) => [index, sortValue(collection.rows[index] as DocumentRow, index, key, collection.classes, special)]));
  return found.sort((a, b) => {
    const left = values.get(a) ?? null;
    const right = values.get(b) ?? null;
    if (left === null || right === null) return left === right ? a - b : left === null ? 1 : -1;
    const order = typeof left === "string" ? left.localeCompare(String(right)) : left - (right as number);
    return order * direction || a - b;
  });
}

/** The text cut into parts, those that match marked. */
export function marked(text: string, query: string): { text: string; hit: boolean }[] {
  const wanted = query.trim().toLowerCase();
  const lower = text.toLowerCase();
  if (!wanted || lower.length !== text.length) return [{ text, hit: false }];
  const parts: { text: string; hit: boolean }[] = [];
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    if (at > from) parts.push({ text: text.slice(from, at), hit: false });
    parts.push({ text: text.slice(at, at + wanted.length), hit: true });
    from = at + wanted.length;
  }
  if (from < text.length) parts.push({ text: text.slice(from), hit: false });
  return parts;
}
