/** Queries x keys of the shown heads, their mean where there are several; and the strongest pairs in it. */

import { fill, h, tell } from "../dom";
import { Figure } from "../draw/figure";
import { rampPixels } from "../model/color";
import { number } from "../model/format";
import { type Labels, labelsOf } from "./labels";
import type { Layer } from "./layer";
import type { Panel } from "./panel";
import { PatchView } from "./patches";
import { Slice, turn } from "./slices";

/** More queries or groups of keys are not drawn: they would be less than a pixel each. */
const MOST = 640;
const LISTED = 12;

export interface Matrix {
  readonly queries: readonly number[];
  readonly columns: number;
  readonly values: Float32Array;
  max: number;
}

function empty(layer: Layer): Matrix {
  const rows = Math.min(MOST, layer.qLen);
  const queries = Array.from({ length: rows }, (_, i) => (rows < 2 ? 0 : Math.round((i * (layer.qLen - 1)) / (rows - 1))));
  const columns = Math.min(MOST, layer.kvLen);
  return { queries, columns, values: new Float32Array(rows * columns), max: 0 };
}

export class MatrixView {
  readonly element: HTMLElement;
  private readonly title = h("h3", {});
  private readonly figure = new Figure("pairs-matrix", "Queries down, keys across", "img");
  private readonly note = h("p", { class: "note" });
  private readonly list = h("ol", { class: "pairs-list" });
  private readonly pixels = h("canvas");
  private layer: Layer | null = null;
  private heads: readonly number[] = [];
  private matrix: Matrix | null = null;
  private job = 0;
  private done = false;
  private special = false;
  private readonly patches: PatchView;

  constructor(private readonly panel: Panel) {
    this.patches = new PatchView(panel);
    this.element = h("div", { class: "pairs-side" }, this.title, this.patches.element, this.figure.element, this.note, h("h3", {}, "Strongest pairs"), this.list);
    this.element.style.visibility = "hidden"; // until there is something to show
    const target = this.figure.element;
    target.addEventListener("pointermove", (event) => this.point(event));
    target.addEventListener("pointerleave", () => panel.point(null, null));
    target.addEventListener("click", () => {
      if (panel.query !== null) panel.pin(panel.query);
    });
  }

  private point(event: MouseEvent): void {
    const { matrix, layer } = this;
    if (!matrix || !layer) return;
    const [x, y] = this.figure.place(event);
    const row = Math.floor((y / this.figure.height) * matrix.queries.length);
    const column = Math.floor((x / this.figure.width) * layer.kvLen);
    const query = matrix.queries[row];
    if (query === undefined || column < 0 || column >= layer.kvLen) this.panel.point(null, null);
    else this.panel.point(query, column);
  }

  show(layer: Layer, heads: readonly number[], label: string): void {
    const { special } = this.panel;
    const same = this.layer === layer && this.special === special && this.heads.length === heads.length && heads.every((head, i) => head === this.heads[i]);
    tell(this.title, label);
    this.element.style.visibility = "visible";
    this.patches.show(layer, heads, this.panel.patches(layer), this.element.clientWidth);
    if (same) {
      this.resize();
      this.paint();
      return;
    }
    [this.layer, this.heads, this.special] = [layer, heads, special];
    this.matrix = null;
    this.resize();
    void this.fill();
  }

  close(): void {
    this.job++;
    if (!this.done) this.layer = null;
  }

  resize(): void {
    const across = Math.min(this.element.clientWidth, 460) || 300;
    const down = Math.min(across, Math.max(200, this.element.clientHeight * 0.62));
    const [rows, columns] = this.layer?.meta.size ?? [1, 1];
    const pixel = Math.min(across / columns, down / rows); // a token is as high as it is wide, unless that were a hair
    this.figure.resize(Math.min(across, Math.max(60, pixel * columns)), Math.min(down, Math.max(60, pixel * rows)));
    if (this.matrix) this.paint();
  }

  private async fill(): Promise<void> {
    const { layer, heads } = this;
    if (!layer) return;
    const job = ++this.job;
    this.done = false;
    const matrix = empty(layer);
    this.matrix = matrix;
    fill(this.list);
    await turn(); // the lines beside it come first
    if (job !== this.job) return;
    const slice = new Slice();
    const buffer = new Float32Array(4 * layer.kvLen);
    const mean = new Float32Array(4 * layer.kvLen);
    const [{ special: queries }, { special: keys }] = this.labels(layer);
    const out = (query: number): boolean => !this.special && queries[query] === true;
    let painted = performance.now();
    for (let at = 0; at < matrix.queries.length; at += 4) {
      const some = matrix.queries.slice(at, at + 4);
      mean.fill(0);
      for (const head of heads) {
        layer.rows(head, some, buffer);
        for (let i = 0; i < some.length * layer.kvLen; i++) mean[i] = (mean[i] as number) + (buffer[i] as number) / heads.length;
        if (slice.spent && !(await slice.rest(() => job === this.job))) return;
      }
      some.forEach((query, i) => keep(matrix, at + i, mean.subarray(i * layer.kvLen, (i + 1) * layer.kvLen), out(query), this.special ? null : keys));
      if (performance.now() - painted > 120) {
        this.paint();
        painted = performance.now();
      }
    }
    this.done = true;
    this.paint();
    this.strongest();
  }

