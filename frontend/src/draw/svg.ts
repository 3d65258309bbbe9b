/** The same surface as SVG text. Names and tokens pass through `escape` and are never markup. */

import { FONT, type Surface, type TextStyle } from "./surface";

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };

function escape(text: string): string {
  // XML 1.0 has no way to write most control characters: they become the replacement character.
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] as string).replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd");
}

function round(value: number): string {
  return String(Math.round(value * 100) / 100);
}

export class SvgSurface implements Surface {
  readonly #parts: string[] = [];
  readonly #patterns = new Map<string, string>();

  constructor(
    readonly width: number,
    readonly height: number,
    private readonly margin = 0,
  ) {}

  rect(x: number, y: number, width: number, height: number, fill: string, opacity = 1): void {
    const alpha = opacity < 1 ? ` fill-opacity="${round(opacity)}"` : "";
    this.#parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" fill="${escape(fill)}"${alpha}/>`);
  }

  frame(x: number, y: number, width: number, height: number, stroke: string, lineWidth: number): void {
    const box = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
    this.#parts.push(`<rect ${box} fill="none" stroke="${escape(stroke)}" stroke-width="${round(lineWidth)}"/>`);
  }

  line(xs: ArrayLike<number>, ys: ArrayLike<number>, stroke: string, lineWidth: number, dash: readonly number[] = []): void {
    let path = "";
    let open = false;
    for (let i = 0; i < xs.length; i++) {
      const y = ys[i] as number;
      if (y === y) path += `${open ? "L" : "M"}${round(xs[i] as number)} ${round(y)}`;
      open = y === y;
    }
    const pattern = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    this.#parts.push(`<path d="${path}" fill="none" stroke="${escape(stroke)}" stroke-width="${round(lineWidth)}" stroke-linejoin="round"${pattern}/>`);
  }

  band(xs: ArrayLike<number>, low: ArrayLike<number>, high: ArrayLike<number>, fill: string): void {
    const points: string[] = [];
    for (let i = 0; i < xs.length; i++) points.push(`${round(xs[i] as number)},${round(high[i] as number)}`);
    for (let i = xs.length - 1; i >= 0; i--) points.push(`${round(xs[i] as number)},${round(low[i] as number)}`);
    this.#parts.push(`<polygon points="${points.join(" ")}" fill="${escape(fill)}"/>`);
  }

  dots(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void {
    let path = "";
    for (let i = 0; i < xs.length; i++) path += `M${round(xs[i] as number)} ${round(ys[i] as number)}h0`;
    this.#parts.push(`<path d="${path}" stroke="${escape(fill)}" stroke-width="${round(2 * radius)}" stroke-linecap="round"/>`);
  }

  carets(xs: ArrayLike<number>, y: number, stroke: string): void {
    let path = "";
    for (let i = 0; i < xs.length; i++) path += `M${round((xs[i] as number) - 2)} ${round(y - 2)}l2 3l2 -3`;
    this.#parts.push(`<path d="${path}" fill="none" stroke="${escape(stroke)}"/>`);
  }

  hatch(x: number, y: number, width: number, height: number, stroke: string): void {
    const name = `hatch${stroke.replace(/\W/g, "")}`;
    if (!this.#patterns.has(name)) this.#patterns.set(name, `<pattern id="${name}" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M-1 1L1 -1M0 6L6 0M5 7L7 5" stroke="${escape(stroke)}"/></pattern>`);
    this.rect(x, y, width, height, `url(#${name})`);
  }

  text(x: number, y: number, text: string, style: TextStyle): void {
    const turn = style.upward ? ` transform="rotate(-90 ${round(x)} ${round(y)})"` : "";
    const weight = style.weight ? ` font-weight="${style.weight}"` : "";
    const place = `x="${round(x)}" y="${round(y)}" font-size="${style.size}" text-anchor="${style.anchor ?? "start"}"`;
    this.#parts.push(`<text ${place} fill="${escape(style.fill)}"${weight}${turn} xml:space="preserve">${escape(text)}</text>`);
  }

  shifted(down: number, draw: () => void): void {
    this.#parts.push(`<g transform="translate(0 ${round(down)})">`);
    draw();
    this.#parts.push("</g>");
  }

  image(pixels: HTMLCanvasElement | HTMLImageElement, x: number, y: number, width: number, height: number): void {
    const source = pixels instanceof HTMLImageElement ? pixels.src : pixels.toDataURL("image/png");
    if (!source.startsWith("data:image/")) return;
    const box = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
    this.#parts.push(`<image ${box} preserveAspectRatio="none" image-rendering="${pixels instanceof HTMLImageElement ? "auto" : "pixelated"}" href="${escape(source)}"/>`);
  }

  /** The whole file. */
  finish(background: string, title: string): string {
    const [across, down] = [this.width + 2 * this.margin, this.height + 2 * this.margin];
    const size = `width="${round(across)}" height="${round(down)}" viewBox="${-this.margin} ${-this.margin} ${round(across)} ${round(down)}"`;
    const box = `x="${-this.margin}" y="${-this.margin}" width="${round(across)}" height="${round(down)}"`;
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="${escape(FONT)}">\n<title>${escape(title)}</title>\n` +
      `<defs>${[...this.#patterns.values()].join("")}</defs>\n<rect ${box} fill="${escape(background)}"/>\n${this.#parts.join("\n")}\n</svg>\n`
    );
  }
}
