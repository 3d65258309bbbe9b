/** Small things that the page does on its own: the first pins, tooltips of what is cut, files to save. */

import type { TokenSet } from "../data/types";
import { h } from "../dom";
import { statistic } from "../model/aggregate";
import type { Scene } from "../model/scene";
import { FEW } from "./text";

/** Keys of the three vectors with the largest means, where there are too many to draw a stroke for each. */
export function strongest(set: TokenSet | undefined): string[] {
  if (!set || set.rows.length <= FEW || !set.tokens.length) return [];
  const size = set.tokens.length;
  const means = set.rows.map((row, place) => [row.key, statistic("mean", set.values.subarray(place * size, (place + 1) * size))] as const);
  return means.filter(([, mean]) => mean > 0).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([key]) => key);
}

/** Works out what thousands of heads need before they can be drawn, in tasks shorter than a frame; the next scene finds it. */
export async function prepared(scene: Scene | null): Promise<void> {
  const steps = scene ? [() => scene.rows.map((row) => scene.statistic("mean", row)), () => scene.aggregate("mean"), () => scene.aggregate("max"), () => scene.aggregate("min"), () => scene.matrixFit()] : [];
  for (const step of steps) {
    await new Promise((done) => setTimeout(done));
    step();
  }
}

/** Text that its box cuts is told by a tooltip. */
export function nameCut(element: HTMLElement): void {
  if (!element.isConnected || element.title || element.childElementCount > 3 || element.scrollWidth <= element.clientWidth + 1) return;
  const { overflowX } = getComputedStyle(element);
  if (overflowX === "hidden" || overflowX === "clip") element.title = element.textContent ?? "";
}

/** Lets the browser save a file. */
export function download(name: string, blob: Blob): void {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
