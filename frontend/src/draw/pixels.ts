/** Dense marks as pixels of our own: a stroke through a thousand points, or as many dots, costs a canvas fifty times more. */

import { h } from "../dom";
import { channels } from "../model/color";

/** Opacity of a line in the gaps of its dash pattern: where points crowd, a gap would hide a peak. */
const GAP = 0.3;

// One canvas for all figures: a new one for each drawing would cost more than the drawing.
const scratch = h("canvas");
let brush: CanvasRenderingContext2D | null = null;
let image: ImageData | null = null;

export class Pixels {
  readonly #data: Uint32Array;
  /** Rows that were drawn on. */
  #first = Infinity;
  #last = -Infinity;
  readonly #width: number;
  readonly #height: number;
  readonly #ratio: number;
  readonly #left: number;
  readonly #top: number;

  constructor(private readonly target: CanvasRenderingContext2D) {
    const { width, height } = target.canvas;
    [this.#width, this.#height] = [width, height];
    const { a, e, f } = target.getTransform();
    [this.#ratio, this.#left, this.#top] = [a, e, f];
    if (image?.width !== width || image.height !== height) {
      [scratch.width, scratch.height] = [width, height];
      brush = scratch.getContext("2d");
      image = new ImageData(width, height);
    }
    this.#data = new Uint32Array((image as ImageData).data.buffer);
  }

  /** Lays one colour over a pixel; bytes are red, green, blue, opacity from the lowest on. */
  #blend(at: number, color: number, cover: number): void {
    const under = this.#data[at] as number;
    if (cover >= 0.996 || under === 0) {
      this.#data[at] = ((Math.round(cover * 255) << 24) | color) >>> 0;
      return;
    }
    const below = (under >>> 24) / 255;
    const opacity = cover + below * (1 - cover);
    if (opacity <= 0) return;
    let mixed = Math.round(opacity * 255) << 24;
    for (let shift = 0; shift < 24; shift += 8) {
      const value = (((color >>> shift) & 255) * cover + ((under >>> shift) & 255) * below * (1 - cover)) / opacity;
      mixed |= Math.round(value) << shift;
    }
    this.#data[at] = mixed >>> 0;
  }

  /** One column from y to y, with soft ends; all in pixels of the canvas. */
  #span(column: number, from: number, to: number, color: number, opacity: number): void {
    const start = Math.max(0, from);
    const end = Math.min(this.#height, to);
    this.#touch(start, end);
    for (let y = Math.floor(start); y < end; y++) {
      this.#blend(y * this.#width + column, color, opacity * (Math.min(end, y + 1) - Math.max(start, y)));
    }
  }

  /** What lies between two lines over the same xs; a NaN leaves its column out. */
  band(xs: ArrayLike<number>, low: ArrayLike<number>, high: ArrayLike<number>, fill: string): void {
    this.#columns(xs, [high, low], 0, fill, []);
  }

  /** A line through the points; a NaN breaks it. The dash pattern pales what it would leave out. */
  line(xs: ArrayLike<number>, ys: ArrayLike<number>, stroke: string, lineWidth: number, dash: readonly number[]): void {
    this.#columns(xs, [ys], lineWidth * this.#ratio * 0.5, stroke, dash);
  }

  /** Fills in each column of pixels from the highest to the lowest place that the lines reach there. */
  #columns(xs: ArrayLike<number>, lines: readonly ArrayLike<number>[], reach: number, fill: string, dash: readonly number[]): void {
    const tops = new Float64Array(this.#width).fill(Infinity);
    const bottoms = new Float64Array(this.#width).fill(-Infinity);
    for (const ys of lines) {
      for (let i = 0; i < xs.length; i++) {
        const y = this.#top + (ys[i] as number) * this.#ratio;
        if (y !== y) continue;
        const x = this.#left + (xs[i] as number) * this.#ratio;
        const next = i + 1 < xs.length ? this.#top + (ys[i + 1] as number) * this.#ratio : NaN;
        const end = next === next ? this.#left + (xs[i + 1] as number) * this.#ratio : x;
        const slope = end > x ? (next - y) / (end - x) : 0;
        for (let column = Math.max(0, Math.floor(x)); column <= end && column < this.#width; column++) {
          const one = column <= x ? y : y + (column - x) * slope;
          const two = column + 1 >= end ? (next === next ? next : y) : y + (column + 1 - x) * slope;
          tops[column] = Math.min(tops[column] as number, one, two);
          bottoms[column] = Math.max(bottoms[column] as number, one, two);
        }
      }
    }
    const color = packed(fill);
    for (let column = 0; column < this.#width; column++) {
      const top = tops[column] as number;
      if (top < Infinity) this.#span(column, top - reach, (bottoms[column] as number) + reach, color, drawn(column / this.#ratio, dash) ? 1 : GAP);
    }
  }

  dots(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void {
    const color = (0xff000000 | packed(fill)) >>> 0;
    const size = Math.max(1, Math.round(2 * radius * this.#ratio));
    for (let i = 0; i < xs.length; i++) {
      const x = Math.round(this.#left + (xs[i] as number) * this.#ratio - size / 2);
      const y = Math.round(this.#top + (ys[i] as number) * this.#ratio - size / 2);
      this.#touch(y, y + size);
      for (let down = y; down < y + size; down++) {
        if (down < 0 || down >= this.#height) continue;
        for (let across = Math.max(0, x); across < x + size && across < this.#width; across++) this.#data[down * this.#width + across] = color;
      }
    }
  }

  #touch(from: number, to: number): void {
    if (from < this.#first) this.#first = from;
    if (to > this.#last) this.#last = to;
  }

  /** Puts what was drawn on the canvas, over what is there, and leaves the pixels empty for the next drawing. */
  flush(): void {
    const first = Math.max(0, Math.floor(this.#first));
    const rows = Math.min(this.#height, Math.ceil(this.#last)) - first;
    if (rows <= 0) return;
    brush?.putImageData(image as ImageData, 0, 0, 0, first, this.#width, rows);
    this.#data.fill(0, first * this.#width, (first + rows) * this.#width);
    this.target.save();
    this.target.setTransform(1, 0, 0, 1, 0, 0);
    this.target.drawImage(scratch, 0, first, this.#width, rows, 0, first, this.#width, rows);
    this.target.restore();
  }
}

/** Whether a dash pattern draws at a place along x. */
function drawn(x: number, dash: readonly number[]): boolean {
  let rest = x % (dash.reduce((sum, part) => sum + part, 0) || 1);
  for (let i = 0; i < dash.length; i++) {
    rest -= dash[i] as number;
    if (rest < 0) return i % 2 === 0;
  }
  return true;
}

function packed(color: string): number {
  const [r, g, b] = channels(color);
  return (b << 16) | (g << 8) | r;
}
