/** What the state makes of the open document: rows in force, aggregates, scales. Made once for each change that matters. */

import type { BaseRow, PageDocument, Side, TokenSet } from "../data/types";
import { type Aggregate, aggregate, AGGREGATE_NAMES, AGGREGATES, isEntropy, type Statistic, statistic } from "./aggregate";
import { DASHES, type Palette } from "./color";
import { byKey, incomplete, memories, type Memory } from "./memory";
import { ordered, sameRows, sameSet } from "./order";
import { type Fit, fit, fitBetween, SAMPLE, type ScaleName } from "./scale";
import { aggregateOf, type State } from "./state";
import { type Piece, pieces, rightToLeft } from "./tokens";

export interface Row {
  readonly key: string;
  readonly name: string;
  readonly color: string | null;
  readonly hidden: boolean;
  readonly base: BaseRow;
  /** Place in the set, as the file has it. */
  readonly place: number;
  readonly values: Float32Array;
}

export interface Pin {
  readonly key: string;
  readonly name: string;
  readonly color: string;
  readonly dash: readonly number[];
  readonly hidden: boolean;
  /** Lifted where the scale is lift. */
  readonly values: Float32Array;
}

export interface Tint {
  readonly key: string;
  readonly values: Float32Array;
  readonly fit: Fit;
}

const MANY_ROWS = 1200;

export class Scene {
  readonly tokens: number;
  readonly pieces: readonly Piece[];
  readonly rtl: boolean;
  /** Every vector that was not removed, in the reader's order. */
  readonly rows: readonly Row[];
  /** Those that are drawn: not hidden, and in the focus if there is one. */
  readonly shown: readonly Row[];
  /** Those that feed the aggregates: in the focus if there is one. */
  readonly counted: readonly Row[];
  readonly removed: readonly BaseRow[];
  /** Special tokens are left out: their values are missing. */
  readonly without: boolean;
  /** All of the set is hidden at once. */
  readonly setHidden: boolean;
  readonly scale: ScaleName;
  /** The same object as long as series, dots and names stay as they are. */
  readonly drawn: object = {};
  readonly #kept: readonly Row[];
  readonly #aggregates: Map<Aggregate, Float32Array> = new Map();
  readonly #lifts: WeakMap<Float32Array, Float32Array>;
  /** Values of each vector: the same arrays from scene to scene, as what is known of them hangs on them. */
  readonly #vectors: readonly Float32Array[];

