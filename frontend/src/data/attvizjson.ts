/** Opens an AttViz JSON file dropped on the page: everything is checked, and a fault is told with its path. */

import { looksSpecial } from "../model/tokens";
import { causalLike } from "./embedded";
import { type NamedVector, namedRows } from "./rows";
import { type Collection, DataFault, type DocumentRow, type PageDocument, type TokenSet } from "./types";

export const MAX_FILE_BYTES = 256 * 2 ** 20;
const MAX_DOCUMENTS = 100_000;

type Json = Record<string, unknown>;

function object(value: unknown, path: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new DataFault(`${path}: an object is expected, found ${kind(value)}.`);
  return value as Json;
}

function list(value: unknown, path: string): unknown[] {
  if (!Array.isArray(value)) throw new DataFault(`${path}: a list is expected, found ${kind(value)}.`);
  return value;
}

function kind(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : typeof value === "object" ? "an object" : `${typeof value} ${JSON.stringify(value).slice(0, 40)}`;
}

function text(value: unknown, path: string): string {
  if (typeof value !== "string") throw new DataFault(`${path}: a string is expected, found ${kind(value)}.`);
  return value;
}

function number(value: unknown, path: string): number {
  const result = typeof value === "number" ? value : typeof value === "string" && value.trim() !== "" ? Number(value) : NaN;
  if (!Number.isFinite(result)) throw new DataFault(`${path}: not a number: ${typeof value === "string" ? `'${value.slice(0, 40)}'` : kind(value)}.`);
  return result;
}

function share(value: unknown, path: string): number {
  const result = number(value, path);
  if (result < 0 || result > 1) throw new DataFault(`${path}: must be from 0 to 1, got ${result}.`);
  return result;
}

function roots(parsed: unknown): unknown[] {
  if (Array.isArray(parsed)) return parsed;
  const keyed = object(parsed, "the file");
  const keys = Object.keys(keyed);
  if (!keys.length || !keys.every((key) => /^\d+$/.test(key))) {
    throw new DataFault('the file: an AttViz JSON is a list of documents, or an object with the keys "0", "1", ...');
  }
  return keys.sort((a, b) => Number(a) - Number(b)).map((key) => keyed[key]);
}

export function parseAttvizJson(source: string, name: string): Collection {
  let parsed: unknown;
  try {
    parsed = JSON.parse(source);
  } catch (error) {
    const why = error instanceof RangeError ? "it is nested too deeply" : error instanceof Error ? error.message : String(error);
    throw new DataFault(`${name} is no JSON: ${why}`);
  }
  const documents = roots(parsed);
  if (!documents.length) throw new DataFault(`${name} holds no document.`);
  if (documents.length > MAX_DOCUMENTS) throw new DataFault(`${name} holds ${documents.length} documents; the page takes ${MAX_DOCUMENTS}.`);
  const classes: string[] = [];
  const read = documents.map((document, index) => readDocument(document, index, classes));
  return {
    title: name,
    model: "",
    layers: [],
    heads: [],
    classes,
    sides: [],
    measure: null,
    insights: [],
    about: {},
    rows: read.map((one) => one.row),
    load: (index) => Promise.resolve((read[index] as Read).document),
    extensions: [],
    part: () => null,
  };
}

interface Read {
  readonly row: DocumentRow;
  readonly document: PageDocument;
}

