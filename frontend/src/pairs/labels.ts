/** Tokens as rows of a list: one below the other, each as a reader spells it. */

import { FONT } from "../draw/surface";
import { pieces, visible } from "../model/tokens";
import type { Side } from "./types";

export interface Labels {
  readonly texts: readonly string[];
  readonly special: readonly boolean[];
}

const known = new WeakMap<Side, Labels>();

export function labelsOf(side: Side): Labels {
  const found = known.get(side);
  if (found) return found;
  const special = side.tokens.map(() => false);
  for (const place of side.special ?? []) special[place] = true;
  const shown = pieces({ tokens: side.tokens, special: side.special ? special : [], offsets: [] }, "");
  const texts = shown.map((piece, i) => (piece.special ? visible(side.tokens[i] as string) : (piece.glued ? "\u00b7" : "") + piece.text));
  const labels = { texts, special };
  known.set(side, labels);
  return labels;
}

const pen = document.createElement("canvas").getContext("2d");

export function widthOf(text: string, size: number): number {
  if (!pen) return text.length * size * 0.55;
  pen.font = `400 ${size}px ${FONT}`;
  return pen.measureText(text).width;
}

/** The text, or as much of it as fits, with an ellipsis. */
export function cut(text: string, size: number, room: number): string {
  if (widthOf(text, size) <= room) return text;
  const letters = [...text];
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (widthOf(`${letters.slice(0, middle).join("")}\u2026`, size) <= room) low = middle;
    else high = middle - 1;
  }
  return `${letters.slice(0, low).join("")}\u2026`;
}