  paint(): void {
    const { matrix, layer } = this;
    if (!matrix || !layer) return;
    const { columns, queries, values } = matrix;
    const { pixels } = this;
    if (pixels.width !== columns || pixels.height !== queries.length) [pixels.width, pixels.height] = [columns, queries.length];
    const pen = pixels.getContext("2d");
    if (!pen) return;
    const image = pen.createImageData(columns, queries.length);
    const colors = new Uint32Array(image.data.buffer);
    const ramp = rampPixels();
    const most = matrix.max || 1;
    for (let i = 0; i < values.length; i++) colors[i] = ramp[Math.round(255 * Math.sqrt(Math.min(1, (values[i] as number) / most)))] as number;
    pen.putImageData(image, 0, 0);
    this.figure.paint((surface) => surface.image(pixels, 0, 0, this.figure.width, this.figure.height));
    this.cursor();
    tell(this.note, `rows look at columns \u00b7 0 to ${number(matrix.max)}, square root \u00b7 ${layer.meta.name}`);
  }

  /** Marks the pair that is pointed at. */
  cursor(): void {
    const { layer, matrix, panel } = this;
    this.patches.paint();
    if (!layer || !matrix) return;
    const { width, height } = this.figure;
    this.figure.overlay((surface) => {
      if (panel.query !== null) {
        const y = ((panel.query + 0.5) * height) / layer.qLen;
        surface.rect(0, y - Math.max(1.5, height / layer.qLen / 2) - 1, width, 1, "#ffffff", 0.9);
        surface.rect(0, y + Math.max(1.5, height / layer.qLen / 2), width, 1, "#ffffff", 0.9);
      }
      if (panel.key !== null) {
        const x = ((panel.key + 0.5) * width) / layer.kvLen;
        surface.rect(x - Math.max(1.5, width / layer.kvLen / 2) - 1, 0, 1, height, "#ffffff", 0.9);
        surface.rect(x + Math.max(1.5, width / layer.kvLen / 2), 0, 1, height, "#ffffff", 0.9);
      }
    });
  }

  private labels(layer: Layer): [Labels, Labels] {
    const { sides } = this.panel.data.meta;
    return [labelsOf(sides[layer.meta.q] as never), labelsOf(sides[layer.meta.k] as never)];
  }

  private strongest(): void {
    const { layer, matrix, panel } = this;
    if (!layer || !matrix) return;
    const [queries, keys] = this.labels(layer);
    const found: [number, number, number][] = [];
    let least = 0;
    matrix.queries.forEach((query, row) => {
      if (!this.special && queries.special[query]) return;
      for (let key = 0; key < matrix.columns; key++) {
        const value = matrix.values[row * matrix.columns + key] as number;
        if (value <= least || matrix.columns !== layer.kvLen || (!this.special && keys.special[key])) continue;
        found.push([value, query, key]);
        if (found.length > 8 * LISTED) {
          found.sort((a, b) => b[0] - a[0]).length = LISTED;
          least = (found[LISTED - 1] as [number, number, number])[0];
        }
      }
    });
    found.sort((a, b) => b[0] - a[0]).length = Math.min(found.length, LISTED);
    const item = ([value, query, key]: [number, number, number]): HTMLElement =>
      h(
        "li",
        { onpointerenter: () => panel.point(query, key), onpointerleave: () => panel.point(null, null) },
        h("button", { type: "button", class: "link pairs-pair", onclick: () => panel.pin(query) }, `${queries.texts[query] ?? ""} \u2192 ${keys.texts[key] ?? ""}`),
        h("span", { class: "note" }, `${query} \u2192 ${key}`),
        h("span", { class: "value" }, number(value)),
      );
    fill(this.list, found.map(item));
  }
}

/** Colours end at the largest pair that counts; what is left out of that may be beyond. */
function keep(matrix: Matrix, row: number, weights: Float32Array, out: boolean, special: readonly boolean[] | null): void {
  const { columns, values } = matrix;
  for (let key = 0; key < weights.length; key++) {
    const at = row * columns + (columns === weights.length ? key : Math.floor((key * columns) / weights.length));
    const weight = weights[key] as number;
    if (weight > (values[at] as number)) values[at] = weight;
    if (weight > matrix.max && !out && !special?.[key]) matrix.max = weight;
  }
}
