/** The text as lines of tokens: where each stands, its tint, and the strokes under it. */

import { blend, type Palette } from "../model/color";
import type { Fit } from "../model/scale";
import type { Scene } from "../model/scene";
import { FONT, type Surface } from "./surface";

export interface Stroke {
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
const known = new Map<string, number>();

function measure(text: string, size: number): number {
  const key = `${size}:${text}`;
  let width = known.get(key);
  if (width === undefined) {
    measuring ??= document.createElement("canvas").getContext("2d");
    if (!measuring) return text.length * size * 0.55;
    measuring.font = `400 ${size}px ${FONT}`;
    width = measuring.measureText(text).width;
    if (known.size > 50_000) known.clear();
    known.set(key, width);
  }
  return width;
}

export function stripLayout(scene: Scene, width: number, strokes: number): StripLayout {
  const strokeSize = strokes > 24 ? 2 : 3;
  const strokeGap = strokes > 24 ? 1 : 2;
  const xs = new Float32Array(scene.tokens);
  const widths = new Float32Array(scene.tokens);
  const lines: number[] = scene.tokens ? [0] : [];
  let x = 0;
  scene.pieces.forEach((piece, token) => {
    const size = piece.special ? measure(piece.text, CHIP_SIZE) + 10 : measure(piece.text, TEXT_SIZE) + (piece.glued ? PAD : 2 * PAD);
    const bounded = Math.min(size, width);
    const gap = token === lines[lines.length - 1] || piece.glued ? 0 : GAP;
    if (x + gap + bounded > width && x > 0) {
      lines.push(token);
      x = 0;
    } else {
      x += gap;
    }
    xs[token] = x;
    widths[token] = bounded;
    x += bounded;
  });
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
        surface.rect((layout.xs[token] as number) + 1, y, Math.max(1, (layout.widths[token] as number) - 2 + joined), layout.strokeSize, stroke.color, 0.1 + 0.9 * unit);
      }
    });
  }
}

/** The whole strip with text, for pictures; on screen the tokens are elements. */
export function drawStrip(surface: Surface, scene: Scene, layout: StripLayout, strokes: readonly Stroke[], palette: Palette, left: number, top: number): void {
  const tint = scene.tint();
  const shifted: StripLayout = { ...layout, xs: layout.xs.map((x) => x + left) };
  layout.lines.forEach((first, line) => {
    for (let token = first; token < (layout.lines[line + 1] ?? scene.tokens); token++) {
      const piece = scene.pieces[token];
      if (!piece) continue;
      const x = shifted.xs[token] as number;
      const y = top + line * layout.lineHeight;
      const width = layout.widths[token] as number;
      if (piece.special) {
        surface.frame(x + 0.5, y + 3.5, width - 1, TEXT_HEIGHT - 7, palette.edge, 1);
        surface.text(x + 5, y + 15, piece.text, { fill: palette.ink3, size: CHIP_SIZE });
        continue;
      }
      const fill = tint ? tintColor(tint.values[token] as number, tint.fit, palette) : null;
      if (fill) surface.rect(x, y, width, TEXT_HEIGHT, fill);
      surface.text(x + (piece.glued ? 0 : PAD), y + 16, piece.text, { fill: palette.ink, size: TEXT_SIZE });
    }
  });
  drawStrokes(surface, scene, shifted, strokes, scene.matrixFit(), 0, layout.lines.length, -top);
}
