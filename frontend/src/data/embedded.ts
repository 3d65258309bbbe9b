/** Reads the data that the page (or the widget) carries. It was written by attviz, but a damaged file must still be told. */

import { looksSpecial } from "../model/tokens";
import { decode } from "./codec";
import { gridRows, namedRows, type RowPlan } from "./rows";
import { type Collection, DataFault, type DocumentRow, type Insight, type Measure, type PageDocument, type Side, type TokenSet } from "./types";

interface GridJson {
  layers: { index: number; name: string }[];
  heads: number[];
}

interface SideJson extends Partial<Omit<Side, "layers" | "heads">> {
  grid?: GridJson;
}

interface HeadJson extends SideJson {
  format: number;
  title: string;
  model: string;
  grid?: GridJson;
  sides?: SideJson[];
  measure?: Measure;
  insights?: Insight[];
  about?: Record<string, string>;
  classes: string[];
  documents: Partial<DocumentRow>[];
  extensions?: string[];
}

interface SetJson {
  name?: string;
  visible?: boolean;
  tokens: string[];
  /** True for the first side of the page, else its number. */
  grid?: boolean | number;
  causal?: boolean;
  special?: number[];
  offsets?: number[];
  rows?: { name?: string | number; color?: string; visible?: boolean }[];
}

interface ChunkJson {
  sets: SetJson[];
  precision: string;
  data: string;
  patches?: [number, number];
  image?: string;
  highlight?: [number, number];
}

const KEPT_DOCUMENTS = 24;

function parse<T>(text: string, what: string): T {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new DataFault(`${what} of this page is damaged; make the page again.`);
  }
}

/** `chunk(i)` gives the JSON text of document i, `part` that of an extension's part ("pairs-0"), null where there is none. */
export function readEmbedded(headText: string, chunk: (index: number) => string, part: (name: string) => string | null = () => null): Collection {
  const head = parse<HeadJson>(headText, "The head");
  if (head.format !== 1) throw new DataFault(`This page holds format ${String(head.format)}; its script reads format 1.`);
  const measure = head.measure ?? null;
  const sides = head.grid ? (head.sides ?? [head]).map((side) => readSide(side, measure)) : [];
  const cache = new Map<number, Promise<PageDocument>>();
  const load = (index: number): Promise<PageDocument> => {
    const known = cache.get(index);
    if (known) return known;
    if (cache.size >= KEPT_DOCUMENTS) cache.delete(cache.keys().next().value as number);
    // In a promise from the start, so that a missing chunk is told like a damaged one.
    const made = Promise.resolve().then(() => readDocument(parse<ChunkJson>(chunk(index), `Document ${index}`), index, sides));
    cache.set(index, made);
    return made;
  };
  return {
    title: head.title,
    model: head.model,
    layers: head.grid?.layers ?? [],
    heads: head.grid?.heads ?? [],
    classes: head.classes,
    sides,
    measure,
    insights: head.insights ?? [],
    about: head.about ?? {},
    rows: head.documents.map(fullRow),
    load,
    extensions: head.extensions ?? [],
    part: (name, index) => {
      const found = part(`${name}-${index}`);
      return found === null ? null : parse<unknown>(found, `The ${name} data of document ${index}`);
    },
  };
}

function fullRow(row: Partial<DocumentRow>): DocumentRow {
  return {
    name: row.name ?? "",
    text: row.text ?? "",
    tokens: row.tokens ?? 0,
    mean: row.mean ?? null,
    meanIn: row.meanIn ?? row.mean ?? null,
    label: row.label ?? null,
    prediction: row.prediction ?? null,
    probabilities: row.probabilities ?? null,
  };
}

function readSide(side: SideJson, measure: Measure | null): Side {
  const ranges = side.ranges ?? { out: {}, in: {} };
  return { name: side.name ?? "", layers: side.grid?.layers ?? [], heads: side.grid?.heads ?? [], overall: side.overall ?? {}, overallIn: side.overallIn ?? {}, measure, ranges, cluster: side.cluster ?? null };
}

const plans = new WeakMap<Side, RowPlan>();

/** The same rows serve every document of a side: there may be thousands. */
function planOf(side: Side): RowPlan {
  let plan = plans.get(side);
  if (!plan) plans.set(side, (plan = gridRows(side.layers, side.heads)));
  return plan;
}

async function readDocument(chunk: ChunkJson, index: number, sides: readonly Side[]): Promise<PageDocument> {
  const made = chunk.sets.map((set, place): RowPlan => {
    const side = sides[Number(set.grid) - Number(set.grid === true)];
    if (set.grid && side) return planOf(side);
    const vectors = (set.rows ?? []).map((row) => ({ name: row.name ?? null, color: row.color ?? null, visible: row.visible !== false }));
    return namedRows(vectors, place);
  });
  const sizes = chunk.sets.map((set, place) => (made[place] as RowPlan).rows.length * set.tokens.length);
  const values = await decode(chunk.data, chunk.precision, sizes.reduce((sum, size) => sum + size, 0));
  let start = 0;
  const sets = chunk.sets.map((set, place) => {
    const part = values.subarray(start, (start += sizes[place] as number));
    return readSet(set, made[place] as RowPlan, part, place);
  });
  const image = chunk.image?.startsWith("data:image/") ? chunk.image : null;
  return { index, sets, patches: chunk.patches ?? null, image, highlight: chunk.highlight ?? null };
}

function readSet(set: SetJson, plan: RowPlan, values: Float32Array, place: number): TokenSet {
  const special = set.tokens.map((token) => (set.special ? false : looksSpecial(token)));
  for (const at of set.special ?? []) special[at] = true;
  return {
    name: set.name ?? `set ${place}`,
    visible: set.visible !== false,
    tokens: set.tokens,
    special,
    offsets: set.offsets ?? [],
    causal: set.causal ?? causalLike(values, plan.rows.length, set.tokens.length),
    rows: plan.rows,
    values,
    rowLabels: plan.rowLabels,
    columnLabels: plan.columnLabels,
  };
}

/** A causal mask gives the first token exactly 1 in every vector. */
export function causalLike(values: Float32Array, rows: number, tokens: number): boolean {
  if (tokens < 2 || rows === 0) return false;
  for (let row = 0; row < rows; row++) if (!((values[row * tokens] as number) >= 1 - 1e-6)) return false;
  return true;
}
