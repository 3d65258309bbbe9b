/** Vectors down, tokens across: one pixel column a token or more, whole pixels a row, a line between layers. */

import { h } from "../dom";
import { channels, type Palette, rampPixels } from "../model/color";
import { type Fit, fit } from "../model/scale";
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

/** Rows get whole pixels; where there are more rows than pixels the pixel shows the largest of them. */
export function matrixLayout(scene: Scene, room: number): MatrixLayout {
  const rows = scene.shown;
  const size = rows.length > room ? room / rows.length : Math.max(1, Math.min(14, Math.floor(room / Math.max(1, rows.length))));
  const natural = scene.state.rowSort === "own" && !scene.state.order.length;
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

/** What the pixels of the matrix show: the largest value of each column, line by line, and the scale fitted to that. */
export interface MatrixData {
  readonly across: number;
  readonly lines: readonly { readonly top: number; readonly bottom: number; readonly values: Float32Array }[];
  readonly fit: Fit;
}

export function matrixData(scene: Scene, layout: MatrixLayout, axis: TokenAxis): MatrixData {
  const first = columns(axis, axis.width);
  const across = first.length - 1;
  const size = layout.rows.length ? (layout.tops[1] as number) - (layout.tops[0] as number) : 1;
  const lines: { top: number; bottom: number; values: Float32Array }[] = [];
  layout.rows.forEach((row, i) => {
    const top = Math.floor(layout.tops[i] as number);
    let line = lines[lines.length - 1];
    if (!line || line.top !== top) {
      line = { top, bottom: top + Math.max(1, Math.floor(size)), values: new Float32Array(across).fill(NaN) };
      lines.push(line);
    }
    peaks(scene, row.values, first, line.values);
  });
  const whole = axis.to - axis.from === across && lines.length === layout.rows.length;
  return { across, lines, fit: whole ? scene.matrixFit() : fit(joined(lines.map((line) => line.values)), scene.scale) };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

const painted = new WeakMap<MatrixData, { readonly palette: Palette; readonly canvas: HTMLCanvasElement }>();

/** Colours of the matrix as an image, kept as long as its data: a pin or another aggregate leaves them alone. */
function matrixPixels(data: MatrixData, height: number, palette: Palette): HTMLCanvasElement {
  const known = painted.get(data);
  if (known && known.palette === palette && known.canvas.height === Math.max(1, height)) return known.canvas;
  const canvas = paintPixels(data, height, palette);
  painted.set(data, { palette, canvas });
  return canvas;
}

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
  const [r, g, b] = channels(palette.grid);
  const missing = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (const line of data.lines) {
    for (let column = 0; column < data.across; column++) {
      const unit = data.fit.unit(line.values[column] as number);
      const color = unit === unit ? (ramp[Math.round(unit * 255)] as number) : missing;
      for (let y = line.top; y < line.bottom && y < canvas.height; y++) pixels[y * data.across + column] = color;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The largest value of each column, over what is there already. */
function peaks(scene: Scene, values: Float32Array, first: Int32Array, best: Float32Array): void {
  const lift = scene.scale === "lift";
  for (let column = 0; column < best.length; column++) {
    let peak = best[column] as number;
    for (let token = first[column] as number; token < (first[column + 1] as number); token++) {
      const value = lift ? (values[token] as number) * scene.visibleKeys(token) : (values[token] as number);
      if (value > peak || (peak !== peak && value === value)) peak = value;
    }
    best[column] = peak;
  }
}

export function drawMatrix(surface: Surface, layout: MatrixLayout, data: MatrixData, axis: TokenAxis, top: number, palette: Palette): void {
  if (!layout.rows.length) {
    surface.text(axis.left + 8, top + 18, "Every vector is hidden or removed.", { fill: palette.ink3, size: 12 });
    return;
  }
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
export function drawTokenNames(surface: Surface, scene: Scene, axis: TokenAxis, top: number, palette: Palette): void {
  if (axis.step >= 8) {
    for (let token = axis.from; token < axis.to; token++) {
      const text = scene.pieces[token]?.text ?? "";
      const short = text.length > 10 ? `${text.slice(0, 9)}\u2026` : text;
      surface.text(axis.x(token) + 3.5, top + 4, short, { fill: palette.ink3, size: 10, anchor: "end", upward: true });
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
