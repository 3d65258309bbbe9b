/** Series and matrix: one card, one x axis, one cursor through both. */

import { card, h, on, Segments, select, tell } from "../dom";
import { Figure } from "../draw/figure";
import { arrangeSeries, clusterTree, LEAST, LEFT, MINIMAP, MOST, ROW, type SeriesLayout, TREE } from "../draw/arrange";
import { drawMatrix, drawTokenNames, rowAt } from "../draw/matrix";
import { drawMinimap } from "../draw/minimap";
import { dotStride, drawLines, drawVectors } from "../draw/series";
import type { Surface } from "../draw/surface";
import { drawTree } from "../draw/tree";
import { setWindow, togglePin, zoom } from "../model/actions";
import { AGGREGATE_NAMES, AGGREGATES, type Aggregate } from "../model/aggregate";
import type { Fit } from "../model/scale";
import type { Scene } from "../model/scene";
import type { Axis } from "../model/state";
import { activeToken, capture, type Change, type Context, type View } from "./context";
import { seriesLegend } from "./legend";

export class SeriesView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #figure = new Figure("series", "Series of the aggregate over the tokens, and the matrix of vectors and tokens. Left and right arrows move, Enter pins, plus and minus zoom, 0 shows all.");
  readonly #holder = h("div", { class: "series-holder" }, this.#figure.element);
  readonly #legend = h("span", { class: "legend" });
  readonly #aggregateBox: HTMLSelectElement;
  readonly #axisBox: Segments;
  readonly #resetBox: HTMLButtonElement;
  readonly #tip = h("div", { class: "tip", "aria-hidden": "true", hidden: true });
  #layout: SeriesLayout | null = null;
  #drag: { from: number; minimap: boolean; moved: boolean } | null = null;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.#aggregateBox = select("Aggregate of the series", AGGREGATES.map((name) => [name, AGGREGATE_NAMES[name]] as const), "mean", (value) => store.set({ aggregate: value as Aggregate }));
    this.#axisBox = new Segments("Axis of the values", [["log", "log"], ["linear", "linear"]], (value) => store.set({ axis: value as Axis }));
    this.#resetBox = h("button", { class: "chip", onclick: () => store.set({ window: null }) });
    this.#holder.append(this.#tip);
    this.element = card("series", "Series and vectors", this.#legend, [this.#resetBox, this.#aggregateBox, this.#axisBox.element], this.#holder);
    this.#listen();
  }

  #listen(): void {
    const target = this.#figure.element;
    const { store } = this.#context;
    new ResizeObserver(() => this.#fitted()).observe(this.#holder);
    on(target, "pointermove", (event) => this.#move(event));
    on(target, "pointerleave", () => {
      this.#tip.hidden = true;
      if (!this.#drag) store.set({ hoverToken: null, hoverRow: null });
    });
    on(target, "pointerdown", (event) => {
      capture(target, event);
      const [x, y] = this.#figure.place(event);
      const minimap = this.#layout?.minimapTop !== null && y >= (this.#layout?.minimapTop ?? Infinity) - 4;
      this.#drag = { from: x, minimap, moved: false };
      if (minimap) this.#pan(x);
    });
    on(target, "pointerup", (event) => this.#release(event));
    on(target, "pointercancel", () => {
      this.#drag = null;
      this.#drawCursor();
    });
    on(target, "dblclick", (event) => {
      const row = this.#rowUnder(this.#figure.place(event)[1]);
      if (row) store.set(togglePin(store.state, row));
      else store.set({ window: null });
    });
    on(target, "wheel", (event) => {
      const token = this.#layout?.axis.token(this.#figure.place(event)[0]);
      if (!event.ctrlKey || token === null || token === undefined || !this.#context.scene) return;
      event.preventDefault();
      store.set(zoom(store.state, event.deltaY > 0 ? 1.25 : 0.8, token, this.#context.scene.tokens));
    }, { passive: false });
  }

  /** A longer legend, or whatever else took room from the figure. */
  #fitted(): void {
    const layout = this.#layout;
    const { scene } = this.#context;
    if (!layout || !scene || (this.#holder.clientWidth === layout.width && this.#holder.clientHeight === layout.height)) return;
    this.#drawFresh(scene);
    this.#drawCursor();
  }

  #rowUnder(y: number): string | null {
    const layout = this.#layout;
    return layout ? (rowAt(layout.matrix, y - layout.matrixTop)?.key ?? null) : null;
  }

  #move(event: PointerEvent): void {
    const { store, scene } = this.#context;
    const layout = this.#layout;
    if (!layout || !scene) return;
    const [x, y] = this.#figure.place(event);
    if (this.#drag) {
      this.#drag.moved ||= Math.abs(x - this.#drag.from) > 5;
      if (this.#drag.minimap) this.#pan(x);
      else if (this.#drag.moved) this.#drawCursor(x);
      if (this.#drag.minimap || this.#drag.moved) return;
    }
    const token = layout.axis.token(x);
    const row = token === null ? null : y < layout.matrixTop ? this.#nearest(token, y) : this.#rowUnder(y);
    store.set({ hoverToken: token, hoverRow: row });
    this.#showTip(token, row, x, y);
  }

  /** The vector whose dot is under the pointer. */
  #nearest(token: number, y: number): string | null {
    const { scene } = this.#context;
    if (!scene || !this.#layout) return null;
    let best: string | null = null;
    let gap = 6;
    const lift = scene.scale === "lift" ? scene.visibleKeys(token) : 1;
    for (const row of scene.shown) {
      const distance = Math.abs(this.#layout.values.y((row.values[token] as number) * lift) - y);
      if (distance < gap) [best, gap] = [row.key, distance];
    }
    return best;
  }

  #showTip(token: number | null, row: string | null, x: number, y: number): void {
    const { scene } = this.#context;
    this.#tip.hidden = token === null || !scene;
    if (token === null || !scene) return;
    this.#tip.textContent = seriesLegend.tip(scene, token, row);
    // Placed from the nearer side, so that its size need not be asked for.
    const style = this.#tip.style;
    const right = x > this.#figure.width / 2;
    style.left = right ? "auto" : `${x + 14}px`;
    style.right = right ? `${this.#figure.width - x + 14}px` : "auto";
    style.top = y < 60 ? `${y + 16}px` : "auto";
    style.bottom = y < 60 ? "auto" : `${this.#figure.height - y + 8}px`;
  }

  #release(event: PointerEvent): void {
    const { store, scene } = this.#context;
    const drag = this.#drag;
    this.#drag = null;
    const layout = this.#layout;
    if (!drag || drag.minimap || !layout || !scene) return;
    const [x] = this.#figure.place(event);
    const token = layout.axis.token(x);
    if (!drag.moved) {
      if (token !== null) store.set({ token: token === store.state.token ? null : token });
      return;
    }
    const clip = (value: number): number => layout.axis.token(Math.min(layout.axis.left + layout.axis.width - 0.01, Math.max(layout.axis.left, value))) ?? 0;
    const [from, to] = [clip(Math.min(x, drag.from)), clip(Math.max(x, drag.from))];
    if (to > from) store.set(setWindow(from, to + 1, scene.tokens));
    this.#drawCursor();
  }

  #pan(x: number): void {
    const { store, scene } = this.#context;
    if (!scene || !this.#layout) return;
    const [from, to] = store.state.window ?? [0, Math.max(8, Math.floor(scene.tokens / 8))];
    const middle = ((x - this.#layout.axis.left) / this.#layout.axis.width) * scene.tokens;
    store.set(setWindow(middle - (to - from) / 2, middle + (to - from) / 2, scene.tokens));
  }

  /** Plus, minus and 0; says whether the key was one of them. */
  key(key: string): boolean {
    const { store, scene } = this.#context;
    if (!scene || !["+", "=", "-", "0"].includes(key)) return false;
    const [from, to] = store.state.window ?? [0, scene.tokens];
    const around = activeToken(store.state) ?? (from + to) / 2;
    store.set(key === "0" ? { window: null } : zoom(store.state, key === "-" ? 2 : 0.5, around, scene.tokens));
    return true;
  }

  update(change: Change): void {
    const { store, scene } = this.#context;
    const { state } = store;
    this.#aggregateBox.value = state.aggregate;
    this.#axisBox.set(state.axis);
    this.#axisBox.element.hidden = scene?.side?.measure?.scales[0] === "raw";
    this.#resetBox.hidden = !state.window;
    tell(this.#resetBox, state.window ? `tokens ${state.window[0]}\u2013${state.window[1] - 1} \u00d7` : "");
    if (change.has("pins", "aggregate", "axis", "window", "strokes")) {
      if (!scene || !scene.tokens || !scene.rows.length) {
        this.#layout = null;
        this.#figure.paint(() => undefined);
        this.#figure.overlay(() => undefined);
        return;
      }
      this.#drawFresh(scene);
    }
    if (change.has("hoverToken", "token", "hoverRow", "window", "pins")) this.#drawCursor();
  }

  /** The last view to be told: the page is laid out here once, as it will be in this frame, and nothing moves after it. */
  #drawFresh(scene: Scene): void {
    // The legend first, from the size that was: then nothing is written after the one question for the size.
    let layout = (this.#layout = this.#arrange(this.#figure.width || 700, this.#figure.height || 330));
    this.#holder.style.minHeight = `${Math.round(LEAST + Math.min(MOST, scene.shown.length * ROW) + layout.height - layout.namesTop + 36)}px`;
    seriesLegend.fill(this.#legend, scene, dotStride(scene, layout.axis), layout.data.fit.legend);
    const [width, height] = [this.#holder.clientWidth || 700, this.#holder.clientHeight || 330];
    if (width !== layout.width || height !== layout.height) layout = this.#arrange(width, height);
    this.#figure.resize(layout.width, layout.height);
    this.#layout = layout;
    const { axis, values } = layout;
    const still = [scene.drawn, this.#context.palette, axis.from, axis.to, layout.width, layout.height, layout.seriesHeight, layout.namesTop, values.floor, values.ceiling, values.logarithmic];
    this.#figure.layered(still, (surface) => this.#drawStill(surface, layout), (surface) => this.#drawMoving(surface, layout));
  }

  #arrange(width: number, height: number, picture = false): SeriesLayout {
    const { scene, palette } = this.#context;
    return arrangeSeries(scene as Scene, palette, width, height, picture ? null : this.#layout, picture);
  }

  #drawStill(surface: Surface, layout: SeriesLayout): void {
    const { scene, palette } = this.#context;
    if (!scene) return;
    drawVectors(surface, scene, layout.axis, layout.values, 8, layout.seriesHeight, palette);
    drawTokenNames(surface, scene, layout.axis, layout.namesTop, palette);
  }

  #drawMoving(surface: Surface, layout: SeriesLayout): void {
    const { scene, palette, store } = this.#context;
    if (!scene) return;
    const pins = scene.pins(palette);
    drawMatrix(surface, scene, layout.matrix, layout.data, layout.axis, layout.matrixTop, palette);
    const tree = clusterTree(scene);
    if (tree) {
      const { rows, tops } = layout.matrix;
      const leaves = new Array<number>(scene.set.rows.length).fill(NaN);
      const place = new Map(scene.set.rows.map((row, i) => [row.key, i]));
      rows.forEach((row, i) => (leaves[place.get(row.key) ?? 0] = layout.matrixTop + ((tops[i] as number) + (tops[i + 1] as number)) / 2));
      drawTree(surface, leaves, tree.merges, LEFT + layout.axis.width + 5, TREE - 8, palette);
    }
    if (layout.minimapTop !== null) drawMinimap(surface, scene, store.state.window, LEFT, layout.minimapTop, layout.axis.width, MINIMAP - 2, palette);
    for (const pin of pins) {
      const at = layout.matrix.rows.findIndex((row) => row.key === pin.key);
      if (at < 0) continue;
      const top = layout.matrixTop + (layout.matrix.tops[at] as number);
      surface.rect(LEFT - 5, top, 4, Math.max(2, (layout.matrix.tops[at + 1] as number) - (layout.matrix.tops[at] as number)), pin.color);
    }
    drawLines(surface, scene, pins, layout.axis, layout.values, palette);
  }

  /** For pictures, at a size of their own. */
  draw(surface: Surface, width: number): void {
    if (!this.#layout) return;
    const layout = this.#arrange(width, this.pictureHeight(width), true);
    this.#drawStill(surface, layout);
    this.#drawMoving(surface, layout);
  }

  /** Height at which every row of the matrix has its pixels and the series keeps its own. */
  pictureHeight(width: number): number {
    const { scene } = this.#context;
    if (!scene || !this.#layout) return 0;
    const names = this.#arrange(width, 400, true);
    return Math.round(0.24 * width + Math.max(60, Math.min(2 * MOST, scene.shown.length * ROW + 16)) + 400 - names.namesTop + 20);
  }

  get fit(): Fit | null {
    return this.#layout?.data.fit ?? null;
  }

  #drawCursor(dragTo?: number): void {
    const { store, palette } = this.#context;
    const layout = this.#layout;
    this.#figure.overlay((surface) => {
      if (!layout) return;
      const bottom = layout.matrixTop + layout.matrix.height;
      if (this.#drag?.moved && dragTo !== undefined) {
        surface.rect(Math.min(dragTo, this.#drag.from), 2, Math.abs(dragTo - this.#drag.from), bottom, palette.accent, 0.2);
        return;
      }
      for (const token of new Set([store.state.token, store.state.hoverToken])) {
        if (token === null || token < layout.axis.from || token >= layout.axis.to) continue;
        const width = Math.max(2, layout.axis.step);
        const x = layout.axis.x(token) - width / 2;
        surface.rect(x, 2, width, bottom - 2, palette.accent, 0.22);
        surface.frame(x + 0.5, 2.5, width - 1, bottom - 3, palette.accent, 1);
      }
      const row = layout.matrix.rows.findIndex((one) => one.key === store.state.hoverRow);
      if (row < 0) return;
      const top = layout.matrixTop + (layout.matrix.tops[row] as number);
      const height = Math.max(2, (layout.matrix.tops[row + 1] as number) - (layout.matrix.tops[row] as number));
      surface.frame(layout.axis.left + 0.5, top - 0.5, layout.axis.width - 1, height + 1, palette.ink, 1.5);
    });
  }
}
