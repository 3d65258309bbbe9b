/** Vectors down, tokens across: one pixel column a token or more, whole pixels a row, a line between layers. */

import { h } from "../dom";
import { aggregate } from "../model/aggregate";
import { channels, type Palette, rampPixels } from "../model/color";
import type { Fit } from "../model/scale";
import type { Row, Scene } from "../model/scene";
import type { Surface } from "./surface";
import { columns, type TokenAxis } from "./xaxis";

export interface MatrixLayout {
  readonly rows: readonly Row[];
  /** Top of each row, and the bottom of the last, relative to the matrix. */
  readonly tops: Float64Array;
  readonly height: number;
  /** Where a new layer begins, and its label. */
  readonly bands: readonly { readonly top: number; readonly label: string }[];
}

/** Rows get whole pixels; where there are more rows than pixels the pixel shows the mean of them. */
export function matrixLayout(scene: Scene, room: number): MatrixLayout {
  const rows = scene.shown;
  const size = rows.length > room ? room / rows.length : Math.max(1, Math.min(14, Math.floor(room / Math.max(1, rows.length))));
  const natural = (scene.state.arrange === "own" && !scene.state.order.length) || scene.state.arrange === "layer";
  const tops = new Float64Array(rows.length + 1);
  const bands: { top: number; label: string }[] = [];
  let y = 0;
  rows.forEach((row, i) => {
    const before = rows[i - 1];
    if (natural && (!before || before.base.gridRow !== row.base.gridRow)) {
      if (before && size >= 2) y += 1;
      const label = scene.set.rowLabels[row.base.gridRow];
      if (label) bands.push({ top: y, label });
    }
    tops[i] = y;
    y += size;
  });
  tops[rows.length] = y;
  return { rows, tops, height: Math.ceil(y), bands };
}

export function rowAt(layout: MatrixLayout, y: number): Row | null {
  let low = 0;
  let high = layout.rows.length - 1;
  if (y < 0 || y >= (layout.tops[layout.rows.length] as number)) return null;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((layout.tops[middle] as number) <= y) low = middle;
    else high = middle - 1;
  }
  return layout.rows[low] ?? null;
}

/** What the pixels of the matrix show: the largest value of each column, line by line, and the scale of all values. */
export interface MatrixData {
  readonly across: number;
  readonly lines: readonly { readonly top: number; readonly bottom: number; values: Float32Array }[];
  readonly fit: Fit;
}

export function matrixData(scene: Scene, layout: MatrixLayout, axis: TokenAxis): MatrixData {
  const first = columns(axis, axis.width);
  const across = first.length - 1;
  const size = layout.rows.length ? (layout.tops[1] as number) - (layout.tops[0] as number) : 1;
  const lines: { top: number; bottom: number; values: Float32Array }[] = [];
  for (let from = 0, to; from < layout.rows.length; from = to) {
    const top = Math.floor(layout.tops[from] as number);
    for (to = from + 1; to < layout.rows.length && (layout.tops[to] as number) < top + 1; ) to++;
    const rows = layout.rows.slice(from, to).map((row) => peaks(scene, row.values, axis, first));
    // Mean of the rows that share a pixel: their largest value would be bright everywhere.
    lines.push({ top, bottom: top + Math.max(1, Math.floor(size)), values: rows.length > 1 ? aggregate("mean", rows, across) : (rows[0] as Float32Array) });
  }
  // Never fitted to the pixels: the same value has the same colour in every window, zoom and picture.
  return { across, lines, fit: scene.matrixFit() };
}

/** Colours by those bits; kept, as making it anew costs more than filling it. */
let colors: Uint32Array | null = null;

const painted = new WeakMap<MatrixData, { readonly palette: Palette; readonly canvas: HTMLCanvasElement }>();

/** Colours of the matrix as an image, kept as long as its data: a pin or another aggregate leaves them alone. */
function matrixPixels(data: MatrixData, height: number, palette: Palette): HTMLCanvasElement {
  const known = painted.get(data);
  if (known && known.palette === palette && known.canvas.height === Math.max(1, height)) return known.canvas;
  const canvas = paintPixels(data, height, palette);
  painted.set(data, { palette, canvas });
  return canvas;
}

/** Bits of a float that choose its colour: sign, exponent and eight of its digits, 0.4 % of the value. */
const SHIFT = 15;

