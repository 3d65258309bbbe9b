/** The text: tokens tinted by a vector, strokes of several vectors under them. Only the lines in sight are elements. */

import { card, fill, h, Segments, select, setOptions, tell } from "../dom";
import { drawStrip, drawStrokes, lineOf, type Stroke, stripLayout, type StripLayout, TEXT_HEIGHT, tintColor } from "../draw/strip";
import { CanvasSurface, type Surface } from "../draw/surface";
import { count, number } from "../model/format";
import type { Scene, Tint } from "../model/scene";
import type { Strokes } from "../model/state";
import { visible } from "../model/tokens";
import { activeToken, type Change, type Context, type View } from "./context";
import { PatchFigure } from "./patches";

/** As in the stylesheet. */
const MAX_HEIGHT = 178;
/** So many vectors can all be drawn under the text from the start. */
export const FEW = 16;
/** Room for a scroll bar that may come with the next document. */
const SCROLLBAR = 12;

export class TextView implements View {
  readonly element: HTMLElement;
  private readonly note = h("span", { class: "note" });
  private readonly legend = h("span", { class: "note legend-tint" });
  private readonly setBox: HTMLSelectElement;
  private readonly tintBox: HTMLSelectElement;
  private readonly strokeBox: Segments;
  private readonly strokeLabel = h("span", { class: "inline" }, "strokes ");
  private readonly strip = h("div", { class: "strip" });
  private readonly canvas = h("canvas", { class: "strokes", "aria-hidden": "true" });
  private readonly lines = h("div", { class: "lines" });
  private readonly scroller = h("div", { class: "strip-scroll", tabindex: "0", role: "group", "aria-label": "Text. Left and right arrows move through the tokens, Enter pins one." });
  private readonly patches: PatchFigure;
  private layout: StripLayout | null = null;
  private width = 0;
  private scrolled = 0;
  /** Elements of the lines in sight, by line, and what they were made for. */
  private shown = new Map<number, HTMLElement>();
  private lineOfPieces: readonly unknown[] = [];
  private lineWidth: Float32Array | null = null;

  constructor(private readonly context: Context) {
    const { store } = context;
    this.setBox = select("Token set", [["0", "set 0"]], "0", (value) => store.set({ set: Number(value), window: null, token: null, hoverToken: null }));
    this.tintBox = select("Tint the text by", [["agg:mean", "mean"]], "agg:mean", (value) => store.set({ tint: value }));
    this.strokeBox = new Segments("Strokes under the tokens", [["pinned", "pinned"], ["all", "all"], ["off", "off"]], (value) => store.set({ strokes: value as Strokes }));
    this.strokeLabel.append(this.strokeBox.element);
    this.strip.append(this.canvas, this.lines);
    this.scroller.append(this.strip);
    this.patches = new PatchFigure(context);
    const controls = [this.setBox, h("label", { class: "inline" }, "tint ", this.tintBox), this.strokeLabel];
    this.element = card("text", "Text", [this.note, this.legend], controls, this.scroller, this.patches.element);
    this.listen();
  }

  private listen(): void {
    const { store } = this.context;
    const tokenOf = (event: Event): number | null => {
      const found = (event.target as Element | null)?.closest?.("[data-token]");
      return found ? Number((found as HTMLElement).dataset["token"]) : null;
    };
    this.lines.addEventListener("pointerover", (event) => store.set({ hoverToken: tokenOf(event) }));
    this.lines.addEventListener("pointerleave", () => store.set({ hoverToken: null }));
    this.lines.addEventListener("click", (event) => {
      const token = tokenOf(event);
      if (token !== null) store.set({ token: token === store.state.token ? null : token });
    });
    this.scroller.addEventListener(
      "scroll",
      () => {
        this.scrolled = this.scroller.scrollTop;
        this.drawLines();
      },
      { passive: true },
    );
  }

