/** A thin dendrogram beside rows that stand in the order of its leaves. */

import type { Palette } from "../model/color";
import type { Surface } from "./surface";

/** Pixels between two branches that can be told apart. */
const LEAST = 3;

/** Middle of each leaf down the page (NaN where it is not drawn), and the merges in the order they were made. */
export function drawTree(surface: Surface, leaves: readonly number[], merges: readonly (readonly [number, number, number])[], left: number, width: number, palette: Palette): void {
  const most = Math.max(1e-9, ...merges.map((merge) => merge[2]));
  const places = leaves.map((y) => ({ y, x: left }));
  for (const [one, other, distance] of merges) {
    const [a, b] = [places[one], places[other]];
    if (!a || !b) return;
    const x = left + (distance / most) * width;
    if (Number.isNaN(a.y) || Number.isNaN(b.y)) {
      places.push(Number.isNaN(a.y) ? b : a); // a leaf that is not drawn leaves its neighbour as it is
      continue;
    }
    if (Math.abs(a.y - b.y) >= LEAST) surface.line([a.x, x, x, b.x], [a.y, a.y, b.y, b.y], palette.ink3, 1);
    places.push({ x, y: (a.y + b.y) / 2 });
  }
}
