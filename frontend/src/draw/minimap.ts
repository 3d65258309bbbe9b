/** The whole text in one thin strip, with the part that is drawn above marked. */

import type { Palette } from "../model/color";
import type { Scene } from "../model/scene";
import type { Surface } from "./surface";
import { decimate, tokenAxis } from "./xaxis";

export function drawMinimap(surface: Surface, scene: Scene, window: readonly [number, number] | null, left: number, top: number, width: number, height: number, palette: Palette): void {
  const axis = tokenAxis(0, scene.tokens, left, width);
  const line = decimate(scene.aggregate(scene.state.aggregate), axis);
  let low = Infinity;
  let high = -Infinity;
  for (const value of line.values) {
    if (value > 0 && value < low) low = value;
    if (value > high) high = value;
  }
  const logs = scene.state.axis === "log" && low < high;
  const unit = (value: number): number => {
    if (value !== value) return NaN;
    if (logs) return value <= low ? 0 : Math.log(value / low) / Math.log(high / low);
    return high > 0 ? Math.max(0, value / high) : 0;
  };
  surface.rect(left, top, width, height, palette.grid);
  const [from, to] = window ?? [0, scene.tokens];
  const x = left + (from / scene.tokens) * width;
  const size = Math.max(3, ((to - from) / scene.tokens) * width);
  if (window) surface.rect(x, top, size, height, palette.accentSoft);
  surface.line(line.xs, line.values.map((value) => top + height - 3 - (height - 6) * unit(value)), palette.ink3, 1);
  if (window) surface.frame(x + 0.5, top + 0.5, size - 1, height - 1, palette.accent, 1.5);
}
