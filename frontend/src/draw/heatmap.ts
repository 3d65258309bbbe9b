/** Layers down, heads across, one cell a vector; means of layers to the right and of heads below. */

import { h } from "../dom";
import { blend, diverging, type Palette, type Ramp, rampColor, rampPixels } from "../model/color";
import { short } from "../model/format";
import type { Fit } from "../model/scale";
import type { Surface } from "./surface";

export interface HeatCell {
  readonly key: string;
  readonly row: number;
  readonly column: number;
  readonly value: number;
  /** Hidden, or outside the focus. */
  readonly faded: boolean;
}

export interface HeatModel {
  readonly cells: readonly HeatCell[];
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
  /** Rows are layers and columns heads: their means say something. */
  readonly means: boolean;
  readonly fit: Fit;
  readonly diverging: boolean;
  readonly legend: boolean;
}

export interface HeatLayout {
  readonly left: number;
  readonly top: number;
  readonly cellWidth: number;
  readonly cellHeight: number;
  readonly columns: number;
  readonly rows: number;
  readonly legendTop: number;
  readonly height: number;
}

const TOP = 18;
const SIDE = 36;
export const MAX_BODY = 250;
const LOW_BODY = 140;
const LOW_WINDOW = 800;
/** From so many cells on they are pixels of one picture: a rectangle each would take longer than a frame. */
const MANY = 2000;

export function heatLayout(model: HeatModel, width: number, most = window.innerHeight < LOW_WINDOW ? LOW_BODY : MAX_BODY): HeatLayout {
  const columns = Math.max(1, model.columnLabels.length);
  const rows = Math.max(1, model.rowLabels.length);
  const left = 8 + 6 * Math.max(1, ...model.rowLabels.map((label) => label.length));
  // Many columns share the width to the pixel: none is cut.
  const wide = (width - left - SIDE) / columns;
  const cellWidth = wide < 5 ? wide : Math.min(42, Math.floor(wide));
  const cellHeight = Math.max(2, Math.min(Math.round(Math.max(3, cellWidth) * 1.5), Math.floor(most / rows), 28));
  const legendTop = TOP + rows * cellHeight + (model.means ? 28 : 8);
  return { left, top: TOP, cellWidth, cellHeight, columns, rows, legendTop, height: legendTop + (model.legend ? 30 : 0) };
}

export function drawHeat(surface: Surface, model: HeatModel, layout: HeatLayout, palette: Palette, width: number): void {
  const { left, top, cellWidth, cellHeight } = layout;
  const ramp = model.diverging ? diverging(palette) : "sequential";
  const many = model.cells.length > MANY;
  if (many) surface.image(cellPixels(model, layout, ramp), left, top, layout.columns * cellWidth, layout.rows * cellHeight);
  for (const cell of many ? model.cells.filter(({ value }) => Number.isNaN(value)) : model.cells) {
    const unit = model.fit.unit(cell.value);
    const box = [left + cell.column * cellWidth, top + cell.row * cellHeight, cellWidth - (cellWidth < 5 ? 0 : 1), cellHeight - (cellHeight < 4 ? 0 : 1)] as const;
    if (Number.isNaN(unit)) {
      surface.hatch(...box, palette.edge);
      continue;
    }
    const solid = rampColor(unit, ramp);
    surface.rect(...box, cell.faded ? blend(palette.card, solid, 0.25) : solid);
  }
  drawLabels(surface, model, layout, palette);
  drawMeans(surface, model, layout, palette);
  if (model.legend) drawLegend(surface, model, layout, palette, width, ramp);
}

