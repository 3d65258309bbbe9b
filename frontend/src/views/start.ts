/** Small things that the page does on its own: the first pins, tooltips of what is cut, files to save. */

import type { TokenSet } from "../data/types";
import { h } from "../dom";
import { statistic } from "../model/aggregate";
import { FEW } from "./text";

/** Keys of the three vectors with the largest means, where there are too many to draw a stroke for each. */
export function strongest(set: TokenSet | undefined): string[] {
  if (!set || set.rows.length <= FEW || !set.tokens.length) return [];
  const size = set.tokens.length;
  const means = set.rows.map((row, place) => [row.key, statistic("mean", set.values.subarray(place * size, (place + 1) * size))] as const);
  return means.filter(([, mean]) => mean > 0).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([key]) => key);
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