  constructor(
    readonly document: PageDocument,
    readonly set: TokenSet,
    readonly text: string,
    private current: State,
    readonly side: Side | null = null,
  ) {
    this.tokens = set.tokens.length;
    const marks = set.special.filter(Boolean).length;
    this.without = current.special === "out" && marks > 0 && marks < this.tokens;
    const memory = this.#remembered();
    const same = memory.last;
    const spelled = same ?? memories.get(set)?.get(!this.without)?.last;
    this.pieces = spelled?.pieces ?? pieces(set, text);
    this.rtl = spelled?.rtl ?? rightToLeft(this.pieces.find((piece) => !piece.special && /\p{L}/u.test(piece.text))?.text ?? "");
    memory.last = this;
    this.#vectors = memory.vectors;
    [this.#lifts, this.#known] = [memory.lifts, memory.known];
    const state = current;
    const scales = side?.measure?.scales;
    this.scale = scales && !scales.includes(state.scale) ? (scales[0] as ScaleName) : state.scale;
    const whole = state.sets[document.sets.indexOf(set)];
    this.setHidden = whole?.hidden ?? !set.visible;
    const { edits, sets } = state;
    this.removed = set.rows.filter((base) => edits[base.key]?.removed);
    // The same rows as before where nobody edited them: there may be thousands.
    const kept = same?.state.edits === edits && same.state.sets === sets ? same.#kept : whole?.removed ? [] : set.rows.flatMap((base, place) => (edits[base.key]?.removed ? [] : this.#row(base, place)));
    // Ranked by what the map shows: this text, or all of them.
    const overall = state.scope === "all" ? (this.without ? side?.overall : side?.overallIn)?.["mean"] : undefined;
    const columns = side?.heads.length ?? 1;
    this.rows = ordered(kept, state, (row) => (overall?.[row.base.gridRow * columns + row.base.gridColumn] ?? this.statistic("mean", row, true)) || 0, side);
    this.#kept = kept;
    const focus = state.focus ? new Set(state.focus) : null;
    const inFocus = focus ? this.rows.filter((row) => focus.has(row.key)) : this.rows;
    this.counted = inFocus.length ? inFocus : this.rows;
    this.shown = this.counted.filter((row) => !row.hidden);
    if (same && sameSet(same.counted, this.counted)) this.#aggregates = same.#aggregates;
    if (same && (same.scale === "lift") === (this.scale === "lift") && sameRows(same.shown, this.shown)) {
      this.#cachedSample = same.#cachedSample;
      if (same.#aggregates === this.#aggregates) this.drawn = same.drawn;
    }
  }

  get state(): State {
    return this.current;
  }

  /** Takes a newer state that leaves rows, focus and scale as they are. */
  follow(state: State): void {
    this.current = state;
  }

  /** Vectors of the set with and without special tokens, and what is known of them: kept, as the reader may switch back. */
  #remembered(): Memory {
    const both = memories.get(this.set) ?? new Map<boolean, Memory>();
    const memory = both.get(this.without) ?? { vectors: this.#split(), lifts: new WeakMap(), known: new Map(), last: null };
    memories.set(this.set, both.set(this.without, memory));
    return memory;
  }

  /** Whether the file itself lacks values. */
  get incomplete(): boolean {
    return incomplete(this.set);
  }

  /** The values of each vector, special tokens missing where they are left out. */
  #split(): Float32Array[] {
    const { rows, special, values } = this.set;
    const size = this.tokens;
    const all = this.without ? values.slice() : values;
    if (this.without) special.forEach((mark, token) => mark && rows.forEach((_, place) => (all[place * size + token] = NaN)));
    return rows.map((_, place) => all.subarray(place * size, (place + 1) * size));
  }

  #row(base: BaseRow, place: number): Row {
    const edit = this.state.edits[base.key];
    return {
      key: base.key,
      name: edit?.name ?? base.name,
      color: edit?.color ?? base.color,
      hidden: this.setHidden || (edit?.hidden ?? !base.visible),
      base,
      place,
      values: this.#vectors[place] as Float32Array,
    };
  }

