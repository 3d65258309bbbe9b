/** A figure that can stand in a paper: title, figure, key and caption below each other. */

import { h } from "../dom";
import { CanvasSurface, type Surface } from "../draw/surface";
import type { Palette } from "../model/color";

export const MARGIN = 12;
/** Dots an inch: 96 times this, fine enough for print. */
export const PIXELS = 4;
const SIZE = 10.5;

export interface Picture {
  readonly name: string;
  readonly title: string;
  height(width: number): number;
  draw(surface: Surface, width: number): void;
  key(): readonly Item[];
}

/** A picture with what is written above and below it. */
export interface Sheet extends Picture {
  readonly heading: string;
  readonly caption: string;
}

/** A mark and what it means. */
export interface Item {
  readonly text: string;
  readonly size: number;
  mark(surface: Surface, x: number, y: number): void;
}

let measuring: CanvasRenderingContext2D | null = null;

function widthOf(text: string, size: number): number {
  measuring ??= h("canvas").getContext("2d");
  if (measuring) measuring.font = `400 ${size}px sans-serif`;
  return measuring?.measureText(text).width ?? text.length * size * 0.55;
}

/** Words into lines of a width. */
function wrapped(text: string, width: number, size: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line ? `${line} ${word}` : word;
    if (line && widthOf(longer, size) > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return [...lines, line];
}

/** Lays out title, figure, key and caption below each other; returns the whole height, and draws where there is a surface. */
export function compose(surface: Surface | null, picture: Sheet, width: number, palette: Palette): number {
  let y = 14;
  const write = (lines: readonly string[], size: number, fill: string, weight = 400): void => {
    for (const line of lines) {
      surface?.text(0, y, line, { fill, size, weight });
      y += size * 1.35;
    }
  };
  write(wrapped(picture.heading, width, 13), 13, palette.ink, 600);
  const height = picture.height(width);
  surface?.shifted(y, () => picture.draw(surface, width));
  y += height + 16;
  let x = 0;
  for (const item of picture.key()) {
    const text = widthOf(item.text, SIZE) > width - item.size ? (wrapped(item.text, width - item.size, SIZE)[0] as string) : item.text;
    const size = item.size + widthOf(text, SIZE) + 16;
    if (x > 0 && x + size - 16 > width) [x, y] = [0, y + 15];
    if (surface) {
      item.mark(surface, x, y);
      surface.text(x + item.size, y, text, { fill: palette.ink2, size: SIZE });
    }
    x += size;
  }
  y += 18;
  write(wrapped(picture.caption, width, SIZE), SIZE, palette.ink3);
  return y;
}

/** As pixels, on the colour of the card. */
export function paint(picture: Sheet, width: number, palette: Palette): HTMLCanvasElement {
  const canvas = h("canvas");
  canvas.width = Math.round((width + 2 * MARGIN) * PIXELS);
  canvas.height = Math.round((compose(null, picture, width, palette) + 2 * MARGIN) * PIXELS);
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  context.fillStyle = palette.card;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(PIXELS, 0, 0, PIXELS, MARGIN * PIXELS, MARGIN * PIXELS);
  const surface = new CanvasSurface(context);
  compose(surface, picture, width, palette);
  surface.flush();
  return canvas;
}
