/** Two texts, their series over one axis, and where they have the same tokens the change, token by token and head by head. */

import { h } from "../dom";
import { Figure } from "../draw/figure";
import { drawStrip, stripLayout } from "../draw/strip";
import type { Surface } from "../draw/surface";
import { decimate, type TokenAxis, tokenAxis } from "../draw/xaxis";
import { AGGREGATE_NAMES } from "../model/aggregate";
import { diverging, type Palette, rampColor, rampPixels } from "../model/color";
import { tick } from "../model/format";
import type { Scene } from "../model/scene";

type Two<T> = readonly [T, T];

/** Pixels that a text may take. */
const LINES = 150;
const LEFT = 58;
const SERIES = 120;
const CHANGE = 96;

export class CompareFigure {
  readonly figure = new Figure("compare", "Texts of A and B and their series over one axis", "img");
  /** The axis that both share; null where their tokens are others. */
  axis: TokenAxis | null = null;
  #stripBottom = 0;
  #palette: Palette | null = null;

  draw(scenes: Two<Scene>, names: Two<string>, palette: Palette): void {
    const [a, b] = scenes;
    const { figure } = this;
    const width = figure.element.clientWidth || 700;
    const same = a.tokens === b.tokens && a.set.tokens.every((token, i) => token === b.set.tokens[i]);
    const heights = scenes.map((scene) => Math.min(LINES, stripLayout(scene, width, 0).height));
    const tops = [20, 46 + (heights[0] as number)];
    this.#palette = palette;
    this.#stripBottom = (tops[1] as number) + (heights[1] as number) + 16;
    this.axis = same ? tokenAxis(0, a.tokens, LEFT, width - LEFT - 8) : null;
    figure.resize(width, this.#stripBottom + (same ? 36 + SERIES + CHANGE + 24 + matrixHeight(a) : 300));
    figure.paint((surface) => {
      scenes.forEach((scene, i) => this.#text(surface, scene, `${"AB"[i]}: ${names[i]}`, tops[i] as number, width, i ? palette.accent : palette.ink));
      this.#series(surface, scenes, width, palette);
    });
  }

  /** Marks the token in both. */
  mark(token: number | null): void {
    const { axis, figure } = this;
    figure.overlay((surface) => {
      if (axis && token !== null && token < axis.to && this.#palette) surface.rect(axis.x(token) - Math.max(1, axis.step / 2), this.#stripBottom, Math.max(2, axis.step), figure.height - this.#stripBottom, this.#palette.accent, 0.2);
    });
  }

  #text(surface: Surface, scene: Scene, name: string, top: number, width: number, color: string): void {
    const layout = stripLayout(scene, width, 0);
    const kept = Math.max(1, Math.floor(LINES / layout.lineHeight));
    const end = layout.lines[kept] ?? scene.tokens;
    surface.text(0, top - 6, `${name}${end < scene.tokens ? ` (first ${end} of ${scene.tokens} tokens)` : ""}`, { fill: color, size: 12, weight: 600 });
    drawStrip(surface, scene, { ...layout, lines: layout.lines.slice(0, kept) }, [], this.#palette as Palette, 0, top, end);
  }

  #series(surface: Surface, scenes: Two<Scene>, width: number, palette: Palette): void {
    const { aggregate } = scenes[0].state;
    const lines = scenes.map((scene) => scene.aggregate(aggregate)) as [Float32Array, Float32Array];
    const extreme = (better: (value: number, best: number) => boolean, start: number): number => lines.reduce((most, line) => line.reduce((best, value) => (better(value, best) ? value : best), most), start);
    const high = extreme((value, best) => value > best, 1e-30);
    const low = extreme((value, best) => value < best, 0); // a logit may be negative
    const title = scenes[0].side?.measure?.axis;
    const top = this.#stripBottom + 14;
    scenes.forEach((scene, i) => {
      const base = this.axis ? top : top + i * (SERIES + 16);
      const axis = tokenAxis(0, scene.tokens, LEFT, width - LEFT - 8);
      if (!this.axis || i === 0) drawFrame(surface, axis, base, SERIES, [low, (low + high) / 2, high], `${AGGREGATE_NAMES[aggregate]}${title ? ` of ${title}` : ""}`, palette);
      const part = decimate(lines[i] as Float32Array, axis);
      surface.line(part.xs, part.values.map((value) => base + SERIES * (1 - (value - low) / (high - low))), i ? palette.accent : palette.ink, 2, i ? [6, 3] : []);
    });
    if (!this.axis) return;
    const below = top + SERIES + 26;
    drawChange(surface, this.axis, lines, below, palette);
    drawHeads(surface, this.axis, scenes, below + CHANGE + 14, palette);
  }
}

function drawFrame(surface: Surface, axis: TokenAxis, top: number, height: number, marks: readonly number[], title: string, palette: Palette): void {
  const [low, high] = [marks[0] as number, marks[marks.length - 1] as number];
  surface.text(11, top + height / 2, title, { fill: palette.ink3, size: 10.5, anchor: "middle", upward: true });
  for (const mark of marks) {
    const y = top + height * (1 - (mark - low) / (high - low));
    surface.rect(axis.left, y, axis.width, 1, palette.grid);
    surface.text(axis.left - 8, y + 3.5, tick(Number(mark.toPrecision(2))), { fill: palette.ink3, size: 10.5, anchor: "end" });
  }
}

/** B minus A, token by token, around zero. */
function drawChange(surface: Surface, axis: TokenAxis, [first, second]: Two<Float32Array>, top: number, palette: Palette): void {
  const gaps = second.map((value, i) => value - (first[i] as number));
  const most = gaps.reduce((best, gap) => Math.max(best, Math.abs(gap) || 0), 1e-30);
  drawFrame(surface, axis, top, CHANGE, [-most, 0, most], "change", palette);
  gaps.forEach((gap, token) => {
    if (gap !== gap) return;
    const size = (Math.abs(gap) / most) * (CHANGE / 2);
    surface.rect(axis.x(token) - Math.max(0.5, axis.step * 0.4), top + CHANGE / 2 - (gap > 0 ? size : 0), Math.max(1, axis.step * 0.8), size, rampColor(gap > 0 ? 0.85 : 0.15, diverging(palette)));
  });
}

function matrixHeight(scene: Scene): number {
  return Math.min(360, scene.rows.length * Math.max(2, Math.min(8, Math.floor(300 / scene.rows.length))));
}

/** B minus A of every head at every token. */
function drawHeads(surface: Surface, axis: TokenAxis, [a, b]: Two<Scene>, top: number, palette: Palette): void {
  const values = new Map(b.rows.map((row) => [row.key, b.lifted(row.values)]));
  const rows = a.rows.filter((row) => values.has(row.key));
  const canvas = h("canvas", { width: a.tokens, height: Math.max(1, rows.length) });
  const context = canvas.getContext("2d");
  if (!context || !rows.length) return;
  const gaps = rows.map((row) => a.lifted(row.values).map((value, token) => (values.get(row.key)?.[token] as number) - value));
  const sizes = Float32Array.from(gaps.flatMap((line) => [...line])).map(Math.abs).filter((size) => size === size).sort();
  const most = Math.max(1e-30, sizes[Math.floor(0.99 * (sizes.length - 1))] ?? 0);
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const ramp = rampPixels(diverging(palette));
  gaps.forEach((line, y) => line.forEach((gap, x) => gap === gap && (pixels[y * a.tokens + x] = ramp[Math.round(Math.min(1, Math.max(0, 0.5 + gap / most / 2)) * 255)] as number)));
  context.putImageData(image, 0, 0);
  const height = matrixHeight(a);
  surface.rect(axis.left, top, axis.width, height, palette.grid);
  surface.image(canvas, axis.left, top, axis.width, height);
  surface.text(11, top + height / 2, `heads, \u00b1${tick(Number(most.toPrecision(2)))}`, { fill: palette.ink3, size: 10.5, anchor: "middle", upward: true });
}
