/** Small lines inside a row: its course over the text, and its dash pattern. */

import { h } from "../dom";
import { CanvasSurface } from "../draw/surface";
import { decimate, tokenAxis } from "../draw/xaxis";

function canvas(width: number, height: number, className: string, draw: (surface: CanvasSurface) => void): HTMLCanvasElement {
  const ratio = window.devicePixelRatio || 1;
  const element = h("canvas", { class: className, width: Math.round(width * ratio), height: Math.round(height * ratio), "aria-hidden": "true", style: { width: `${width}px`, height: `${height}px` } });
  const context = element.getContext("2d");
  if (context) {
    context.scale(ratio, ratio);
    draw(new CanvasSurface(context));
  }
  return element;
}

export const sparkline = {
  dash(color: string, dash: readonly number[]): HTMLCanvasElement {
    return canvas(26, 10, "dash", (surface) => surface.line([0, 26], [5, 5], color, 2, dash));
  },
  /** Logarithmic over four decades below the largest value. */
  values(values: Float32Array, color: string): HTMLCanvasElement {
    return canvas(58, 18, "spark", (surface) => {
      const part = decimate(values, tokenAxis(0, values.length, 0, 58));
      let high = 0;
      for (const value of part.values) if (value > high) high = value;
      const unit = (value: number): number => (value !== value ? NaN : Math.max(0, 1 + Math.log10(Math.max(value, high * 1e-4) / (high || 1)) / 4));
      surface.line(part.xs, part.values.map((value) => 16 - 14 * unit(value)), color, 1);
    });
  },
};