function readDocument(value: unknown, index: number, classes: string[]): Read {
  const path = `[${index}]`;
  const json = object(value, path);
  const sets = list(json["sets"] ?? [], `${path}.sets`).map((set, place) => readSet(set, `${path}.sets[${place}]`, place));
  const scores = readScores(json["output_activations"], path, classes);
  const values = sets.flatMap((set) => [mean(set.values)]).filter(Number.isFinite);
  const best = scores?.reduce((top: number, score, place) => (score !== null && (top < 0 || score > (scores[top] as number)) ? place : top), -1);
  const row: DocumentRow = {
    name: json["name"] === undefined || json["name"] === null ? "" : String(json["name"]),
    text: json["text"] === undefined ? (sets[0]?.tokens.join(" ") ?? "") : text(json["text"], `${path}.text`),
    tokens: sets[0]?.tokens.length ?? 0,
    mean: values.length ? (values[0] as number) : null,
    meanIn: values.length ? (values[0] as number) : null,
    label: typeof json["label"] === "string" ? known(classes, json["label"]) : null,
    prediction: best === undefined || best < 0 ? null : best,
    probabilities: scores,
  };
  return { row, document: { index, sets, patches: null, image: null, highlight: readHighlight(json["hilight"], `${path}.hilight`) } };
}

function mean(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

function readScores(value: unknown, path: string, classes: string[]): (number | null)[] | null {
  if (value === undefined || value === null) return null;
  const scores: (number | null)[] = [];
  list(value, `${path}.output_activations`).forEach((one, place) => {
    const at = `${path}.output_activations[${place}]`;
    const json = object(one, at);
    const name = json["name"] === undefined || json["name"] === null ? `class ${place}` : String(json["name"]);
    let known = classes.indexOf(name);
    if (known < 0) known = classes.push(name) - 1;
    while (scores.length <= known) scores.push(null);
    scores[known] = number(json["value"], `${at}.value`);
  });
  return scores.length ? scores : null;
}

function readHighlight(value: unknown, path: string): readonly [number, number] | null {
  if (value === undefined || value === null) return null;
  const json = object(value, path);
  return [number(json["block"] ?? 0, `${path}.block`), number(json["vectors"] ?? 0, `${path}.vectors`)];
}

function known(classes: string[], name: string): number {
  const place = classes.indexOf(name);
  return place < 0 ? classes.push(name) - 1 : place;
}

/** What the file says, else by their spelling. */
function specialOf(value: unknown, tokens: readonly string[]): boolean[] {
  return Array.isArray(value) ? tokens.map((_, i) => value.includes(i)) : tokens.map(looksSpecial);
}

function readSet(value: unknown, path: string, place: number): TokenSet {
  const json = object(value, path);
  const tokens = list(json["tokens"], `${path}.tokens`).map((token, i) => text(token, `${path}.tokens[${i}]`));
  const vectors = list(json["attention_vectors"] ?? [], `${path}.attention_vectors`);
  const named: NamedVector[] = [];
  const values = new Float32Array(vectors.length * tokens.length);
  vectors.forEach((vector, row) => {
    const at = `${path}.attention_vectors[${row}]`;
    const one = object(vector, at);
    const numbers = list(one["vectors"], `${at}.vectors`);
    if (numbers.length !== tokens.length) {
      throw new DataFault(`${at}.vectors: ${numbers.length} values for ${tokens.length} tokens; a vector has one value a token.`);
    }
    numbers.forEach((item, i) => (values[row * tokens.length + i] = share(item, `${at}.vectors[${i}]`)));
    const { name, color, layer, head, missing } = one;
    if (Array.isArray(missing)) for (const token of missing) if (Number.isInteger(token) && token >= 0 && token < tokens.length) values[row * tokens.length + (token as number)] = NaN;
    named.push({
      name: typeof name === "string" || typeof name === "number" ? name : null,
      color: typeof color === "string" ? color : null,
      visible: one["visible"] !== false,
      place: Number.isInteger(layer) && Number.isInteger(head) ? `L${String(layer)}\u00b7H${String(head)}` : null,
    });
  });
  const plan = namedRows(named, place);
  return {
    name: typeof json["name"] === "string" && json["name"] ? json["name"] : `set ${place}`,
    visible: json["visible"] !== false,
    tokens,
    special: specialOf(json["special"], tokens),
    offsets: [],
    causal: causalLike(values, named.length, tokens.length),
    values,
    ...plan,
  };
}
