/** The strokes under the tokens on a canvas of their own, and which of them is under the pointer. */

import type { Scene } from "../model/scene";
import { drawStrokes, type Stroke, type StripLayout, TEXT_HEIGHT } from "./strip";
import { CanvasSurface } from "./surface";

interface Sight {
  readonly width: number;
  readonly room: number;
  readonly top: number;
  /** First and one past the last line. */
  readonly from: number;
  readonly to: number;
  /** On paper a cleared canvas is white and hides what lies below. */
  readonly clear: boolean;
}

export function paintStrokes(target: HTMLCanvasElement, scene: Scene, layout: StripLayout, strokes: readonly Stroke[], sight: Sight): void {
  const { width, room, top } = sight;
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = strokes.length ? [Math.round(width * ratio), Math.round(room * ratio)] : [1, 1];
  if (target.width !== across) target.width = across;
  if (target.height !== down) target.height = down;
  target.style.top = `${top}px`;
  target.style.width = `${width}px`;
  target.style.height = `${strokes.length ? room : 0}px`;
  const context = target.getContext("2d");
  if (!context || !strokes.length) return;
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (sight.clear) context.clearRect(0, 0, across, down);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawStrokes(new CanvasSurface(context), scene, layout, strokes, scene.matrixFit(), sight.from, sight.to, top);
}

/** The stroke at a place of the strip, and its token. */
export function strokeAt(layout: StripLayout, strokes: readonly Stroke[], tokens: number, x: number, y: number): [Stroke | undefined, number | null] {
  const line = Math.floor(y / layout.lineHeight);
  const stroke = strokes[Math.floor((y - line * layout.lineHeight - TEXT_HEIGHT - 2) / (layout.strokeSize + layout.strokeGap))];
  let token: number | null = null;
  for (let i = layout.lines[line] ?? tokens; stroke && i < (layout.lines[line + 1] ?? tokens); i++) {
    const left = layout.xs[i] as number;
    if (x >= left - 2 && x <= left + (layout.widths[i] as number) + 2) token = i;
  }
  return [stroke, token];
}