  find(key: string): Row | undefined {
    return byKey(this.#kept).get(key);
  }

  /** Keys the token saw: what lift multiplies by. */
  visibleKeys(token: number): number {
    return this.set.causal ? token + 1 : this.tokens;
  }

  /** An aggregate of the counted vectors, as it is. */
  plain(name: Aggregate): Float32Array {
    let values = this.#aggregates.get(name);
    if (!values) {
      values = aggregate(name, this.counted.map((row) => row.values), this.tokens);
      this.#aggregates.set(name, values);
    }
    return values;
  }

  /** An aggregate on the scale in force. */
  aggregate(name: Aggregate): Float32Array {
    return isEntropy(name) ? this.plain(name) : this.lifted(this.plain(name));
  }

  /** Values times visible keys where the scale is lift, else as they are. */
  lifted(values: Float32Array): Float32Array {
    if (this.scale !== "lift") return values;
    let result = this.#lifts.get(values);
    if (!result) {
      result = new Float32Array(this.tokens);
      for (let token = 0; token < this.tokens; token++) result[token] = (values[token] as number) * this.visibleKeys(token);
      this.#lifts.set(values, result);
    }
    return result;
  }

  /** Values of a vector or an aggregate by its key, on the scale in force; null where it is not there. */
  valuesOf(key: string): Float32Array | null {
    const name = aggregateOf(key);
    if (name) return this.aggregate(name);
    const row = this.find(key);
    return row ? this.lifted(row.values) : null;
  }

  nameOf(key: string): string {
    const name = aggregateOf(key);
    if (name) return this.state.edits[key]?.name ?? `${AGGREGATE_NAMES[name]} of ${this.counted.length}`;
    return this.find(key)?.name ?? key;
  }

  pins(palette: Palette): Pin[] {
    const result: Pin[] = [];
    this.state.pins.forEach((key, place) => {
      const values = this.valuesOf(key);
      if (!values) return;
      const edit = this.state.edits[key];
      const row = this.find(key);
      result.push({
        key,
        name: this.nameOf(key),
        color: edit?.color ?? row?.color ?? (palette.pins[place % palette.pins.length] as string),
        dash: DASHES[place % DASHES.length] as readonly number[],
        hidden: row ? row.hidden : (edit?.hidden ?? false),
        values,
      });
    });
    return result;
  }

  /** The vectors and aggregates one can tint by. */
  tintChoices(): (readonly [string, string])[] {
    const { pins, tint } = this.state;
    // A list of thousands is of no use and takes longer than a frame: there the pinned ones, and any other by its menu.
    const listed = this.rows.length > MANY_ROWS ? this.rows.filter(({ key }) => key === tint || pins.includes(key)) : this.rows;
    const vectors = listed.map((row) => [row.key, row.name] as const);
    const names = AGGREGATES.map((name) => [`agg:${name}`, this.nameOf(`agg:${name}`)] as const);
    return [["off", "no tint"], ...names, ...vectors];
  }

  tint(): Tint | null {
    const key = this.state.tint;
    if (this.#cachedTint?.key === key) return this.#cachedTint;
    const values = key === "off" ? null : this.valuesOf(key);
    const name = aggregateOf(key);
    if (!values) return null;
    return (this.#cachedTint = { key, values, fit: name && isEntropy(name) ? fit(values, this.scale) : this.fitted(values) });
  }
  #cachedTint: Tint | null = null;

  /** The scale of strokes and matrix: fitted to all drawn vectors together, so that they compare. */
  matrixFit(): Fit {
    return (this.#cachedFit ??= this.fitted(this.sample()));
  }
  #cachedFit: Fit | null = null;

  /** The scale of these values, or that of all documents where the reader asked for one. */
  fitted(values: Float32Array | Float64Array): Fit {
    const ends = this.state.range === "corpus" ? this.side?.ranges[this.without ? "out" : "in"][this.scale] : undefined;
    return ends ? fitBetween(ends[0], ends[1], this.scale) : fit(values, this.scale);
  }

  /** Values of the drawn vectors on the scale in force, thinned out evenly where there are many. */
  sample(): Float32Array {
    return (this.#cachedSample ??= this.#thinned());
  }
  #cachedSample: Float32Array | null = null;

  #thinned(): Float32Array {
    const rows = this.shown;
    const step = Math.max(1, Math.floor((rows.length * this.tokens) / SAMPLE));
    const kept = new Float32Array(Math.ceil((rows.length * this.tokens) / step));
    const lift = this.scale === "lift";
    let token = 0;
    let at = 0;
    for (const { values } of rows) {
      for (; token < this.tokens; token += step) kept[at++] = (values[token] as number) * (lift ? this.visibleKeys(token) : 1);
      token -= this.tokens;
    }
    return kept.subarray(0, at);
  }

  /** Statistic of a vector on the scale in force, or of its values as they are. */
  statistic(name: Statistic, row: Row, asIs = false): number {
    const lift = this.scale === "lift" && !asIs;
    const plain = !lift || !this.set.causal;
    const key = `${name} ${plain}`;
    let known = this.#known.get(key);
    if (!known) this.#known.set(key, (known = []));
    const value = (known[row.place] ??= statistic(name, plain ? row.values : this.lifted(row.values)));
    // Each of them grows with its values: where all tokens saw as many keys, the factor can wait until here.
    return plain && lift ? value * this.tokens : value;
  }
  readonly #known: Memory["known"];
}
