/** What a figure draws on. One drawing serves the screen, the PNG and the SVG. */

import { channels } from "../model/color";

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
  text(x: number, y: number, text: string, style: TextStyle): void;
  image(pixels: HTMLCanvasElement | HTMLImageElement, x: number, y: number, width: number, height: number): void;
}

export const FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif';

export class CanvasSurface implements Surface {
  constructor(readonly context: CanvasRenderingContext2D) {}

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
    const context = this.context;
    context.fillStyle = fill;
    context.beginPath();
    for (let i = 0; i < xs.length; i++) context.lineTo(xs[i] as number, high[i] as number);
    for (let i = xs.length - 1; i >= 0; i--) context.lineTo(xs[i] as number, low[i] as number);
    context.closePath();
    context.fill();
  }

  dots(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void {
    const context = this.context;
    context.fillStyle = fill;
    if (radius < 1) {
      this.speckle(xs, ys, radius, fill);
      return;
    }
    context.beginPath();
    for (let i = 0; i < xs.length; i++) {
      context.moveTo((xs[i] as number) + radius, ys[i] as number);
      context.arc(xs[i] as number, ys[i] as number, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }

  /** Thousands of small dots as one image: a rectangle each would cost fifty times more. */
  private speckle(xs: ArrayLike<number>, ys: ArrayLike<number>, radius: number, fill: string): void {
    const context = this.context;
    const { a: ratio, e: left, f: origin } = context.getTransform();
    let lowest = Infinity;
    let highest = -Infinity;
    for (let i = 0; i < ys.length; i++) {
      lowest = Math.min(lowest, ys[i] as number);
      highest = Math.max(highest, ys[i] as number);
    }
    const layer = document.createElement("canvas");
    const brush = layer.getContext("2d");
    if (!brush || !(highest >= lowest)) return;
    const start = Math.floor(origin + (lowest - 1) * ratio);
    const top = origin - start;
    layer.width = context.canvas.width;
    layer.height = Math.ceil(origin + (highest + 2) * ratio) - start;
    const image = brush.createImageData(layer.width, layer.height);
    const pixels = new Uint32Array(image.data.buffer);
    const [r, g, b] = channels(fill);
    const color = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    const size = Math.max(1, Math.round(2 * radius * ratio));
    for (let i = 0; i < xs.length; i++) {
      const x = Math.round(left + (xs[i] as number) * ratio - size / 2);
      const y = Math.round(top + (ys[i] as number) * ratio - size / 2);
      for (let down = 0; down < size; down++) {
        for (let across = 0; across < size; across++) {
          if (x + across < layer.width && y + down < layer.height) pixels[(y + down) * layer.width + x + across] = color;
        }
      }
    }
    brush.putImageData(image, 0, 0);
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(layer, 0, start);
    context.restore();
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

  image(pixels: HTMLCanvasElement | HTMLImageElement, x: number, y: number, width: number, height: number): void {
    const smooth = pixels instanceof HTMLImageElement;
    this.context.imageSmoothingEnabled = smooth;
    this.context.drawImage(pixels, x, y, width, height);
  }
}