/** A pixel a token column, and a pixel a pixel down. */
function paintPixels(data: MatrixData, height: number, palette: Palette): HTMLCanvasElement {
  const canvas = h("canvas");
  canvas.width = data.across;
  canvas.height = Math.max(1, height);
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const ramp = rampPixels();
  const [r, g, b] = channels(palette.card);
  const clear = ((1 << 24) | (b << 16) | (g << 8) | r) >>> 0; // all but transparent: what lies below shows that it is missing
  // One logarithm for each colour that occurs, not for each pixel.
  const known = (colors ??= new Uint32Array(2 ** (32 - SHIFT))).fill(0);
  for (const line of data.lines) {
    const bits = new Uint32Array(line.values.buffer, line.values.byteOffset, data.across);
    const start = line.top * data.across;
    for (let column = 0; column < data.across; column++) {
      const index = (bits[column] as number) >>> SHIFT;
      let color = known[index] as number;
      if (!color) {
        const unit = data.fit.unit(line.values[column] as number);
        color = known[index] = unit === unit ? (ramp[Math.round(unit * 255)] as number) : clear;
      }
      pixels[start + column] = color;
    }
    for (let y = line.top + 1; y < line.bottom && y < canvas.height; y++) pixels.copyWithin(y * data.across, start, start + data.across);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

interface Peaks {
  readonly place: string;
  readonly values: Float32Array;
}

const found = new WeakMap<Float32Array, Peaks>();

/** The largest value of each column, kept for the part of the text that was drawn last. */
function peaks(scene: Scene, plain: Float32Array, axis: TokenAxis, first: Int32Array): Float32Array {
  const values = scene.lifted(plain);
  const across = first.length - 1;
  if (values.length === across) return values;
  if (axis.to - axis.from === across) return values.subarray(axis.from, axis.to);
  const place = `${axis.from} ${axis.to} ${across}`;
  const known = found.get(values);
  if (known?.place === place) return known.values;
  const best = new Float32Array(across);
  for (let column = 0; column < across; column++) {
    const end = first[column + 1] as number;
    let peak = NaN;
    for (let token = first[column] as number; token < end; token++) {
      const value = values[token] as number;
      if (value > peak || peak !== peak) peak = value;
    }
    best[column] = peak;
  }
  found.set(values, { place, values: best });
  return best;
}

export function drawMatrix(surface: Surface, scene: Scene, layout: MatrixLayout, data: MatrixData, axis: TokenAxis, top: number, palette: Palette): void {
  if (!layout.rows.length) {
    surface.text(axis.left + 8, top + 18, "Every vector is hidden or removed.", { fill: palette.ink3, size: 12 });
    return;
  }
  if (scene.incomplete) surface.hatch(axis.left, top, axis.width, layout.height, palette.edge);
  for (let token = axis.from; scene.without && token < axis.to; token++) {
    if (scene.set.special[token]) surface.rect(axis.x(token) - axis.step / 2, top, axis.step, layout.height, palette.grid);
  }
  for (const band of layout.bands) if (band.top > 0) surface.rect(axis.left, top + band.top - 1, axis.width, 1, palette.card);
  surface.image(matrixPixels(data, layout.height, palette), axis.left, top, axis.width, layout.height);
  let free = -Infinity;
  layout.bands.forEach((band, i) => {
    const end = layout.bands[i + 1]?.top ?? layout.height;
    const y = top + (band.top + end) / 2 + 3.5;
    if (y - free < 11) return;
    free = y;
    surface.text(axis.left - 8, y, band.label, { fill: palette.ink3, size: 10.5, anchor: "end" });
  });
  for (let i = 0; !layout.bands.length && i < layout.rows.length; i++) {
    const size = (layout.tops[i + 1] as number) - (layout.tops[i] as number);
    const row = layout.rows[i] as Row;
    const y = top + (layout.tops[i] as number) + size / 2 + 3.5;
    if (y - free < 11) continue;
    free = y;
    surface.text(axis.left - 8, y, row.name.length > 8 ? `${row.name.slice(0, 7)}\u2026` : row.name, { fill: palette.ink3, size: 10.5, anchor: "end" });
  }
}

/** Token names under the matrix while a column is wide enough, else an index axis. */
const CHARACTER = 6;

function shortName(scene: Scene, token: number): string {
  const text = scene.pieces[token]?.text ?? "";
  return text.length > 12 ? `${text.slice(0, 11)}\u2026` : text;
}

/** Names lie flat where every one of them fits its column. */
function flat(scene: Scene, axis: TokenAxis): boolean {
  if (axis.step < 3 * CHARACTER) return false;
  for (let token = axis.from; token < axis.to; token++) if (shortName(scene, token).length * CHARACTER + 6 > axis.step) return false;
  return true;
}

/** Room that the names of the tokens take under the matrix. */
export function namesHeight(scene: Scene, axis: TokenAxis): number {
  if (axis.step < 8 || flat(scene, axis)) return 22;
  let longest = 0;
  for (let token = axis.from; token < axis.to; token++) longest = Math.max(longest, shortName(scene, token).length);
  return 10 + 5.4 * longest;
}

export function drawTokenNames(surface: Surface, scene: Scene, axis: TokenAxis, top: number, palette: Palette): void {
  if (axis.step >= 8) {
    const lying = flat(scene, axis);
    for (let token = axis.from; token < axis.to; token++) {
      const place = lying ? [axis.x(token), top + 12] as const : [axis.x(token) + 3.5, top + 4] as const;
      surface.text(...place, shortName(scene, token), { fill: palette.ink3, size: lying ? 10.5 : 10, anchor: lying ? "middle" : "end", upward: !lying });
    }
    return;
  }
  const rough = (axis.to - axis.from) / 10;
  const power = 10 ** Math.floor(Math.log10(rough));
  const every = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
  for (let token = Math.ceil(axis.from / every) * every; token < axis.to; token += every) {
    surface.rect(axis.x(token), top, 1, 4, palette.edge);
    surface.text(axis.x(token), top + 15, String(token), { fill: palette.ink3, size: 10.5, anchor: "middle" });
  }
}
