/** An image model's tokens are patches: the picture with the tint laid over it. */

import { Figure } from "../draw/figure";
import type { Surface } from "../draw/surface";
import { h, on } from "../dom";
import { rampColor } from "../model/color";
import type { Scene } from "../model/scene";
import type { Change, Context } from "../views/context";
import type { Picture } from "../views/extensions";

/** Leaves the series below its room in a window of 900 pixels. */
const MAX_HEIGHT = 252;

interface Box {
  readonly left: number;
  readonly top: number;
  readonly cell: number;
}

/** The first token that is a patch: class tokens and registers stand before them. */
function firstPatch(scene: Scene): number {
  const [rows, columns] = scene.document.patches ?? [0, 0];
  return Math.max(0, scene.tokens - rows * columns - trailingSpecial(scene));
}

function trailingSpecial(scene: Scene): number {
  let count = 0;
  while (count < scene.tokens && scene.set.special[scene.tokens - 1 - count]) count++;
  return count;
}

export class PatchFigure implements Picture {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #figure = new Figure("patches", "Image with the tint of its patches. Left and right arrows move through the patches.");
  #picture: HTMLImageElement | null = null;
  #loaded: string | null = null;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.element = h("div", { class: "patch-holder", hidden: true }, this.#figure.element);
    on(this.#figure.element, "pointermove", (event) => store.set({ hoverToken: this.#tokenAt(event) }));
    on(this.#figure.element, "pointerleave", () => store.set({ hoverToken: null }));
    on(this.#figure.element, "click", (event) => {
      const token = this.#tokenAt(event);
      store.set({ token: token === store.state.token ? null : token });
    });
  }

  #box(width: number): Box {
    const [rows, columns] = this.#context.scene?.document.patches ?? [1, 1];
    const cell = Math.min(width / columns, MAX_HEIGHT / rows);
    return { left: (width - cell * columns) / 2, top: 0, cell };
  }

  #tokenAt(event: MouseEvent): number | null {
    const { scene } = this.#context;
    if (!scene?.document.patches) return null;
    const [rows, columns] = scene.document.patches;
    const [x, y] = this.#figure.place(event);
    const { left, cell } = this.#box(this.#figure.width);
    const column = Math.floor((x - left) / cell);
    const row = Math.floor(y / cell);
    return column >= 0 && row >= 0 && column < columns && row < rows ? firstPatch(scene) + row * columns + column : null;
  }

  update(change: Change): void {
    const { scene } = this.#context;
    if (!scene?.document.patches) return;
    this.#load(scene.document.image);
    if (change.has("tint", "document", "set")) {
      const width = this.element.clientWidth || 600;
      this.#figure.resize(width, this.pictureHeight(width));
      this.#figure.paint((surface) => this.draw(surface, 0, 0, width));
    }
    if (change.has("hoverToken", "token")) this.#mark();
  }

  #load(source: string | null): void {
    if (source === this.#loaded) return;
    this.#loaded = source;
    this.#picture = null;
    if (!source) return;
    const picture = new Image();
    picture.onload = () => {
      this.#picture = picture;
      this.#figure.paint((surface) => this.draw(surface, 0, 0, this.#figure.width));
    };
    picture.onerror = () => this.#context.notice("The image of this document cannot be read.", "error");
    picture.src = source;
  }

  pictureHeight(width: number): number {
    return Math.ceil(this.#box(width).cell * (this.#context.scene?.document.patches?.[0] ?? 1));
  }

  draw(surface: Surface, left: number, top: number, width: number): void {
    const { scene } = this.#context;
    const patches = scene?.document.patches;
    if (!scene || !patches) return;
    const box = this.#box(width);
    const [rows, columns] = patches;
    const [x, y] = [left + box.left, top + box.top];
    if (this.#picture) surface.image(this.#picture, x, y, box.cell * columns, box.cell * rows);
    const tint = scene.tint();
    if (!tint) return;
    const first = firstPatch(scene);
    for (let i = 0; i < rows * columns; i++) {
      const unit = tint.fit.unit(tint.values[first + i] as number);
      if (Number.isNaN(unit)) continue;
      surface.rect(x + (i % columns) * box.cell, y + Math.floor(i / columns) * box.cell, box.cell, box.cell, rampColor(unit), this.#picture ? 0.55 : 1);
    }
  }

  #mark(): void {
    const { scene, store, palette } = this.#context;
    if (!scene?.document.patches) return;
    const columns = scene.document.patches[1];
    const box = this.#box(this.#figure.width);
    const first = firstPatch(scene);
    this.#figure.overlay((surface) => {
      for (const token of [store.state.token, store.state.hoverToken]) {
        if (token === null || token < first) continue;
        const x = box.left + ((token - first) % columns) * box.cell;
        const y = Math.floor((token - first) / columns) * box.cell;
        surface.frame(x, y, box.cell, box.cell, palette.card, 5);
        surface.frame(x, y, box.cell, box.cell, palette.ink, 2);
      }
    });
  }
}
