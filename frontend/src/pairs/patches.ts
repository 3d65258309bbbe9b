/** Where the tokens are patches of an image: the image, with what the chosen query looks at laid over it. */

import { h } from "../dom";
import { Figure } from "../draw/figure";
import { rampColor } from "../model/color";
import type { Layer } from "./layer";
import type { Panel } from "./panel";

export interface Patches {
  readonly rows: number;
  readonly columns: number;
  /** The token that is the first patch. */
  readonly first: number;
  readonly image: string | null;
}

export class PatchView {
  readonly element: HTMLElement;
  private readonly figure = new Figure("pairs-patches", "The image; point at a patch to see where it looks", "img");
  private patches: Patches | null = null;
  private picture: HTMLImageElement | null = null;
  private layer: Layer | null = null;
  private heads: readonly number[] = [];

  constructor(private readonly panel: Panel) {
    this.element = h("div", { hidden: true }, this.figure.element);
    const target = this.figure.element;
    target.addEventListener("pointermove", (event) => panel.point(this.tokenAt(event), null));
    target.addEventListener("pointerleave", () => panel.point(null, null));
    target.addEventListener("click", (event) => panel.pin(this.tokenAt(event)));
  }

  private tokenAt(event: MouseEvent): number | null {
    const { patches, figure } = this;
    if (!patches) return null;
    const [x, y] = figure.place(event);
    const [row, column] = [Math.floor((y / figure.height) * patches.rows), Math.floor((x / figure.width) * patches.columns)];
    return row >= 0 && column >= 0 && row < patches.rows && column < patches.columns ? patches.first + row * patches.columns + column : null;
  }

  show(layer: Layer, heads: readonly number[], patches: Patches | null, width: number): void {
    this.element.hidden = patches === null;
    [this.layer, this.heads] = [layer, heads];
    if (!patches) return;
    if (patches.image !== this.patches?.image) {
      this.picture = null;
      if (patches.image) {
        const picture = new Image();
        picture.onload = () => {
          this.picture = picture;
          this.paint();
        };
        picture.src = patches.image;
      }
    }
    this.patches = patches;
    const size = Math.min(width, 260);
    this.figure.resize(size, (size * patches.rows) / patches.columns);
    this.paint();
  }

  /** Mean weight of the chosen query on every patch, from 0 to the largest of them. */
  paint(): void {
    const { patches, layer, figure, picture } = this;
    if (!patches || !layer || this.element.hidden) return;
    const { query } = this.panel;
    const cell = figure.width / patches.columns;
    const mean = new Float32Array(layer.kvLen);
    if (query !== null) {
      const row = new Float32Array(layer.kvLen);
      for (const head of this.heads) {
        layer.row(head, query, row);
        for (let key = 0; key < row.length; key++) mean[key] = (mean[key] as number) + (row[key] as number) / this.heads.length;
      }
    }
    const shown = mean.subarray(patches.first, patches.first + patches.rows * patches.columns);
    const most = Math.max(...shown) || 1;
    figure.paint((surface) => {
      if (picture) surface.image(picture, 0, 0, figure.width, figure.height);
      shown.forEach((weight, i) => {
        const [x, y] = [(i % patches.columns) * cell, Math.floor(i / patches.columns) * cell];
        if (query !== null) surface.rect(x, y, cell, cell, rampColor(weight / most), picture ? 0.2 + (0.6 * weight) / most : 1);
        if (query === patches.first + i) surface.frame(x + 1, y + 1, cell - 2, cell - 2, "#ffffff", 2);
      });
    });
  }
}