function cellPixels(model: HeatModel, { columns, rows }: HeatLayout, ramp: Ramp): HTMLCanvasElement {
  const canvas = h("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const colors = rampPixels(ramp);
  for (const { row, column, value, faded } of model.cells) {
    const unit = model.fit.unit(value);
    if (unit !== unit) continue;
    const color = colors[Math.round(255 * Math.min(1, Math.max(0, unit)))] as number;
    pixels[row * columns + column] = faded ? ((color & 0xffffff) | (64 << 24)) >>> 0 : color; // a quarter of the colour over the card
  }
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return canvas;
}

function drawLabels(surface: Surface, model: HeatModel, layout: HeatLayout, palette: Palette): void {
  const { left, top, cellWidth, cellHeight } = layout;
  const widest = 4 + 6 * Math.max(...model.columnLabels.map((label) => label.length), 1);
  const across = step(cellWidth, widest);
  model.columnLabels.forEach((label, column) => {
    const short = label.length > 6 ? `${label.slice(0, 5)}\u2026` : label;
    if (column % across === 0) surface.text(left + (column + 0.5) * cellWidth - 0.5, top - 6, short, { fill: palette.ink3, size: 10.5, anchor: "middle" });
  });
  const down = step(cellHeight, 11);
  model.rowLabels.forEach((label, row) => {
    if (row % down === 0) surface.text(left - 7, top + (row + 0.5) * cellHeight + 3, label, { fill: palette.ink3, size: 10.5, anchor: "end" });
  });
}

/** Every label, every second, or every fourth and so on, as they fit. */
function step(size: number, needed: number): number {
  let every = 1;
  while (size * every < needed) every *= 2;
  return every;
}

function drawMeans(surface: Surface, model: HeatModel, layout: HeatLayout, palette: Palette): void {
  const { left, top, cellWidth, cellHeight, rows, columns } = layout;
  if (rows * columns < 2 || model.diverging || !model.means) return;
  const across = means(model.cells, rows, (cell) => cell.row);
  const down = means(model.cells, columns, (cell) => cell.column);
  const most = Math.max(...[...across, ...down].filter(Number.isFinite), 1e-30);
  const thick = Math.max(2, Math.min(7, cellHeight * 0.4));
  if (columns > 1 && rows > 1) {
    across.forEach((value, row) => {
      if (value > 0) surface.rect(left + columns * cellWidth + 5, top + (row + 0.5) * cellHeight - thick / 2, (value / most) * (SIDE - 8), thick, palette.bar);
    });
  }
  const wide = Math.max(2, Math.min(7, cellWidth * 0.4));
  if (rows > 1 && columns > 1) {
    down.forEach((value, column) => {
      if (value > 0) surface.rect(left + (column + 0.5) * cellWidth - wide / 2 - 0.5, top + rows * cellHeight + 4, wide, (value / most) * 18, palette.bar);
    });
  }
}

function means(cells: readonly HeatCell[], size: number, place: (cell: HeatCell) => number): number[] {
  const sums = new Array<number>(size).fill(0);
  const counts = new Array<number>(size).fill(0);
  for (const cell of cells) {
    if (Number.isNaN(cell.value)) continue;
    sums[place(cell)] = (sums[place(cell)] as number) + cell.value;
    counts[place(cell)] = (counts[place(cell)] as number) + 1;
  }
  return sums.map((sum, i) => sum / (counts[i] as number));
}

export function drawPin(surface: Surface, layout: HeatLayout, cell: { row: number; column: number }, color: string, palette: Palette): void {
  const x = layout.left + cell.column * layout.cellWidth - 0.5;
  const y = layout.top + cell.row * layout.cellHeight - 0.5;
  const thick = layout.cellWidth < 12 ? 2 : 3;
  surface.frame(x, y, layout.cellWidth, layout.cellHeight, palette.card, 2 * thick);
  surface.frame(x, y, layout.cellWidth, layout.cellHeight, color, thick);
}

function drawLegend(surface: Surface, model: HeatModel, layout: HeatLayout, palette: Palette, width: number, ramp: Ramp): void {
  const { fit } = model;
  const x = 14;
  const size = width - 28;
  for (let i = 0; i < size; i += 2) surface.rect(x + i, layout.legendTop, Math.min(2, size - i), 8, rampColor(i / (size - 1), ramp));
  for (const share of [0, 0.5, 1]) {
    const value = fit.logarithmic ? fit.low * (fit.high / fit.low) ** share : fit.low + (fit.high - fit.low) * share;
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    surface.text(x + share * size, layout.legendTop + 21, short(value), { fill: palette.ink3, size: 10.5, anchor });
  }
}
