/** A view as a file that can stand in a paper: with title, names of the heads and what it shows. */

import { CanvasSurface, type Surface } from "../draw/surface";
import { SvgSurface } from "../draw/svg";
import { h } from "../dom";
import type { Palette } from "../model/color";
import { cut, widthOf } from "./labels";
import type { Drawing } from "./panel";

const MARGIN = 12;
/** Dots a pixel: 288 an inch. */
const PIXELS = 3;
const HEAD = 24;

export interface Words {
  readonly title: string;
  readonly heads: readonly { readonly name: string; readonly color: string }[];
  readonly caption: string;
}

/** Draws title, figure, key and caption below each other; returns the whole height. */
function compose(surface: Surface | null, drawing: Drawing, words: Words, palette: Palette): number {
  const { width } = drawing;
  surface?.text(0, 13, cut(words.title, 13, width), { fill: palette.ink, size: 13, weight: 600 });
  surface?.shifted(HEAD, () => drawing.draw(surface));
  let y = HEAD + drawing.height + 16;
  let x = 0;
  for (const head of words.heads) {
    const size = 13 + widthOf(head.name, 10.5) + 14;
    if (x > 0 && x + size > width) [x, y] = [0, y + 15];
    surface?.rect(x, y - 8, 9, 9, head.color);
    surface?.text(x + 13, y, head.name, { fill: palette.ink2, size: 10.5 });
    x += size;
  }
  if (words.heads.length) y += 17;
  surface?.text(0, y, cut(words.caption, 10.5, width), { fill: palette.ink3, size: 10.5 });
  return y + 6;
}

export async function picture(kind: string, drawing: Drawing, words: Words, palette: Palette): Promise<Blob | null> {
  const height = compose(null, drawing, words, palette);
  if (kind === "SVG") {
    const surface = new SvgSurface(drawing.width, height, MARGIN);
    compose(surface, drawing, words, palette);
    return new Blob([surface.finish(palette.card, `${words.title} \u00b7 ${words.caption}`)], { type: "image/svg+xml" });
  }
  const canvas = h("canvas");
  [canvas.width, canvas.height] = [Math.round((drawing.width + 2 * MARGIN) * PIXELS), Math.round((height + 2 * MARGIN) * PIXELS)];
  const pen = canvas.getContext("2d");
  if (!pen) return null;
  pen.fillStyle = palette.card;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(PIXELS, 0, 0, PIXELS, MARGIN * PIXELS, MARGIN * PIXELS);
  const surface = new CanvasSurface(pen);
  compose(surface, drawing, words, palette);
  surface.flush();
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