  update(change: Change): void {
    const { store, scene } = this.context;
    this.strokeBox.set(this.mode());
    if (change.has("tint", "strokes", "pins", "edits", "focus", "document", "set")) {
      this.header();
      const vision = scene?.document.patches ?? null;
      this.scroller.hidden = this.strokeLabel.hidden = vision !== null;
      this.patches.element.hidden = vision === null;
      if (scene && !vision) {
        if (change.measure || !this.width) this.width = this.scroller.clientWidth;
        this.place();
        this.drawLines();
      }
      if (this.scrolled && change.lists("document") && !change.measure) this.scroller.scrollTop = this.scrolled = 0; // asking costs a layout
      if (store.state.token !== null && change.lists("document") && !vision) this.reveal(store.state.token);
    } else if (change.has("hoverToken", "token")) {
      this.mark();
      if (store.state.hoverToken !== null && !this.scroller.matches(":hover")) this.reveal(store.state.hoverToken);
    }
    this.patches.update(change);
  }

  private header(): void {
    const { store, scene, collection } = this.context;
    const row = collection.rows[store.state.document];
    const title = this.element.querySelector("h2");
    if (title) tell(title, scene?.document.patches ? "Image" : "Text");
    const name = row?.name && row.name !== String(store.state.document) ? visible(row.name) : `document ${store.state.document}`;
    tell(this.note, scene ? `${name.length > 40 ? `${name.slice(0, 39)}\u2026` : name} \u00b7 ${count(scene.tokens, "token")}` : name);
    const edits = store.state.sets;
    const sets = (scene?.document.sets ?? []).map((set, i) => [String(i), `${visible(set.name)}${edits[i]?.hidden ?? !set.visible ? " (hidden)" : ""}`] as const).filter(([i]) => !edits[i]?.removed);
    this.setBox.hidden = sets.length < 2;
    setOptions(this.setBox, sets, String(store.state.set));
    setOptions(this.tintBox, (scene?.tintChoices() ?? []).map(([key, label]) => [key, visible(label)] as const), store.state.tint);
    const tint = scene?.tint();
    tell(this.legend, tint ? `tint ${tint.fit.legend}` : "");
  }

  /** Which strokes are drawn: all of a few vectors as long as none is pinned. */
  private mode(): Strokes {
    const { store, scene } = this.context;
    const few = scene && !store.state.pins.length && scene.rows.length <= FEW;
    return store.state.strokes === "pinned" && few ? "all" : store.state.strokes;
  }

  /** The vectors drawn as strokes now. */
  strokes(): Stroke[] {
    const { scene, palette } = this.context;
    const mode = this.mode();
    if (!scene || mode === "off") return [];
    const pins = scene.pins(palette).filter((pin) => !pin.hidden);
    if (mode === "pinned") return pins;
    const colors = new Map(pins.map((pin) => [pin.key, pin.color]));
    return scene.shown.map((row, i) => ({ color: colors.get(row.key) ?? row.color ?? (palette.classes[i % palette.classes.length] as string), values: scene.lifted(row.values) }));
  }

  private place(): void {
    const { scene } = this.context;
    if (!scene) return;
    const width = Math.max(120, this.width - 4 - SCROLLBAR);
    this.layout = stripLayout(scene, width, this.strokes().length);
    this.strip.style.setProperty("height", `${this.layout.height}px`);
  }

  private drawLines(): void {
    const { scene } = this.context;
    const layout = this.layout;
    if (!scene || !layout) return;
    const room = this.context.printing ? layout.height : Math.min(layout.height, MAX_HEIGHT);
    const top = this.context.printing ? 0 : Math.min(this.scrolled, Math.max(0, layout.height - room));
    const from = Math.max(0, Math.floor(top / layout.lineHeight) - 1);
    const to = Math.min(layout.lines.length, Math.ceil((top + room) / layout.lineHeight) + 1);
    const tint = scene.tint();
    const kept = this.lineOfPieces === scene.pieces && this.lineWidth === layout.xs ? this.shown : new Map<number, HTMLElement>();
    this.shown = new Map();
    this.lineOfPieces = scene.pieces;
    this.lineWidth = layout.xs;
    for (let line = from; line < to; line++) {
      const element = kept.get(line) ?? this.line(scene, layout, line);
      element.style.setProperty("top", `${line * layout.lineHeight}px`);
      this.shown.set(line, element);
      this.tint(scene, layout, line, element, tint);
    }
    if (kept.size !== this.shown.size || [...this.shown].some(([line, element]) => kept.get(line) !== element)) fill(this.lines, [...this.shown.values()]);
    this.drawCanvas(layout, from, to, top, room);
    this.mark();
  }

