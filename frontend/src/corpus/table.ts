/** Every token of every document with its mean over the vectors: where a token stands elsewhere, and which tokens stand out. */

import { aggregate } from "../model/aggregate";
import { decode, wholes } from "../data/codec";
import type { Collection } from "../data/types";
import type { Ranked } from "../views/extensions";

export interface Corpus {
  readonly words: readonly string[];
  /** Of `words`, those that are special. */
  readonly special: ReadonlySet<number>;
  /** Where each document begins in `ids` and `means`, and the end of the last. */
  readonly starts: readonly number[];
  readonly ids: Uint32Array;
  readonly means: Float32Array;
  readonly causal: ReadonlySet<number>;
}

export interface Occurrence {
  readonly document: number;
  readonly token: number;
  readonly value: number;
  readonly lift: number;
}

interface CorpusJson {
  words: string[];
  special: number[];
  causal: number[];
  sizes: number[];
  ids: string;
  means: string;
  precision?: string;
}

const known = new WeakMap<Collection, Promise<Corpus>>();

/** Read once a collection: from the page, or out of the documents themselves where the file has no table. */
export function corpusOf(collection: Collection): Promise<Corpus> {
  let found = known.get(collection);
  if (!found) known.set(collection, (found = read(collection)));
  return found;
}

async function read(collection: Collection): Promise<Corpus> {
  const json = collection.part("corpus", 0) as CorpusJson | null;
  if (!json) return gather(collection);
  const starts = [0];
  for (const size of json.sizes) starts.push((starts[starts.length - 1] as number) + size);
  const total = starts[starts.length - 1] as number;
  return { words: json.words, special: new Set(json.special), causal: new Set(json.causal), starts, ids: await wholes(json.ids), means: await decode(json.means, json.precision ?? "u16", total) };
}

async function gather(collection: Collection): Promise<Corpus> {
  const index = new Map<string, number>();
  const [words, special, causal] = [[] as string[], new Set<number>(), new Set<number>()];
  const [starts, ids, means] = [[0], [] as number[], [] as number[]];
  for (let document = 0; document < collection.rows.length; document++) {
    const set = (await collection.load(document)).sets[0];
    const size = set?.tokens.length ?? 0;
    if (set?.causal) causal.add(document);
    const vectors = (set?.rows ?? []).map((_, row) => (set as NonNullable<typeof set>).values.subarray(row * size, (row + 1) * size));
    means.push(...aggregate("mean", vectors, size));
    set?.tokens.forEach((token, i) => {
      let id = index.get(token);
      if (id === undefined) index.set(token, (id = words.push(token) - 1));
      if (set.special[i]) special.add(id);
      ids.push(id);
    });
    starts.push(ids.length);
  }
  return { words, special, causal, starts, ids: Uint32Array.from(ids), means: Float32Array.from(means) };
}

function* everywhere({ starts, ids, means, causal }: Corpus): Generator<Occurrence & { id: number }> {
  for (let document = 0; document + 1 < starts.length; document++) {
    const start = starts[document] as number;
    const size = (starts[document + 1] as number) - start;
    const seen = causal.has(document);
    for (let token = seen ? 1 : 0; token < size; token++) {
      const value = means[start + token] as number;
      if (value === value) yield { document, token, value, lift: value * (seen ? token + 1 : size), id: ids[start + token] as number };
    }
  }
}

/** All places of a token. */
export function occurrences(corpus: Corpus, word: string): Occurrence[] {
  const id = corpus.words.indexOf(word);
  return id < 0 ? [] : [...everywhere(corpus)].filter((one) => one.id === id);
}


/** Tokens by their mean value or lift, largest first; rarer ones than `least` are left out. */
export async function ranking(collection: Collection, by: "value" | "lift", least: number, special: boolean): Promise<Ranked[]> {
  const corpus = await corpusOf(collection);
  const sums = new Float64Array(corpus.words.length);
  const counts = new Uint32Array(corpus.words.length);
  for (const one of everywhere(corpus)) {
    sums[one.id] = (sums[one.id] as number) + one[by];
    counts[one.id] = (counts[one.id] as number) + 1;
  }
  const found: Ranked[] = [];
  corpus.words.forEach((word, id) => {
    const count = counts[id] as number;
    if (count >= least && (special || !corpus.special.has(id))) found.push({ word, count, value: (sums[id] as number) / count });
  });
  return found.sort((a, b) => b.value - a.value);
}

/** The tokens around a place, for a line of context. */
export function around({ words, starts, ids }: Corpus, document: number, token: number, reach: number): { before: string[]; after: string[] } {
  const [start, end] = [starts[document] as number, starts[document + 1] as number];
  const at = start + token;
  const names = (from: number, to: number): string[] => Array.from(ids.subarray(Math.max(start, from), Math.min(end, to)), (id) => words[id] as string);
  return { before: names(at - reach, at), after: names(at + 1, at + 1 + reach) };
}
