/** What the page shows, whichever file it came from. */

import type { ScaleName } from "../model/scale";

export interface BaseRow {
  /** The same vector in every document has the same key: the reader's edits belong to it. */
  readonly key: string;
  readonly name: string;
  readonly color: string | null;
  readonly visible: boolean;
  /** Place in the heat map. */
  readonly gridRow: number;
  readonly gridColumn: number;
}

export interface TokenSet {
  readonly name: string;
  readonly visible: boolean;
  readonly tokens: readonly string[];
  readonly special: readonly boolean[];
  /** Start and end of each token in the text, in UTF-16 units; empty where they are not known. */
  readonly offsets: readonly number[];
  /** Token i saw i + 1 keys; else it saw all of them. */
  readonly causal: boolean;
  readonly rows: readonly BaseRow[];
  /** One row of values after the other; NaN where a value is missing. */
  readonly values: Float32Array;
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
}

export interface PageDocument {
  readonly index: number;
  readonly sets: readonly TokenSet[];
  readonly patches: readonly [number, number] | null;
  readonly image: string | null;
  /** [set, vector] that the file asks to tint the text by. */
  readonly highlight: readonly [number, number] | null;
}

export interface DocumentRow {
  readonly name: string;
  readonly text: string;
  readonly tokens: number;
  /** Without special tokens, and with them. */
  readonly mean: number | null;
  readonly meanIn: number | null;
  readonly label: number | null;
  readonly prediction: number | null;
  readonly probabilities: readonly (number | null)[] | null;
}

/** What the values are, where they are another reading than the attention to the own position. */
export interface Measure {
  readonly name: string;
  /** Title of an axis: name and unit. */
  readonly axis: string;
  /** Scales that make sense for it. */
  readonly scales: readonly ScaleName[];
}

export interface Layer {
  readonly index: number;
  readonly name: string;
}

export type Moments = Readonly<Record<string, readonly (number | null)[]>>;

/** What is known of all documents of one model together. */
export interface Side {
  readonly name: string;
  readonly layers: readonly Layer[];
  readonly heads: readonly number[];
  /** Statistic of each head over all documents by name, without special tokens and with them. */
  readonly overall: Moments;
  readonly overallIn: Moments;
  /** Lowest and highest value of each scale over all documents. */
  readonly measure: Measure | null;
  readonly ranges: Readonly<Record<"out" | "in", Readonly<Record<string, readonly [number, number]>>>>;
  readonly cluster: { readonly order: readonly number[]; readonly merges: readonly (readonly [number, number, number])[] } | null;
}

/** A computed sentence, what chance or the rest would give, and the state that shows it in the words of the address. */
export interface Insight {
  readonly name: string;
  readonly text: string;
  readonly null: string;
  readonly state: Readonly<Record<string, string | number | readonly string[]>>;
}

export interface Collection {
  readonly title: string;
  readonly model: string;
  readonly layers: readonly Layer[];
  readonly heads: readonly number[];
  readonly classes: readonly string[];
  /** One a model, in the order of the token sets; empty where the page has no layers x heads. */
  readonly sides: readonly Side[];
  readonly measure: Measure | null;
  readonly insights: readonly Insight[];
  /** What high and low mean on each card, by its name. */
  readonly about: Readonly<Record<string, string>>;
  readonly rows: readonly DocumentRow[];
  load(index: number): Promise<PageDocument>;
  /** Names of the extensions whose data this collection has. */
  readonly extensions: readonly string[];
  /** What an extension stored for a document (its script element `attviz-NAME-INDEX`, parsed); null where it stored nothing. */
  part(name: string, index: number): unknown;
}

/** A fault in the data, told to the reader as it is. */
export class DataFault extends Error {}