  /** The tokens of a line, as elements that stay as long as the text and its width. */
  private line(scene: Scene, layout: StripLayout, line: number): HTMLElement {
    const spans: HTMLElement[] = [];
    for (let token = layout.lines[line] as number; token < (layout.lines[line + 1] ?? scene.tokens); token++) {
      const piece = scene.pieces[token];
      const span = h("span", { class: `token${piece?.special ? " chip-token" : ""}${piece?.glued ? " glued" : ""}`, "data-token": token }, piece?.text);
      span.style.left = `${layout.xs[token] as number}px`;
      span.style.width = `${layout.widths[token] as number}px`;
      spans.push(span);
    }
    return h("div", { class: "line" }, spans);
  }

  private tint(scene: Scene, layout: StripLayout, line: number, element: HTMLElement, tint: Tint | null): void {
    let token = layout.lines[line] as number;
    for (const span of element.children) {
      const color = tint && !scene.pieces[token]?.special ? tintColor(tint.values[token] as number, tint.fit, this.context.palette) : null;
      (span as HTMLElement).style.backgroundColor = color ?? "";
      token++;
    }
  }

  private drawCanvas(layout: StripLayout, from: number, to: number, top: number, room: number): void {
    const { scene } = this.context;
    const strokes = this.strokes();
    const ratio = window.devicePixelRatio || 1;
    const width = this.width;
    this.canvas.width = strokes.length ? Math.round(width * ratio) : 1;
    this.canvas.height = strokes.length ? Math.round(room * ratio) : 1;
    this.canvas.style.setProperty("top", `${top}px`);
    this.canvas.style.setProperty("width", `${width}px`);
    this.canvas.style.setProperty("height", `${strokes.length ? room : 0}px`);
    const context = this.canvas.getContext("2d");
    if (!context || !scene || !strokes.length) return;
    context.scale(ratio, ratio);
    drawStrokes(new CanvasSurface(context), scene, layout, strokes, scene.matrixFit(), from, to, top);
  }

  private mark(): void {
    const { state } = this.context.store;
    for (const [name, token] of [["hovered", state.hoverToken], ["pinned", state.token]] as const) {
      const now = token === null ? null : this.lines.querySelector(`[data-token="${token}"]`);
      for (const span of this.lines.querySelectorAll(`.${name}`)) if (span !== now) span.classList.remove(name);
      now?.classList.add(name);
    }
  }

  private reveal(token: number): void {
    const layout = this.layout;
    if (!layout) return;
    const top = lineOf(layout, token) * layout.lineHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + layout.lineHeight > this.scroller.scrollTop + this.scroller.clientHeight) this.scroller.scrollTop = top + layout.lineHeight - this.scroller.clientHeight;
  }

  /** Moves the cursor to a token and tells it. */
  step(by: number): void {
    const { store, scene } = this.context;
    if (!scene?.tokens) return;
    const from = activeToken(store.state) ?? (by > 0 ? -1 : scene.tokens);
    const token = Math.min(scene.tokens - 1, Math.max(0, from + by));
    store.set({ hoverToken: token });
    this.reveal(token);
    this.context.say(`${scene.pieces[token]?.text ?? ""}, token ${token}, ${store.state.aggregate} ${number(scene.aggregate(store.state.aggregate)[token])}`);
  }

  draw(surface: Surface, width: number): void {
    const { scene, palette } = this.context;
    if (!scene) return;
    if (scene.document.patches) {
      this.patches.draw(surface, 0, 0, width);
      return;
    }
    drawStrip(surface, scene, stripLayout(scene, width, this.strokes().length), this.strokes(), palette, 0, 0);
  }

  /** Size of the picture at a width. */
  pictureHeight(width: number): number {
    const { scene } = this.context;
    if (!scene) return TEXT_HEIGHT;
    return scene.document.patches ? this.patches.pictureHeight(width) : stripLayout(scene, width, this.strokes().length).height;
  }
}
