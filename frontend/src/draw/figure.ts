/** A canvas with a second one above it: what hovers is drawn there, and the figure below is left alone. */

import { h } from "../dom";
import { CanvasSurface } from "./surface";

export class Figure {
  readonly element: HTMLElement;
  readonly base = h("canvas");
  readonly over = h("canvas", { class: "over", "aria-hidden": "true" });
  readonly #backdrop = h("canvas");
  #stillFor: readonly unknown[] = [];
  width = 0;
  height = 0;

  constructor(className: string, label: string, role: "img" | "application" = "application") {
    this.base.setAttribute("aria-hidden", "true");
    this.element = h("div", { class: `figure ${className}`, role, "aria-label": label, tabindex: role === "application" ? "0" : null }, this.base, this.over);
  }

  /** Sets the size in CSS pixels; the canvases follow the pixels of the device. */
  resize(width: number, height: number): void {
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    for (const canvas of [this.base, this.over]) {
      const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
      if (canvas.width !== across) canvas.width = across;
      if (canvas.height !== down) canvas.height = down;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    this.element.style.height = `${height}px`;
  }

  paint(draw: (surface: CanvasSurface) => void): void {
    this.#on(this.base, draw);
  }

  overlay(draw: (surface: CanvasSurface) => void): void {
    this.#on(this.over, draw);
  }

  /** Paints `still` only where one of `parts` is another than before; what moves is painted over a copy of it. */
  layered(parts: readonly unknown[], still: (surface: CanvasSurface) => void, moving: (surface: CanvasSurface) => void): void {
    const { base } = this;
    const backdrop = this.#backdrop;
    if (this.#stillFor.length !== parts.length || parts.some((part, i) => part !== this.#stillFor[i]) || backdrop.width !== base.width || backdrop.height !== base.height) {
      this.#stillFor = parts;
      [backdrop.width, backdrop.height] = [base.width, base.height];
      this.#on(backdrop, still);
    }
    this.#on(base, (surface) => {
      const { context } = surface;
      context.save();
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.drawImage(backdrop, 0, 0);
      context.restore();
      moving(surface);
    });
  }

  #on(canvas: HTMLCanvasElement, draw: (surface: CanvasSurface) => void): void {
    const context = canvas.getContext("2d");
    if (!context) return;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const surface = new CanvasSurface(context);
    draw(surface);
    surface.flush();
  }

  /** Pointer place inside the figure, in CSS pixels. */
  place(event: MouseEvent): [number, number] {
    const box = this.base.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
}
