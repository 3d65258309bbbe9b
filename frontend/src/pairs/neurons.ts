/** Neuron view: the query of one token, each key, their product element by element, and the score that it adds up to. */

import { h } from "../dom";
import type { Surface } from "../draw/surface";
import { blend, type Palette } from "../model/color";
import { number } from "../model/format";
import { headColor } from "./colors";
import { cut, type Labels, labelsOf, widthOf } from "./labels";
import { type Layer, QueryKeyLayer } from "./layer";
import type { Drawing, Panel, Part } from "./panel";
import { Tall } from "./tall";

const HEAD = 62;
const GAP = 14;
const SCORE = 64;
const WEIGHT = 150;

interface Columns {
  readonly queries: number;
  readonly labels: number;
  readonly key: number;
  readonly product: number;
  readonly score: number;
  readonly weight: number;
  /** Room for the bar of a weight. */
  readonly bar: number;
  /** Width of one element. */
  readonly cell: number;
}

export class NeuronsView implements Part {
  readonly element: HTMLElement;
  private readonly tall: Tall;
  private readonly lack = h("p", { class: "empty pairs-lack", hidden: true }, "This layer came with weights only, so there is no query and key to look into. The head view and the model view show it.");
  private layer: QueryKeyLayer | null = null;
  private queries: Labels = { texts: [], special: [] };
  private keys: Labels = this.queries;
  private shown: { head: number; query: number; weights: Float32Array; most: number } | null = null;
  private columns: Columns | null = null;
  private limits: readonly [number, number] = [1, 1];

