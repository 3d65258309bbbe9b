/** The text: tokens tinted by a vector, strokes of several vectors under them. Only the lines in sight are elements. */

import { card, fill, h, note, on, Segments, select, setOptions, tell } from "../dom";
import { drawStrip, lineOf, type Stroke, stripLayout, type StripLayout, TEXT_HEIGHT, tintColor } from "../draw/strip";
import { paintStrokes, strokeAt } from "../draw/strokes";
import type { Surface } from "../draw/surface";
import { count, number } from "../model/format";
import type { Scene, Tint } from "../model/scene";
import type { Strokes } from "../model/state";
import { visible } from "../model/tokens";
import { activeToken, type Change, type Context, type View } from "./context";
import { pictureOf } from "./extensions";

/** Height of the text before it scrolls; the reader can drag it. */
const ROOM = 178;
const SHORT_ROOM = 104;
const SHORT_WINDOW = 800;
/** So many vectors can all be drawn under the text from the start. */
export const FEW = 16;
/** Room for a scroll bar that may come with the next document. */
const SCROLLBAR = 12;

export class TextView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #note = note();
  readonly #legend = h("span", { class: "note legend-tint" });
  readonly #setBox: HTMLSelectElement;
  readonly #tintBox: HTMLSelectElement;
  readonly #strokeBox: Segments;
  readonly #strokeLabel = h("span", { class: "inline" }, "strokes ");
  readonly #strip = h("div", { class: "strip" });
  readonly #canvas = h("canvas", { class: "strokes", "aria-hidden": "true" });
  readonly #lines = h("div", { class: "lines" });
  readonly #scroller = h("div", { class: "strip-scroll", tabindex: "0", role: "group", "aria-label": "Text. Left and right arrows move through the tokens, Enter pins one." });
  /** The image that stands in place of a text. */
  readonly #image: ReturnType<typeof pictureOf>;
  #layout: StripLayout | null = null;
  #width = 0;
  #scrolled = 0;
  #room = ROOM;
  #dragged: number | null = null;
  #written = "";
  /** Elements of the lines in sight, by line, and what they were made for. */
  #shown = new Map<number, HTMLElement>();
  #lineOfPieces: readonly unknown[] = [];
  #lineWidth: Float32Array | null = null;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.#setBox = select("Token set", [["0", "set 0"]], "0", (value) => store.set({ set: Number(value), window: null, token: null, hoverToken: null }));
    this.#tintBox = select("Tint the text by", [["agg:mean", "mean"]], "agg:mean", (value) => store.set({ tint: value }));
    this.#strokeBox = new Segments("Strokes under the tokens", [["pinned", "pinned"], ["all", "all"], ["off", "off"]], (value) => store.set({ strokes: value as Strokes }));
    this.#strokeLabel.append(this.#strokeBox.element);
    this.#strip.append(this.#canvas, this.#lines);
    this.#scroller.append(this.#strip);
    this.#image = pictureOf(context);
    const controls = [this.#setBox, h("label", { class: "inline" }, "tint ", this.#tintBox), this.#strokeLabel];
    this.element = card("text", "Text", [this.#note, this.#legend], controls, this.#scroller, this.#image?.element);
    this.#listen();
  }

  #listen(): void {
    const { store } = this.#context;
    const tokenOf = (event: Event): number | null => {
      const found = (event.target as Element | null)?.closest?.("[data-token]");
      return found ? Number((found as HTMLElement).dataset["token"]) : null;
    };
    on(this.#lines, "pointerover", (event) => store.set({ hoverToken: tokenOf(event) }));
    on(this.#strip, "pointermove", (event) => this.#overStroke(event));
    on(this.#strip, "pointerleave", () => store.set({ hoverToken: null, hoverRow: null }));
    on(window, "beforeprint", () => this.#paper());
    new ResizeObserver(() => {
      const { height } = this.#scroller.style;
      if (!height || height === "auto" || height === this.#written) return; // the reader did not drag
      this.#dragged = this.#room = this.#scroller.offsetHeight;
      this.#written = height;
      this.#drawLines();
    }).observe(this.#scroller);
    on(this.#lines, "click", (event) => {
      const token = tokenOf(event);
      if (token !== null) store.set({ token: token === store.state.token ? null : token });
    });
    on(this.#scroller, "scroll", () => {
      if (Math.abs(this.#scroller.scrollTop - this.#scrolled) < 1) return; // drawn already
      this.#scrolled = this.#scroller.scrollTop;
      this.#drawLines();
    }, { passive: true });
  }

  /** On paper all of the text: its lines as elements, its strokes on a canvas of their own. */
  #paper(): void {
    const layout = this.#layout;
    const { scene } = this.#context;
    if (!layout || !scene || scene.document.patches) return;
    const strokes = h("canvas", { class: "strokes paper" });
    this.#drawLines({ room: layout.height, canvas: strokes });
    this.#scroller.style.height = "auto";
    if (this.#drawn.length) this.#strip.append(strokes);
    this.#canvas.hidden = true;
    on(window, "afterprint", () => {
      strokes.remove();
      this.#canvas.hidden = false;
      this.#scroller.style.height = this.#written;
      this.#drawLines();
    }, { once: true });
  }

  /** A stroke under the pointer is named, and marked in map and rows. */
  #overStroke(event: PointerEvent): void {
    const { scene, store } = this.#context;
    const layout = this.#layout;
    if (!scene || !layout) return;
    const box = this.#strip.getBoundingClientRect();
    const [stroke, token] = strokeAt(layout, this.#drawn, scene.tokens, event.clientX - box.left, event.clientY - box.top);
    this.#strip.title = stroke && token !== null ? `${visible(stroke.name)}: ${scene.pieces[token]?.text ?? ""} ${number(stroke.values[token])}` : "";
    if (stroke) store.set({ hoverToken: token, hoverRow: token === null ? null : stroke.key });
    else if (store.state.hoverRow !== null) store.set({ hoverRow: null });
  }
  #drawn: readonly Stroke[] = [];

  update(change: Change): void {
    const { store, scene } = this.#context;
    this.#strokeBox.set(this.#mode());
    if (change.has("tint", "strokes", "pins", "edits", "focus", "document", "set")) {
      this.#header(change);
      const vision = scene?.document.patches ?? null;
      this.#scroller.hidden = this.#strokeLabel.hidden = vision !== null;
      if (this.#image) this.#image.element.hidden = vision === null;
      if (scene && !vision) {
        if (change.measure || !this.#width) this.#width = this.#scroller.clientWidth;
        this.#place();
        this.#drawLines();
      }
      if (this.#scrolled && change.lists("document") && !change.measure) this.#scroller.scrollTop = this.#scrolled = 0; // asking costs a layout
      if (store.state.token !== null && change.lists("document") && !vision) this.#reveal(store.state.token);
    } else if (change.has("hoverToken", "token")) {
      if (store.state.hoverToken !== null && !this.#scroller.matches(":hover")) this.#reveal(store.state.hoverToken);
      this.#mark();
    }
    this.#image?.update(change);
  }

  #header(change: Change): void {
    const { store, scene, collection } = this.#context;
    const row = collection.rows[store.state.document];
    const title = this.element.querySelector("h2");
    if (title) tell(title, scene?.document.patches ? "Image" : "Text");
    const name = row?.name && row.name !== String(store.state.document) ? visible(row.name) : `document ${store.state.document}`;
    tell(this.#note, scene ? `${name.length > 40 ? `${name.slice(0, 39)}\u2026` : name} \u00b7 ${count(scene.tokens, "token")}` : name);
    const edits = store.state.sets;
    const sets = (scene?.document.sets ?? []).map((set, i) => [String(i), `${visible(set.name)}${edits[i]?.hidden ?? !set.visible ? " (hidden)" : ""}`] as const).filter(([i]) => !edits[i]?.removed);
    this.#setBox.hidden = sets.length < 2;
    setOptions(this.#setBox, sets, String(store.state.set));
    if (change.lists("document", "set", "sets", "edits", "focus", "order", "arrange", "pins", "tint")) this.#tints();
    this.#tintBox.value = store.state.tint;
    const tint = scene?.tint();
    tell(this.#legend, tint ? `tint ${tint.fit.legend}` : "");
  }

  #tints(): void {
    const { store, scene } = this.#context;
    setOptions(this.#tintBox, (scene?.tintChoices() ?? []).map(([key, label]) => [key, visible(label)] as const), store.state.tint);
  }

  /** Which strokes are drawn: all of a few vectors as long as none is pinned. */
  #mode(): Strokes {
    const { store, scene } = this.#context;
    const few = scene && !store.state.pins.length && scene.rows.length <= FEW;
    return store.state.strokes === "pinned" && few ? "all" : store.state.strokes;
  }

  /** The vectors drawn as strokes now. */
  strokes(): Stroke[] {
    const { scene, palette } = this.#context;
    const mode = this.#mode();
    if (!scene || mode === "off") return [];
    const pins = scene.pins(palette).filter((pin) => !pin.hidden);
    if (mode === "pinned") return pins;
    const colors = new Map(pins.map((pin) => [pin.key, pin.color]));
    return scene.shown.map((row, i) => ({ key: row.key, name: row.name, color: colors.get(row.key) ?? row.color ?? (palette.classes[i % palette.classes.length] as string), values: scene.lifted(row.values) }));
  }

  #place(): void {
    const { scene } = this.#context;
    if (!scene) return;
    const width = Math.max(120, this.#width - 4 - SCROLLBAR);
    this.#drawn = this.strokes();
    this.#layout = stripLayout(scene, width, this.#drawn.length);
    this.#strip.style.height = `${this.#layout.height}px`;
    this.#strip.parentElement?.style.setProperty("--strip-width", `${this.#width}px`);
    this.#strip.dir = scene.rtl ? "rtl" : "ltr";
    const room = this.#dragged ?? (window.innerHeight < SHORT_WINDOW && this.#context.file ? SHORT_ROOM : ROOM);
    this.#room = Math.min(room, this.#layout.height + 4);
    this.#written = `${this.#room}px`;
    this.#scroller.style.height = this.#written;
  }

  #drawLines(paper: { room: number; canvas: HTMLCanvasElement } | null = null): void {
    const { scene } = this.#context;
    const layout = this.#layout;
    if (!scene || !layout) return;
    const room = paper?.room ?? Math.min(layout.height, this.#room);
    const top = paper ? 0 : Math.min(this.#scrolled, Math.max(0, layout.height - room));
    const from = Math.max(0, Math.floor(top / layout.lineHeight) - 1);
    const to = Math.min(layout.lines.length, Math.ceil((top + room) / layout.lineHeight) + 1);
    const tint = scene.tint();
    const kept = this.#lineOfPieces === scene.pieces && this.#lineWidth === layout.xs ? this.#shown : new Map<number, HTMLElement>();
    this.#shown = new Map();
    this.#lineOfPieces = scene.pieces;
    this.#lineWidth = layout.xs;
    for (let line = from; line < to; line++) {
      const element = kept.get(line) ?? this.#line(scene, layout, line);
      element.style.top = `${line * layout.lineHeight}px`;
      this.#shown.set(line, element);
      this.#tint(layout, line, element, tint);
    }
    if (kept.size !== this.#shown.size || [...this.#shown].some(([line, element]) => kept.get(line) !== element)) fill(this.#lines, [...this.#shown.values()]);
    paintStrokes(paper?.canvas ?? this.#canvas, scene, layout, this.#drawn, { width: this.#width, room, top, from, to, clear: !paper });
    this.#mark();
  }

  /** The tokens of a line, as elements that stay as long as the text and its width. */
  #line(scene: Scene, layout: StripLayout, line: number): HTMLElement {
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

  #tint(layout: StripLayout, line: number, element: HTMLElement, tint: Tint | null): void {
    let token = layout.lines[line] as number;
    for (const span of element.children) {
      const color = tint ? tintColor(tint.values[token] as number, tint.fit, this.#context.palette) : null;
      (span as HTMLElement).style.backgroundColor = color ?? "";
      token++;
    }
  }

  #mark(): void {
    const { state } = this.#context.store;
    for (const [name, token] of [["hovered", state.hoverToken], ["pinned", state.token]] as const) {
      const now = token === null ? null : this.#lines.querySelector(`[data-token="${token}"]`);
      for (const span of this.#lines.querySelectorAll(`.${name}`)) if (span !== now) span.classList.remove(name);
      now?.classList.add(name);
    }
  }

  #reveal(token: number): void {
    const layout = this.#layout;
    if (!layout) return;
    const top = lineOf(layout, token) * layout.lineHeight;
    const room = Math.min(layout.height, this.#room - 2); // known, not asked for: asking costs a layout
    if (top < this.#scrolled) this.#scrolled = top;
    else if (top + layout.lineHeight > this.#scrolled + room) this.#scrolled = top + layout.lineHeight - room;
    else return;
    this.#scroller.scrollTop = this.#scrolled;
    this.#drawLines(); // in this frame: the scroll event comes with the next
  }

  /** Moves the cursor to a token and tells it. */
  step(by: number): void {
    const { store, scene } = this.#context;
    if (!scene?.tokens) return;
    const from = activeToken(store.state) ?? (by > 0 ? -1 : scene.tokens);
    const token = Math.min(scene.tokens - 1, Math.max(0, from + by));
    store.set({ hoverToken: token });
    this.#reveal(token);
    this.#context.say(`${scene.pieces[token]?.text ?? ""}, token ${token}, ${store.state.aggregate} ${number(scene.aggregate(store.state.aggregate)[token])}`);
  }

  draw(surface: Surface, width: number): void {
    const { scene, palette } = this.#context;
    if (!scene) return;
    if (scene.document.patches) {
      this.#image?.draw(surface, 0, 0, width);
      return;
    }
    drawStrip(surface, scene, stripLayout(scene, width, this.strokes().length), this.strokes(), palette, 0, 0);
  }

  /** How the tint runs, for keys. */
  get tinted(): Tint | null {
    return this.#context.scene?.tint() ?? null;
  }

  /** Size of the picture at a width. */
  pictureHeight(width: number): number {
    const { scene } = this.#context;
    if (!scene) return TEXT_HEIGHT;
    return (scene.document.patches && this.#image?.pictureHeight(width)) || stripLayout(scene, width, this.strokes().length).height;
  }
}
