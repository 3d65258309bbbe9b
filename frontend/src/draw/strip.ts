/** The text as lines of tokens: where each stands, its tint, and the strokes under it. */

import { blend, type Palette } from "../model/color";
import type { Fit } from "../model/scale";
import { h } from "../dom";
import type { Scene } from "../model/scene";
import type { Piece } from "../model/tokens";
import { FONT, type Surface } from "./surface";

export interface Stroke {
  readonly key: string;
  readonly name: string;
  readonly color: string;
  readonly values: Float32Array;
}

export interface StripLayout {
  /** Left edge and width of each token; line i holds tokens lines[i] to lines[i + 1]. */
  readonly xs: Float32Array;
  readonly widths: Float32Array;
  readonly lines: readonly number[];
  readonly lineHeight: number;
  readonly strokeSize: number;
  readonly strokeGap: number;
  readonly height: number;
}

export const TEXT_SIZE = 15;
export const CHIP_SIZE = 10;
export const TEXT_HEIGHT = 22;
const PAD = 2;
const GAP = 3;

let measuring: CanvasRenderingContext2D | null = null;
const known = new WeakMap<readonly Piece[], Float32Array>();

/** Width of each token by itself, measured once a text. */
function natural(pieces: readonly Piece[]): Float32Array {
  let widths = known.get(pieces);
  if (!widths) {
    measuring ??= h("canvas").getContext("2d");
    const sizes = new Map<string, number>();
    const measure = (text: string, size: number): number => {
      let width = sizes.get(text);
      if (width === undefined) sizes.set(text, (width = measuring?.measureText(text).width ?? text.length * size * 0.55));
      return width;
    };
    widths = new Float32Array(pieces.length);
    for (const special of [true, false]) {
      const size = special ? CHIP_SIZE : TEXT_SIZE;
      if (measuring) measuring.font = `400 ${size}px ${FONT}`;
      sizes.clear();
      for (let i = 0; i < pieces.length; i++) {
        const piece = pieces[i] as Piece;
        if (piece.special === special) widths[i] = measure(piece.text, size) + (special ? 10 : piece.glued ? PAD : 2 * PAD);
      }
    }
    known.set(pieces, widths);
  }
  return widths;
}

interface Placed {
  readonly width: number;
  readonly xs: Float32Array;
  readonly widths: Float32Array;
  readonly lines: readonly number[];
}

const placed = new WeakMap<readonly Piece[], Placed>();

/** Width of the word that begins at a token. */
function wordFrom(pieces: readonly Piece[], own: Float32Array, first: number): number {
  let width = own[first] as number;
  for (let token = first + 1; pieces[token]?.glued; token++) width += own[token] as number;
  return width;
}

/** Where the tokens stand in lines of a width: the strokes change only how far apart the lines are. */
function place(pieces: readonly Piece[], width: number, rtl: boolean): Placed {
  const last = placed.get(pieces);
  if (last?.width === width) return last;
  const own = natural(pieces);
  const xs = new Float32Array(pieces.length);
  const widths = new Float32Array(pieces.length);
  const lines: number[] = pieces.length ? [0] : [];
  let x = 0;
  for (let token = 0; token < pieces.length; token++) {
    const { glued } = pieces[token] as Piece;
    const bounded = Math.min(own[token] as number, width);
    const gap = token === lines[lines.length - 1] || glued ? 0 : GAP;
    // A word stays in one line, unless it would fill half of it by itself.
    const word = glued ? bounded : wordFrom(pieces, own, token);
    if (x + gap + (word < width / 2 ? word : bounded) > width && x > 0) {
      lines.push(token);
      x = 0;
    } else {
      x += gap;
    }
    xs[token] = rtl ? width - x - bounded : x;
    widths[token] = bounded;
    x += bounded;
  }
  const made = { width, xs, widths, lines };
  placed.set(pieces, made);
  return made;
}

export function stripLayout(scene: Scene, width: number, strokes: number): StripLayout {
  const strokeSize = strokes > 24 ? 2 : 3;
  const strokeGap = strokes > 24 ? 1 : 2;
  const { xs, widths, lines } = place(scene.pieces, width, scene.rtl);
  const lineHeight = TEXT_HEIGHT + (strokes ? 3 + strokes * (strokeSize + strokeGap) : 0) + 6;
  return { xs, widths, lines, lineHeight, strokeSize, strokeGap, height: lines.length * lineHeight };
}

/** Background of a token: from the card to the marker colour, so that the ink on it never flips. */
export function tintColor(value: number, fit: Fit, palette: Palette): string | null {
  const unit = fit.unit(value);
  return Number.isNaN(unit) ? null : blend(palette.card, palette.tint, unit);
}

export function lineOf(layout: StripLayout, token: number): number {
  let line = 0;
  while (line + 1 < layout.lines.length && (layout.lines[line + 1] as number) <= token) line++;
  return line;
}

/** Strokes of the lines `from` to `to`; y counts from the top of the strip minus `offset`. */
export function drawStrokes(surface: Surface, scene: Scene, layout: StripLayout, strokes: readonly Stroke[], fit: Fit, from: number, to: number, offset: number): void {
  for (let line = from; line < to; line++) {
    const first = layout.lines[line] as number;
    const end = layout.lines[line + 1] ?? scene.tokens;
    const top = line * layout.lineHeight + TEXT_HEIGHT + 3 - offset;
    strokes.forEach((stroke, place) => {
      const y = top + place * (layout.strokeSize + layout.strokeGap);
      for (let token = first; token < end; token++) {
        const unit = fit.unit(stroke.values[token] as number);
        if (Number.isNaN(unit)) continue;
        const joined = scene.pieces[token + 1]?.glued && token + 1 < end ? 1 : 0;
        surface.rect((layout.xs[token] as number) + 1 - (scene.rtl ? joined : 0), y, Math.max(1, (layout.widths[token] as number) - 2 + joined), layout.strokeSize, stroke.color, 0.1 + 0.9 * unit);
      }
    });
  }
}

/** The whole strip with text, for pictures; on screen the tokens are elements. */
export function drawStrip(surface: Surface, scene: Scene, layout: StripLayout, strokes: readonly Stroke[], palette: Palette, left: number, top: number, past = scene.tokens): void {
  const tint = scene.tint();
  const shifted: StripLayout = { ...layout, xs: layout.xs.map((x) => x + left) };
  layout.lines.forEach((first, line) => {
    for (let token = first; token < (layout.lines[line + 1] ?? past); token++) {
      const piece = scene.pieces[token];
      if (!piece) continue;
      const x = shifted.xs[token] as number;
      const y = top + line * layout.lineHeight;
      const width = layout.widths[token] as number;
      const fill = tint ? tintColor(tint.values[token] as number, tint.fit, palette) : null;
      if (piece.special) {
        if (fill) surface.rect(x, y + 3, width, TEXT_HEIGHT - 6, fill);
        surface.frame(x + 0.5, y + 3.5, width - 1, TEXT_HEIGHT - 7, palette.edge, 1);
        surface.text(x + 5, y + 15, piece.text, { fill: fill ? palette.ink : palette.ink3, size: CHIP_SIZE });
        continue;
      }
      if (fill) surface.rect(x, y, width, TEXT_HEIGHT, fill);
      surface.text(x + (piece.glued ? 0 : PAD), y + 16, piece.text, { fill: palette.ink, size: TEXT_SIZE });
    }
  });
  drawStrokes(surface, scene, shifted, strokes, scene.matrixFit(), 0, layout.lines.length, -top);
}