  constructor(private readonly panel: Panel) {
    this.tall = new Tall("pairs-neurons", "Query and keys element by element. Up and down choose the query, left and right change the layer.", HEAD, () => this.draw());
    this.element = h("div", { class: "pairs-part" }, this.lack, this.tall.element);
    const target = this.tall.figure.element;
    target.addEventListener("pointermove", (event) => this.point(...this.tall.figure.place(event)));
    target.addEventListener("pointerleave", () => this.point(-1, -1));
    target.addEventListener("click", (event) => {
      const [x, y] = this.tall.figure.place(event);
      const row = this.tall.rowAt(y);
      if (this.columns && x < this.columns.labels && row >= 0 && row < this.queries.texts.length) panel.pin(row);
    });
    target.addEventListener("keydown", (event) => {
      const by = event.key === "ArrowUp" ? -1 : event.key === "ArrowDown" ? 1 : 0;
      if (by) {
        const next = Math.min(this.queries.texts.length - 1, Math.max(0, this.query + by));
        this.tall.show(next);
        panel.pin(next);
        panel.say(`query ${next}, ${this.queries.texts[next] ?? ""}`);
      } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") panel.stepLayer(event.key === "ArrowLeft" ? -1 : 1);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  private get head(): number {
    return this.panel.choice.heads[0] ?? 0;
  }

  private get query(): number {
    return Math.min(this.panel.choice.query ?? this.firstWord(), this.queries.texts.length - 1);
  }

  private firstWord(): number {
    return Math.max(0, this.queries.special.indexOf(false));
  }

  open(layer: Layer): void {
    const { sides } = this.panel.data.meta;
    this.queries = labelsOf(sides[layer.meta.q] as never);
    this.keys = labelsOf(sides[layer.meta.k] as never);
    this.layer = layer instanceof QueryKeyLayer ? layer : null;
    this.lack.hidden = this.layer !== null;
    this.tall.element.hidden = this.layer === null;
    this.shown = null;
    this.resize();
  }

  resize(): void {
    if (!this.layer) return;
    this.tall.fit(Math.max(this.queries.texts.length, this.keys.texts.length), 16, 30);
    this.columns = this.layout();
    this.update();
  }

  close(): void {
    return;
  }

  update(): void {
    const { layer } = this;
    if (!layer) return;
    const [head, query] = [this.head, this.query];
    if (this.shown?.head !== head || this.shown.query !== query) {
      const weights = new Float32Array(layer.kvLen);
      layer.row(head, query, weights);
      this.shown = { head, query, weights, most: Math.max(...weights) };
      this.limits = this.scales(layer, head, query);
    }
    this.draw();
  }

  drawing(): Promise<Drawing | null> {
    const { layer, columns, tall } = this;
    if (!layer || !columns || !this.shown) return Promise.resolve(null);
    const rows = Math.max(this.queries.texts.length, this.keys.texts.length);
    const [width, height] = tall.whole(rows, () => [tall.figure.width, tall.figure.height] as const);
    return Promise.resolve({ width, height, draw: (surface) => tall.whole(rows, () => this.picture(surface, this.panel.palette, layer, columns)) });
  }

  private layout(): Columns {
    const { width } = this.tall.figure;
    const narrow = width < 480;
    const wide = (labels: Labels): number => Math.min(narrow ? 60 : 130, Math.max(50, ...labels.texts.slice(0, 600).map((text) => widthOf(text, 12) + 16)));
    const [queries, labels] = [0, wide(this.queries)];
    const dim = this.layer?.dim ?? 1;
    const key = labels + GAP + wide(this.keys);
    const sum = narrow ? -GAP : SCORE; // a phone has no room for the score; the line below tells it
    const room = width - key - 3 * GAP - sum - (narrow ? 70 : WEIGHT);
    const cell = Math.max(0.5, Math.min(13, Math.floor((2 * room) / (2 * dim)) / 2));
    const product = key + dim * cell + GAP;
    const score = product + dim * cell + GAP;
    const weight = score + sum + GAP;
    return { queries, labels, key, product, score, weight, bar: Math.max(8, Math.min(360, width - weight - 56)), cell };
  }

  /** Ends of the two colour scales: values, and products; the largest of what this query meets. */
  private scales(layer: QueryKeyLayer, head: number, query: number): readonly [number, number] {
    const at = layer.queryAt(head, query);
    const sizes: number[] = [];
    let most = 0;
    for (let d = 0; d < layer.dim; d++) sizes.push(Math.abs(layer.query[at + d] as number));
    for (let key = 0; key < layer.kvLen; key++) {
      for (let d = 0; d < layer.dim; d++) {
        const value = layer.keyValue(head, key, d);
        if (sizes.length < 20_000) sizes.push(Math.abs(value));
        most = Math.max(most, Math.abs(value * (layer.query[at + d] as number)));
      }
    }
    sizes.sort((a, b) => a - b);
    return [sizes[Math.floor(sizes.length * 0.99)] || 1, most || 1];
  }

  private point(x: number, y: number): void {
    const { layer, columns, shown } = this;
    if (!layer || !columns || !shown) return;
    const row = this.tall.rowAt(y);
    const { key: from, product, cell } = columns;
    const dim = Math.floor((x - (x >= product ? product : from)) / cell);
    const key = row >= 0 && row < layer.kvLen && x > columns.labels ? row : null;
    this.panel.point(null, key);
    if (key === null) {
      this.panel.tell(x >= 0 && x < columns.labels && row >= 0 && row < this.queries.texts.length ? `click: look from \u201c${this.queries.texts[row] ?? ""}\u201d ${row}` : "");
      return;
    }
    const pair = `\u201c${this.queries.texts[shown.query] ?? ""}\u201d ${shown.query} \u2192 \u201c${this.keys.texts[key] ?? ""}\u201d ${key}`;
    const one = layer.query[layer.queryAt(shown.head, shown.query) + dim];
    if (dim >= 0 && dim < layer.dim && one !== undefined) {
      const other = layer.keyValue(shown.head, key, dim);
      this.panel.tell(`${pair} \u00b7 element ${dim}: query ${number(one)} \u00d7 key ${number(other)} = ${number(one * other)}`);
    } else this.panel.tell(`${pair}: ${this.sum(key)}`);
  }

  /** How the weight of a key comes about. */
  private sum(key: number): string {
    const { layer, shown } = this;
    if (!layer || !shown) return "";
    if (!layer.sees(shown.head, shown.query, key)) return "hidden from this query";
    const bias = layer.biased ? ` + bias ${number(layer.bias(shown.head, shown.query, key))}` : "";
    const product = this.product(layer, shown.head, shown.query, key);
    return `sum ${number(product)} \u00d7 scale ${number(layer.scale)}${bias} \u2192 weight ${number(shown.weights[key])}`;
  }

  private product(layer: QueryKeyLayer, head: number, query: number, key: number): number {
    const at = layer.queryAt(head, query);
    let sum = 0;
    for (let d = 0; d < layer.dim; d++) sum += (layer.query[at + d] as number) * layer.keyValue(head, key, d);
    return sum;
  }

  private draw(): void {
    const { layer, columns, shown } = this;
    if (layer && columns && shown) this.tall.figure.paint((surface) => this.picture(surface, this.panel.palette, layer, columns));
  }

  private picture(surface: Surface, palette: Palette, layer: QueryKeyLayer, columns: Columns): void {
    const { tall, shown } = this;
    if (!shown) return;
    const [from, to] = tall.sight;
    const [values, products] = this.limits;
    const at = layer.queryAt(shown.head, shown.query);
    const tallest = Math.max(4, tall.rowHeight - 4);
    for (let row = from; row < Math.min(to, this.queries.texts.length); row++) this.label(surface, palette, this.queries, row, columns.labels - 8, columns.labels - 8, row === shown.query);
    for (let key = from; key < Math.min(to, layer.kvLen); key++) {
      const y = tall.y(key) - tallest / 2;
      this.label(surface, palette, this.keys, key, columns.key - 8, columns.key - columns.labels - GAP - 8, key === this.panel.key);
      if (!layer.sees(shown.head, shown.query, key)) {
        surface.text(columns.key, tall.y(key) + 4, "hidden from this query", { fill: palette.ink3, size: 10.5 });
        continue;
      }
      for (let d = 0; d < layer.dim; d++) {
        const value = layer.keyValue(shown.head, key, d);
        const product = value * (layer.query[at + d] as number);
        surface.rect(columns.key + d * columns.cell, y, columns.cell, tallest, signed(value / values, palette));
        surface.rect(columns.product + d * columns.cell, y, columns.cell, tallest, signed(product / products, palette));
      }
      this.total(surface, palette, layer, columns, key);
    }
    this.heading(surface, palette, layer, columns);
  }

  private total(surface: Surface, palette: Palette, layer: QueryKeyLayer, columns: Columns, key: number): void {
    const { shown, tall } = this;
    if (!shown) return;
    const score = this.product(layer, shown.head, shown.query, key) * layer.scale + layer.bias(shown.head, shown.query, key);
    const weight = shown.weights[key] as number;
    if (columns.weight > columns.score) surface.text(columns.weight - GAP - 6, tall.y(key) + 4, number(score), { fill: palette.ink2, size: 11, anchor: "end" });
    const length = (columns.bar * weight) / (shown.most || 1);
    surface.rect(columns.weight, tall.y(key) - 4, length, 8, headColor(shown.head, palette));
    surface.text(columns.weight + length + 6, tall.y(key) + 4, number(weight), { fill: palette.ink, size: 11 });
  }

  private label(surface: Surface, palette: Palette, labels: Labels, row: number, x: number, room: number, active: boolean): void {
    const fill = active ? palette.accent : labels.special[row] ? palette.ink3 : palette.ink;
    if (active) surface.rect(x - room, this.tall.y(row) - this.tall.rowHeight / 2, room + 6, this.tall.rowHeight, palette.accentSoft);
    surface.text(x, this.tall.y(row) + 4, cut(labels.texts[row] as string, 12, room - 4), { fill, size: 12, anchor: "end", weight: active ? 600 : 400 });
  }

  /** The query stands above the keys, element over element. */
  private heading(surface: Surface, palette: Palette, layer: QueryKeyLayer, columns: Columns): void {
    const { shown } = this;
    if (!shown) return;
    surface.rect(0, 0, this.tall.figure.width, HEAD - 2, palette.card);
    const name = `H${layer.meta.heads[shown.head] ?? shown.head}`;
    surface.text(columns.key - 8, 33, cut(this.queries.texts[shown.query] as string, 12, columns.key - 16), { fill: palette.accent, size: 12, anchor: "end", weight: 600 });
    const at = layer.queryAt(shown.head, shown.query);
    for (let d = 0; d < layer.dim; d++) surface.rect(columns.key + d * columns.cell, 20, columns.cell, 18, signed((layer.query[at + d] as number) / this.limits[0], palette));
    const note = (x: number, y: number, ...texts: string[]): void => surface.text(x, y, texts.find((text) => widthOf(text, 11) < room) ?? (texts[texts.length - 1] as string), { fill: palette.ink3, size: 11 });
    const room = columns.product - columns.key;
    surface.text(columns.labels - 8, 53, "query", { fill: palette.ink3, size: 11, anchor: "end" });
    surface.text(columns.key - 8, 53, "key", { fill: palette.ink3, size: 11, anchor: "end" });
    note(columns.key, 13, `query of ${name}, elements 0 to ${layer.dim - 1}`);
    note(columns.key, 53, `key, element by element, \u00b1${number(this.limits[0])}`, `key, \u00b1${number(this.limits[0])}`, "key");
    note(columns.product, 53, `query \u00d7 key, \u00b1${number(this.limits[1])}`, `q \u00d7 k, \u00b1${number(this.limits[1])}`, "q \u00d7 k");
    if (columns.weight > columns.score) surface.text(columns.weight - GAP - 6, 53, layer.biased ? "+ bias" : "score", { fill: palette.ink3, size: 11, anchor: "end" });
    note(columns.weight, 53, "weight");
  }
}

/** Blue below 0, red above, the card itself at 0. */
function signed(unit: number, palette: Palette): string {
  const [below, above] = palette.dark ? ["#58a6f5", "#ff7d6e"] : ["#0a56a6", "#b4162a"];
  return blend(palette.card, unit < 0 ? below : above, Math.sqrt(Math.min(1, Math.abs(unit))));
}
