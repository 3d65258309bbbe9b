/** What the state makes of the open document: rows in force, aggregates, scales. Made once for each change that matters. */

import type { BaseRow, PageDocument, TokenSet } from "../data/types";
import { type Aggregate, aggregate, AGGREGATE_NAMES, AGGREGATES, isEntropy, type Statistic, statistic } from "./aggregate";
import { DASHES, type Palette } from "./color";
import { type Fit, fit, type ScaleName } from "./scale";
import { aggregateOf, type State } from "./state";
import { type Piece, pieces } from "./tokens";

export interface Row {
  readonly key: string;
  readonly name: string;
  readonly color: string | null;
  readonly hidden: boolean;
  readonly base: BaseRow;
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

export class Scene {
  readonly tokens: number;
  readonly pieces: readonly Piece[];
  /** Every vector that was not removed, in the reader's order. */
  readonly rows: readonly Row[];
  /** Those that are drawn: not hidden, and in the focus if there is one. */
  readonly shown: readonly Row[];
  /** Those that feed the aggregates: in the focus if there is one. */
  readonly counted: readonly Row[];
  readonly removed: readonly BaseRow[];
  readonly scale: ScaleName;
  private readonly byKey: ReadonlyMap<string, Row>;
  private readonly aggregates: Map<Aggregate, Float32Array> = new Map();
  private readonly lifts = new Map<Float32Array, Float32Array>();

  constructor(
    readonly document: PageDocument,
    readonly set: TokenSet,
    readonly text: string,
    private current: State,
    before: Scene | null = null,
  ) {
    this.tokens = set.tokens.length;
    this.pieces = before?.set === set ? before.pieces : pieces(set, text);
    const state = current;
    this.scale = state.scale;
    const all = set.rows.map((base, place) => this.row(base, place));
    this.removed = set.rows.filter((base) => state.edits[base.key]?.removed);
    const kept = all.filter((row) => !state.edits[row.key]?.removed);
    this.rows = ordered(kept, state);
    this.byKey = new Map(kept.map((row) => [row.key, row]));
    const focus = state.focus ? new Set(state.focus) : null;
    const inFocus = focus ? this.rows.filter((row) => focus.has(row.key)) : this.rows;
    this.counted = inFocus.length ? inFocus : this.rows;
    this.shown = this.counted.filter((row) => !row.hidden);
    if (before && sameValues(before.counted, this.counted)) this.aggregates = before.aggregates;
    if (before && (before.scale === "lift") === (this.scale === "lift") && sameValues(before.rows, this.rows)) this.known = before.known;
  }

  get state(): State {
    return this.current;
  }

  /** Takes a newer state that leaves rows, focus and scale as they are. */
  follow(state: State): void {
    this.current = state;
  }

  private row(base: BaseRow, place: number): Row {
    const edit = this.state.edits[base.key];
    return {
      key: base.key,
      name: edit?.name ?? base.name,
      color: edit?.color ?? base.color,
      hidden: edit?.hidden ?? !base.visible,
      base,
      values: this.set.values.subarray(place * this.tokens, (place + 1) * this.tokens),
    };
  }

  find(key: string): Row | undefined {
    return this.byKey.get(key);
  }

  /** Keys the token saw: what lift multiplies by. */
  visibleKeys(token: number): number {
    return this.set.causal ? token + 1 : this.tokens;
  }

  /** An aggregate of the counted vectors, as it is. */
  plain(name: Aggregate): Float32Array {
    let values = this.aggregates.get(name);
    if (!values) {
      values = aggregate(name, this.counted.map((row) => row.values), this.tokens);
      this.aggregates.set(name, values);
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
    let result = this.lifts.get(values);
    if (!result) {
      result = values.map((value, token) => value * this.visibleKeys(token));
      this.lifts.set(values, result);
    }
    return result;
  }

  /** Values of a vector or an aggregate by its key, on the scale in force; null where it is not there. */
  valuesOf(key: string): Float32Array | null {
    const name = aggregateOf(key);
    if (name) return this.aggregate(name);
    const row = this.byKey.get(key);
    return row ? this.lifted(row.values) : null;
  }

  nameOf(key: string): string {
    const name = aggregateOf(key);
    if (name) return this.state.edits[key]?.name ?? `${AGGREGATE_NAMES[name]} of ${this.counted.length}`;
    return this.byKey.get(key)?.name ?? key;
  }

  pins(palette: Palette): Pin[] {
    const result: Pin[] = [];
    this.state.pins.forEach((key, place) => {
      const values = this.valuesOf(key);
      if (!values) return;
      const edit = this.state.edits[key];
      const row = this.byKey.get(key);
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
    const vectors = this.rows.map((row) => [row.key, row.name] as const);
    const names = AGGREGATES.map((name) => [`agg:${name}`, this.nameOf(`agg:${name}`)] as const);
    return [["off", "no tint"], ...names, ...vectors];
  }

  tint(): { values: Float32Array; fit: Fit; name: string } | null {
    const values = this.state.tint === "off" ? null : this.valuesOf(this.state.tint);
    if (!values) return null;
    // Special tokens are not tinted, and their large values must not pale the others.
    const words = values.filter((_, token) => !this.set.special[token]);
    return { values, fit: fit(words.length ? words : values, this.scale), name: this.nameOf(this.state.tint) };
  }

  /** The scale of strokes and matrix: fitted to all drawn vectors together, so that they compare. */
  matrixFit(): Fit {
    return (this.cachedFit ??= fit(this.sample(), this.scale));
  }
  private cachedFit: Fit | null = null;

  /** Values of the drawn vectors on the scale in force, thinned out evenly where there are many. */
  sample(): Float32Array {
    return (this.cachedSample ??= this.thinned());
  }
  private cachedSample: Float32Array | null = null;

  private thinned(): Float32Array {
    const rows = this.shown;
    const step = Math.max(1, Math.floor((rows.length * this.tokens) / 20_000));
    const kept = new Float32Array(Math.ceil((rows.length * this.tokens) / step));
    let at = 0;
    for (let i = 0; i < rows.length * this.tokens; i += step) {
      const token = i % this.tokens;
      const value = rows[Math.floor(i / this.tokens)]?.values[token] as number;
      kept[at++] = this.scale === "lift" ? value * this.visibleKeys(token) : value;
    }
    return kept.subarray(0, at);
  }

  /** Statistic of each vector of the set, by key. */
  statistics(name: Statistic): Map<string, number> {
    let values = this.known.get(name);
    if (!values) {
      values = new Map(this.rows.map((row) => [row.key, statistic(name, this.lifted(row.values))]));
      this.known.set(name, values);
    }
    return values;
  }
  private readonly known: Map<Statistic, Map<string, number>> = new Map();
}

function sameValues(one: readonly Row[], other: readonly Row[]): boolean {
  return one.length === other.length && one.every((row, i) => row.values.buffer === other[i]?.values.buffer && row.values.byteOffset === other[i]?.values.byteOffset);
}

function ordered(rows: readonly Row[], state: State): Row[] {
  if (state.rowSort === "value") {
    const means = new Map(rows.map((row) => [row.key, statistic("mean", row.values)]));
    return [...rows].sort((a, b) => (means.get(b.key) as number) - (means.get(a.key) as number));
  }
  if (!state.order.length) return [...rows];
  const place = new Map(state.order.map((key, i) => [key, i]));
  const rank = (row: Row): number => place.get(row.key) ?? Infinity;
  return [...rows].sort((a, b) => {
    const left = rank(a);
    const right = rank(b);
    return left === right ? 0 : left - right;
  });
}
