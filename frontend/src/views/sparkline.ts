/** Small lines inside a row: its course over the text, and its dash pattern. */

import { h } from "../dom";
import { CanvasSurface } from "../draw/surface";
import { decimate, tokenAxis } from "../draw/xaxis";

// A list is newly made at each change of its rows; their small pictures are not.
const marks = new WeakMap<Float32Array, Map<string, HTMLCanvasElement>>();
const MAX_KEPT = 200;

function canvas(known: Map<string, HTMLCanvasElement>, key: string, width: number, height: number, className: string, draw: (surface: CanvasSurface) => void): HTMLCanvasElement {
  const ratio = window.devicePixelRatio || 1;
  const place = `${key} ${ratio}`;
  const found = known.get(place);
  if (found) return found;
  const element = h("canvas", { class: className, width: Math.round(width * ratio), height: Math.round(height * ratio), "aria-hidden": "true", style: { width: `${width}px`, height: `${height}px` } });
  const context = element.getContext("2d");
  if (context) {
    context.scale(ratio, ratio);
    draw(new CanvasSurface(context));
  }
  if (known.size >= MAX_KEPT) known.clear();
  known.set(place, element);
  return element;
}

export const sparkline = {
  dash(kept: Map<string, HTMLCanvasElement>, row: string, color: string, dash: readonly number[]): HTMLCanvasElement {
    return canvas(kept, `${row} ${color} ${dash.join()}`, 26, 10, "dash", (surface) => surface.line([0, 26], [5, 5], color, 2, dash));
  },
  /** Logarithmic over four decades below the largest value. */
  values(values: Float32Array, color: string): HTMLCanvasElement {
    let known = marks.get(values);
    if (!known) marks.set(values, (known = new Map()));
    return canvas(known, color, 58, 18, "spark", (surface) => {
      const part = decimate(values, tokenAxis(0, values.length, 0, 58));
      let high = 0;
      for (const value of part.values) if (value > high) high = value;
      const unit = (value: number): number => (value !== value ? NaN : Math.max(0, 1 + Math.log10(Math.max(value, high * 1e-4) / (high || 1)) / 4));
      surface.line(part.xs, part.values.map((value) => 16 - 14 * unit(value)), color, 1);
    });
  },
};
