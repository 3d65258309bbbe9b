/** What a figure draws on. One drawing serves the screen, the PNG and the SVG. */

import { Pixels } from "./pixels";

export interface TextStyle {
  readonly fill: string;
  readonly size: number;
  readonly anchor?: "start" | "middle" | "end";
  readonly weight?: number;
  /** Quarter turn counter-clockwise: the text runs upward. */
  readonly upward?: boolean;
}

export interface Surface {
  rect(x: number, y: number, width: number, height: number, fill: string, opacity?: number): void;
  frame(x: number, y: number, width: number, height: number, stroke: string, lineWidth: number): void;
  /** A line through the points; a NaN breaks it. */
  line(xs: ArrayLike<number>, ys: ArrayLike<number>, stroke: string, lineWidth: number, dash?: readonly number[]): void;
  band(xs: ArrayLike<number>, low: ArrayLike<number>, high: ArrayLike<number>, fill: string): void;
  dots(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void;
  /** Open downward carets: values below the floor of a log axis. */
  carets(xs: ArrayLike<number>, y: number, stroke: string): void;
  /** Where a value is missing: slanted lines, which no ramp has. */
  hatch(x: number, y: number, width: number, height: number, stroke: string): void;
  text(x: number, y: number, text: string, style: TextStyle): void;
  /** What is drawn meanwhile stands so much lower. */
  shifted(down: number, draw: () => void): void;
  image(pixels: HTMLCanvasElement | HTMLImageElement, x: number, y: number, width: number, height: number): void;
}

export const FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif';

/** A slanted line through a tile of six pixels, joined to those of its neighbours. */
function slant(brush: OffscreenCanvasRenderingContext2D, stroke: string): true {
  brush.strokeStyle = stroke;
  for (const shift of [-6, 0, 6]) {
    brush.moveTo(shift, 6);
    brush.lineTo(shift + 6, 0);
  }
  brush.stroke();
  return true;
}

/** From so many points on marks are drawn as pixels. */
const MANY = 240;

export class CanvasSurface implements Surface {
  #layer: Pixels | null = null;

  constructor(private readonly canvas: CanvasRenderingContext2D) {}

  /** The context, once the pixels that wait are on it: what is drawn next lies over them. */
  get context(): CanvasRenderingContext2D {
    this.flush();
    return this.canvas;
  }

  get #pixels(): Pixels {
    return (this.#layer ??= new Pixels(this.canvas));
  }

  /** Called when the drawing is done. */
  flush(): void {
    const layer = this.#layer;
    this.#layer = null;
    layer?.flush();
  }

  rect(x: number, y: number, width: number, height: number, fill: string, opacity = 1): void {
    this.context.globalAlpha = opacity;
    this.context.fillStyle = fill;
    this.context.fillRect(x, y, width, height);
    this.context.globalAlpha = 1;
  }

  frame(x: number, y: number, width: number, height: number, stroke: string, lineWidth: number): void {
    this.context.strokeStyle = stroke;
    this.context.lineWidth = lineWidth;
    this.context.strokeRect(x, y, width, height);
  }

  line(xs: ArrayLike<number>, ys: ArrayLike<number>, stroke: string, lineWidth: number, dash: readonly number[] = []): void {
    if (xs.length > MANY) {
      this.#pixels.line(xs, ys, stroke, lineWidth, dash);
      return;
    }
    const context = this.context;
    context.strokeStyle = stroke;
    context.lineWidth = lineWidth;
    context.lineJoin = "round";
    context.setLineDash([...dash]);
    context.beginPath();
    let open = false;
    for (let i = 0; i < xs.length; i++) {
      const y = ys[i] as number;
      if (y !== y) {
        open = false;
      } else if (open) {
        context.lineTo(xs[i] as number, y);
      } else {
        context.moveTo(xs[i] as number, y);
        open = true;
      }
    }
    context.stroke();
    context.setLineDash([]);
  }

  band(xs: ArrayLike<number>, low: ArrayLike<number>, high: ArrayLike<number>, fill: string): void {
    if (xs.length > MANY) {
      this.#pixels.band(xs, low, high, fill);
      return;
    }
    const context = this.context;
    context.fillStyle = fill;
    context.beginPath();
    for (let i = 0; i < xs.length; i++) context.lineTo(xs[i] as number, high[i] as number);
    for (let i = xs.length - 1; i >= 0; i--) context.lineTo(xs[i] as number, low[i] as number);
    context.closePath();
    context.fill();
  }

  dots(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void {
    if (radius < 1) {
      this.#pixels.dots(xs, ys, radius, fill);
      return;
    }
    const context = this.context;
    context.fillStyle = fill;
    context.beginPath();
    for (let i = 0; i < xs.length; i++) {
      context.moveTo((xs[i] as number) + radius, ys[i] as number);
      context.arc(xs[i] as number, ys[i] as number, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }

  carets(xs: ArrayLike<number>, y: number, stroke: string): void {
    const context = this.context;
    context.strokeStyle = stroke;
    context.lineWidth = 1;
    context.beginPath();
    for (let i = 0; i < xs.length; i++) {
      const x = xs[i] as number;
      context.moveTo(x - 2, y - 2);
      context.lineTo(x, y + 1);
      context.lineTo(x + 2, y - 2);
    }
    context.stroke();
  }

  hatch(x: number, y: number, width: number, height: number, stroke: string): void {
    const tile = new OffscreenCanvas(6, 6);
    const brush = tile.getContext("2d");
    const pattern = brush && slant(brush, stroke) && this.context.createPattern(tile, "repeat");
    if (!pattern) return;
    this.context.fillStyle = pattern;
    this.context.fillRect(x, y, width, height);
  }

  text(x: number, y: number, text: string, style: TextStyle): void {
    const context = this.context;
    context.fillStyle = style.fill;
    context.font = `${style.weight ?? 400} ${style.size}px ${FONT}`;
    context.textAlign = style.anchor === "middle" ? "center" : (style.anchor ?? "start");
    context.textBaseline = "alphabetic";
    if (!style.upward) {
      context.fillText(text, x, y);
      return;
    }
    context.save();
    context.translate(x, y);
    context.rotate(-Math.PI / 2);
    context.fillText(text, 0, 0);
    context.restore();
  }

  shifted(down: number, draw: () => void): void {
    this.context.translate(0, down);
    draw();
    this.context.translate(0, -down);
  }

  image(pixels: HTMLCanvasElement | HTMLImageElement, x: number, y: number, width: number, height: number): void {
    const smooth = pixels instanceof HTMLImageElement;
    this.context.imageSmoothingEnabled = smooth;
    this.context.drawImage(pixels, x, y, width, height);
  }
}
