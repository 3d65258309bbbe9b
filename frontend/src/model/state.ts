/** The one state of the page, and who hears of its changes. */

import { AGGREGATES, type Aggregate, isAggregate, type Statistic, STATISTICS } from "./aggregate";
import { SCALES, type ScaleName } from "./scale";

export interface RowEdit {
  readonly name?: string;
  readonly color?: string;
  readonly hidden?: boolean;
  readonly removed?: boolean;
  /** What the reader wrote about the vector. */
  readonly note?: string;
}

/** What the reader did to a whole set of vectors, by its place in the documents. */
export interface SetEdit {
  readonly hidden?: boolean;
  readonly removed?: boolean;
}

export type Scope = "document" | "all" | "difference";
export type Arrange = "own" | "layer" | "value" | "cluster";
export type Special = "out" | "in";
export type Range = "document" | "corpus";
export type TopScope = "document" | "all";
export type TopBy = "value" | "lift";
export type Strokes = "pinned" | "all" | "off";
export type Axis = "log" | "linear";
export type Theme = "auto" | "light" | "dark";
export type SortKey = "index" | "name" | "ok" | "prediction" | "probability" | "label" | "loss" | "tokens" | "mean";

export interface Filters {
  readonly query: string;
  readonly outcome: "all" | "correct" | "wrong";
  readonly label: number | null;
  readonly prediction: number | null;
  readonly tokens: readonly [number | null, number | null];
  readonly loss: readonly [number | null, number | null];
}

export interface State {
  readonly document: number;
  readonly set: number;
  /** Keys of the pinned rows, in the order of their strokes: vectors, and aggregates as "agg:mean". */
  readonly pins: readonly string[];
  readonly edits: Readonly<Record<string, RowEdit>>;
  readonly sets: Readonly<Record<string, SetEdit>>;
  /** Keys of vectors that the reader moved to the front, in that order; the others follow in their own. */
  readonly order: readonly string[];
  /** Order of vectors in map and matrix: by layer and head, by value within each layer, as one ranking, by cluster. */
  readonly arrange: Arrange;
  /** Whether [CLS], [SEP] and their like count. */
  readonly special: Special;
  /** Colours fitted to this document, or the same for all of them. */
  readonly range: Range;
  /** Only these vectors count; null for all. */
  readonly focus: readonly string[] | null;
  readonly tint: string;
  readonly strokes: Strokes;
  readonly scale: ScaleName;
  readonly statistic: Statistic;
  readonly scope: Scope;
  readonly aggregate: Aggregate;
  readonly axis: Axis;
  /** Pinned token. */
  readonly token: number | null;
  readonly hoverToken: number | null;
  readonly hoverRow: string | null;
  /** First and one past the last token drawn by series and matrix; null for all. */
  readonly window: readonly [number, number] | null;
  readonly filters: Filters;
  readonly sort: readonly [SortKey, 1 | -1];
  readonly theme: Theme;
  readonly rowList: "pinned" | "all";
  /** Top tokens of this document or of all, by value or by lift. */
  readonly topScope: TopScope;
  readonly topBy: TopBy;
  /** What is compared with the open document and set: "document.set". */
  readonly against: string;
  /** Names of the cards that are folded up; null leaves it to the height of the window. */
  readonly folded: readonly string[] | null;
  /** Name of the extension whose tab is open; empty for the page's own views. */
  readonly tab: string;
  /** What extensions remember, under keys that begin with their name. */
  readonly extra: Readonly<Record<string, string>>;
}

export const NO_FILTERS: Filters = { query: "", outcome: "all", label: null, prediction: null, tokens: [null, null], loss: [null, null] };

export const START: State = {
  document: 0,
  set: 0,
  pins: [],
  edits: {},
  sets: {},
  order: [],
  arrange: "own",
  special: "out",
  range: "document",
  focus: null,
  tint: "agg:mean",
  strokes: "pinned",
  scale: "log",
  statistic: "mean",
  scope: "document",
  aggregate: "mean",
  axis: "log",
  token: null,
  hoverToken: null,
  hoverRow: null,
  window: null,
  filters: NO_FILTERS,
  sort: ["index", 1],
  theme: "auto",
  rowList: "pinned",
  topScope: "document",
  topBy: "value",
  against: "",
  folded: null,
  tab: "",
  extra: {},
};

export type Key = keyof State;
export type Listener = (changed: ReadonlySet<Key>) => void;

/** Holds the state; listeners run once a frame with all that changed since. */
export class Store {
  #current: State;
  readonly #listeners: Listener[] = [];
  readonly #changed = new Set<Key>();
  #scheduled = false;

  constructor(start: State) {
    this.#current = start;
  }

  get state(): State {
    return this.#current;
  }

  set(change: Partial<State>): void {
    let some = false;
    for (const key of Object.keys(change) as Key[]) {
      if (this.#current[key] !== change[key]) {
        this.#changed.add(key);
        some = true;
      }
    }
    if (!some) return;
    this.#current = { ...this.#current, ...change };
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.flush());
  }

  /** Tells the listeners now; the frame that was asked for then finds nothing to do. */
  flush(): void {
    this.#scheduled = false;
    if (!this.#changed.size) return;
    const changed = new Set(this.#changed);
    this.#changed.clear();
    for (const listener of this.#listeners) listener(changed);
  }

  subscribe(listener: Listener): void {
    this.#listeners.push(listener);
  }
}

export function oneOf<T extends string>(options: readonly T[], value: string | null, other: T): T {
  return options.includes(value as T) ? (value as T) : other;
}

export const CHOICES = {
  strokes: ["pinned", "all", "off"],
  scope: ["document", "all", "difference"],
  axis: ["log", "linear"],
  arrange: ["own", "layer", "value", "cluster"],
  special: ["out", "in"],
  range: ["document", "corpus"],
  rowList: ["pinned", "all"],
  topScope: ["document", "all"],
  topBy: ["value", "lift"],
  outcome: ["all", "correct", "wrong"],
  sortKey: ["index", "name", "ok", "prediction", "probability", "label", "loss", "tokens", "mean"],
  theme: ["auto", "light", "dark"],
  scale: SCALES,
  statistic: STATISTICS,
  aggregate: AGGREGATES,
} as const;

/** "agg:mean" names an aggregate row. */
export function aggregateOf(key: string): Aggregate | null {
  const name = key.startsWith("agg:") ? key.slice(4) : "";
  return isAggregate(name) ? name : null;
}
