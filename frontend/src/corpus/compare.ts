/** A | B: two documents, or one document in two models: two texts over one axis, two maps and their difference, heads by change. */

import type { PageDocument } from "../data/types";
import { card, fill, h, on, select, setOptions, tell } from "../dom";
import { Figure } from "../draw/figure";
import { drawHeat, type HeatLayout, heatLayout, type HeatModel } from "../draw/heatmap";
import { drawStrip, type Stroke, stripLayout } from "../draw/strip";
import type { Surface } from "../draw/surface";
import { decimate, tokenAxis } from "../draw/xaxis";
import { togglePin } from "../model/actions";
import { AGGREGATE_NAMES } from "../model/aggregate";
import { rampColor, rampPixels } from "../model/color";
import { number, tick } from "../model/format";
import { divergingFit, type Fit, fit } from "../model/scale";
import { Scene } from "../model/scene";
import type { State } from "../model/state";
import { visible } from "../model/tokens";
import { activeToken, type Change, type Context, type View } from "../views/context";

const LINES = 150;
const LEFT = 58;
const RANKED = 60;

interface Changed {
  readonly key: string;
  readonly name: string;
  readonly a: number;
  readonly b: number;
}

export class CompareView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #boxes: HTMLSelectElement[];
  readonly #maps = ["A", "B", "B \u2212 A"].map((name) => new Figure("heat", `Heat map of ${name}`, "img"));
  readonly #captions = this.#maps.map(() => h("p", { class: "note" }));
  readonly #figure = new Figure("compare", "Texts of A and B and their series over one axis", "img");
  readonly #note = h("p", { class: "readout" });
  readonly #list = h("ol", { class: "top", tabindex: "0", "aria-label": "Heads by change" });
  readonly #readout = h("p", { class: "readout" });
  #other: Scene | null = null;
  #asked = 0;
  #heat: HeatLayout | null = null;
  #changes: readonly Changed[] = [];
  #stripBottom = 0;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    const set = (change: Partial<State>): void => store.set({ token: null, hoverToken: null, window: null, ...change });
    const other = (place: 0 | 1) => (value: string): void => {
      const parts = this.#against();
      parts[place] = Number(value);
      set({ against: parts.join(".") });
    };
    this.#boxes = [
      select("Document A", [], "0", (value) => set({ document: Number(value) })),
      select("Vectors A", [], "0", (value) => set({ set: Number(value) })),
      select("Document B", [], "0", other(0)),
      select("Vectors B", [], "0", other(1)),
    ];
    const [documentA, setA, documentB, setB] = this.#boxes;
    const swap = h("button", { onclick: () => this.#swap() }, "swap");
    const picks = h("p", { class: "inline wrap picks" }, h("b", {}, "A"), documentA, setA, h("b", { class: "b-mark" }, "B"), documentB, setB, swap);
    const maps = this.#maps.flatMap((map, i) => [this.#captions[i] as Node, map.element]);
    this.element = h(
      "main",
      { class: "compare-grid" },
      card("pick", "Compare", null, null, picks, this.#note),
      card("maps", "Maps", null, null, maps, this.#readout),
      card("texts", "Over one axis", null, null, h("div", { class: "compare-holder" }, this.#figure.element)),
      card("changes", "Heads by change", h("span", { class: "note" }, "B \u2212 A"), null, this.#list),
    );
    this.#listen();
  }

  #listen(): void {
    const { store } = this.#context;
    this.#maps.forEach((map) => {
      on(map.element, "pointermove", (event) => {
        const [x, y] = map.place(event);
        const layout = this.#heat;
        if (!layout) return;
        const [column, row] = [Math.floor((x - layout.left) / layout.cellWidth), Math.floor((y - layout.top) / layout.cellHeight)];
        const found = this.#context.scene?.rows.find((one) => one.base.gridRow === row && one.base.gridColumn === column);
        store.set({ hoverRow: found?.key ?? null });
      });
      on(map.element, "pointerleave", () => store.set({ hoverRow: null }));
      on(map.element, "click", () => store.state.hoverRow && store.set(togglePin(store.state, store.state.hoverRow)));
    });
    on(this.#figure.element, "pointermove", (event) => store.set({ hoverToken: this.#axis()?.token(this.#figure.place(event)[0]) ?? null }));
    on(this.#figure.element, "pointerleave", () => store.set({ hoverToken: null }));
  }

  /** Document and set of B: those of the state, or the next that make sense. */
  #against(): [number, number] {
    const { store, collection, scene } = this.#context;
    const { state } = store;
    const parts = /^(\d{1,7})\.(\d{1,3})$/.exec(state.against);
    if (parts && Number(parts[1]) < collection.rows.length) return [Number(parts[1]), Number(parts[2])];
    if ((scene?.document.sets.length ?? 1) > 1) return [state.document, state.set === 0 ? 1 : 0];
    return [(state.document + 1) % collection.rows.length, 0];
  }

  #swap(): void {
    const { store } = this.#context;
    const [document, set] = this.#against();
    store.set({ against: `${store.state.document}.${store.state.set}`, document, set, token: null, hoverToken: null, window: null });
  }

  update(change: Change): void {
    if (change.full || change.has("against", "statistic", "aggregate", "pins")) this.#open();
    else if (change.has("hoverRow", "hoverToken", "token")) this.#mark();
  }

  #open(): void {
    const { collection, store, scene } = this.#context;
    if (!scene) return;
    const [index, place] = this.#against();
    const ask = ++this.#asked;
    collection.load(index).then((document) => {
      if (ask !== this.#asked || !this.#context.scene) return;
      const set = document.sets[Math.min(place, document.sets.length - 1)];
      if (!set?.tokens.length || !set.rows.length) {
        this.#other = null;
        tell(this.#note, `Document ${index} has nothing to compare.`);
        return;
      }
      const state = { ...store.state, document: index, set: document.sets.indexOf(set) };
      this.#other = new Scene(document, set, collection.rows[index]?.text ?? "", state, this.#other, collection.sides[document.sets.indexOf(set)] ?? null);
      this.#choices(scene.document, document, index, state.set);
      this.#draw();
    }, (error: unknown) => tell(this.#note, String(error)));
  }

  #choices(a: PageDocument, b: PageDocument, index: number, place: number): void {
    const { collection, store } = this.#context;
    const documents = collection.rows.map((row, i) => [String(i), `${i} ${visible(row.name && row.name !== String(i) ? row.name : row.text.slice(0, 24))}`] as const);
    const sets = (document: PageDocument): (readonly [string, string])[] => document.sets.map((set, i) => [String(i), visible(set.name)] as const);
    const [documentA, setA, documentB, setB] = this.#boxes as [HTMLSelectElement, HTMLSelectElement, HTMLSelectElement, HTMLSelectElement];
    setOptions(documentA, documents, String(store.state.document));
    setOptions(setA, sets(a), String(store.state.set));
    setOptions(documentB, documents, String(index));
    setOptions(setB, sets(b), String(place));
    setA.hidden = setB.hidden = a.sets.length < 2 && b.sets.length < 2;
  }

  /** Both texts have the same tokens: values can be taken from each other one by one. */
  get #same(): boolean {
    const [a, b] = [this.#context.scene, this.#other];
    return a !== null && b !== null && a.tokens === b.tokens && a.set.tokens.every((token, i) => token === b.set.tokens[i]);
  }

  #draw(): void {
    const [a, b] = [this.#context.scene, this.#other];
    if (!a || !b) return;
    const { statistic } = a.state;
    const values = new Map(b.rows.map((row) => [row.key, b.statistic(statistic, row)]));
    this.#changes = a.rows.flatMap((row) => {
      const other = values.get(row.key);
      return other === undefined ? [] : [{ key: row.key, name: row.name, a: a.statistic(statistic, row), b: other }];
    });
    this.#drawMaps(a, b);
    this.#drawList();
    this.#drawTexts(a, b);
    const words = this.#same ? "the same tokens: the change is B \u2212 A, token by token" : "other tokens: the series stand one below the other";
    tell(this.#note, `${statistic} of each head, scale ${a.scale}, special tokens ${a.state.special}; ${words}.`);
    this.#mark();
  }

  #drawMaps(a: Scene, b: Scene): void {
    const { palette } = this.#context;
    const { statistic } = a.state;
    const sides = [a, b].map((scene) => scene.rows.map((row) => scene.statistic(statistic, row)));
    const shared = Float64Array.from(sides.flat());
    const common = fit(shared, shared.every((value) => !(value <= 0)) && a.scale === "log" ? "log" : "raw");
    const change = new Map(this.#changes.map((one) => [one.key, one.b - one.a]));
    const model = (scene: Scene, value: (key: string, i: number) => number, ramp: Fit, diverging: boolean): HeatModel => ({
      cells: scene.rows.map((row, i) => ({ key: row.key, row: row.base.gridRow, column: row.base.gridColumn, value: value(row.key, i), faded: false })),
      rowLabels: scene.set.rowLabels,
      columnLabels: scene.set.columnLabels,
      means: false,
      fit: ramp,
      diverging,
    });
    const gaps = divergingFit(Float64Array.from(change.values()));
    const models = [model(a, (_, i) => sides[0]?.[i] ?? NaN, common, false), model(b, (_, i) => sides[1]?.[i] ?? NaN, common, false), model(a, (key) => change.get(key) ?? NaN, gaps, true)];
    const width = this.#maps[0]?.element.clientWidth || 286;
    models.forEach((one, i) => {
      const layout = heatLayout(one, width);
      if (i === 0) this.#heat = layout;
      const map = this.#maps[i] as Figure;
      map.resize(width, layout.height);
      map.paint((surface) => drawHeat(surface, one, layout, palette, width));
      tell(this.#captions[i] as Node as HTMLElement, i === 2 ? "B \u2212 A" : `${i ? "B" : "A"}: ${this.#nameOf(i ? b : a)}`);
    });
  }

  #nameOf(scene: Scene): string {
    const { index } = scene.document;
    const row = this.#context.collection.rows[index];
    const set = scene.document.sets.length > 1 ? ` \u00b7 ${visible(scene.set.name)}` : "";
    return `${visible(row?.name && row.name !== String(index) ? row.name : `document ${index}`)}${set}`;
  }

  #drawList(): void {
    const { store } = this.#context;
    const order = [...this.#changes].filter((one) => !Number.isNaN(one.b - one.a)).sort((x, y) => Math.abs(y.b - y.a) - Math.abs(x.b - x.a)).slice(0, RANKED);
    const most = Math.max(1e-30, ...order.map((one) => Math.abs(one.b - one.a)));
    fill(
      this.#list,
      order.map((one) => {
        const gap = one.b - one.a;
        const bar = h("span", { class: "bar", style: { width: `${(Math.abs(gap) / most) * 100}%`, "background-color": rampColor(gap > 0 ? 0.85 : 0.15, "diverging") } });
        const press = (): void => store.set(togglePin(store.state, one.key));
        return h("li", { title: `A ${number(one.a)}, B ${number(one.b)}`, "data-key": one.key, onpointerenter: () => store.set({ hoverRow: one.key }) }, h("button", { class: "link", onclick: press }, visible(one.name)), h("span", { class: "bar-track" }, bar), h("span", { class: "value" }, `${gap > 0 ? "+" : ""}${number(gap)}`));
      }),
    );
  }

  #axis(): ReturnType<typeof tokenAxis> | null {
    const { scene } = this.#context;
    return scene && this.#same ? tokenAxis(0, scene.tokens, LEFT, this.#figure.width - LEFT - 8) : null;
  }

  #drawTexts(a: Scene, b: Scene): void {
    const width = this.#figure.element.clientWidth || 700;
    const layouts = [a, b].map((scene) => stripLayout(scene, width, 0));
    const tops = [20, 20 + Math.min(LINES, layouts[0]?.height ?? 0) + 26];
    this.#stripBottom = (tops[1] as number) + Math.min(LINES, layouts[1]?.height ?? 0) + 16;
    this.#figure.resize(width, this.#stripBottom + (this.#same ? 276 + this.#matrixHeight(a) : 300));
    this.#figure.paint((surface) => this.#paint(surface, [a, b], tops, width));
  }

  #paint(surface: Surface, scenes: readonly [Scene, Scene], tops: readonly number[], width: number): void {
    const { palette } = this.#context;
    const none: readonly Stroke[] = [];
    scenes.forEach((scene, i) => {
      const layout = stripLayout(scene, width, 0);
      const kept = Math.max(1, Math.floor(LINES / layout.lineHeight));
      const cut = { ...layout, lines: layout.lines.slice(0, kept) };
      const end = layout.lines[kept] ?? scene.tokens;
      surface.text(0, (tops[i] as number) - 6, `${i ? "B" : "A"}: ${this.#nameOf(scene)}${end < scene.tokens ? ` (first ${end} of ${scene.tokens} tokens)` : ""}`, { fill: i ? palette.accent : palette.ink, size: 12, weight: 600 });
      drawStrip(surface, scene, cut, none, palette, 0, tops[i] as number, end);
    });
    const { aggregate } = scenes[0].state;
    const lines = scenes.map((scene) => scene.aggregate(aggregate));
    const all = Float32Array.from(lines.flatMap((line) => [...line]).filter((value) => value === value));
    const high = Math.max(1e-30, ...all.subarray(0, 20_000));
    const top = this.#stripBottom + 14;
    const height = this.#same ? 120 : 118;
    scenes.forEach((scene, i) => {
      const base = this.#same ? top : top + i * (height + 18);
      const axis = tokenAxis(0, scene.tokens, LEFT, width - LEFT - 8);
      if (!this.#same || i === 0) this.#frame(surface, axis.left, axis.width, base, height, [0, high / 2, high], AGGREGATE_NAMES[aggregate]);
      const part = decimate(lines[i] as Float32Array, axis);
      surface.line(part.xs, part.values.map((value) => base + height * (1 - value / high)), i ? palette.accent : palette.ink, 2, i ? [6, 3] : []);
    });
    if (this.#same) this.#paintChange(surface, scenes, lines as [Float32Array, Float32Array], top + height + 26, width);
  }

  #frame(surface: Surface, left: number, width: number, top: number, height: number, marks: readonly number[], title: string): void {
    const { palette } = this.#context;
    const [low, high] = [marks[0] as number, marks[marks.length - 1] as number];
    surface.text(11, top + height / 2, title, { fill: palette.ink3, size: 10.5, anchor: "middle", upward: true });
    for (const mark of marks) {
      const y = top + height * (1 - (mark - low) / (high - low));
      surface.rect(left, y, width, 1, palette.grid);
      surface.text(left - 8, y + 3.5, tick(Number(mark.toPrecision(2))), { fill: palette.ink3, size: 10.5, anchor: "end" });
    }
  }

  /** B minus A, token by token, around zero. */
  #paintChange(surface: Surface, scenes: readonly [Scene, Scene], [first, second]: readonly [Float32Array, Float32Array], top: number, width: number): void {
    const [a] = scenes;
    const axis = tokenAxis(0, a.tokens, LEFT, width - LEFT - 8);
    const gaps = second.map((value, i) => value - (first[i] as number));
    const most = Math.max(1e-30, ...Array.from(gaps, (gap) => Math.abs(gap) || 0));
    const height = 96;
    this.#paintMatrix(surface, scenes, top + height + 14, width);
    this.#frame(surface, axis.left, axis.width, top, height, [-most, 0, most], "change");
    for (let token = 0; token < a.tokens; token++) {
      const gap = gaps[token] as number;
      if (gap !== gap) continue;
      const size = (Math.abs(gap) / most) * (height / 2);
      surface.rect(axis.x(token) - Math.max(0.5, axis.step * 0.4), top + height / 2 - (gap > 0 ? size : 0), Math.max(1, axis.step * 0.8), size, rampColor(gap > 0 ? 0.85 : 0.15, "diverging"));
    }
  }

  #matrixHeight(scene: Scene): number {
    return Math.min(360, scene.rows.length * Math.max(2, Math.min(8, Math.floor(300 / scene.rows.length))));
  }

  /** B minus A of every head at every token. */
  #paintMatrix(surface: Surface, [a, b]: readonly [Scene, Scene], top: number, width: number): void {
    const { palette } = this.#context;
    const others = b.rows;
    const values = new Map(others.map((row) => [row.key, b.lifted(row.values)]));
    const rows = a.rows.filter((row) => values.has(row.key));
    const canvas = h("canvas", { width: a.tokens, height: Math.max(1, rows.length) });
    const context = canvas.getContext("2d");
    if (!context || !rows.length) return;
    const gaps = rows.map((row) => a.lifted(row.values).map((value, token) => (values.get(row.key)?.[token] as number) - value));
    const sizes = Float32Array.from(gaps.flatMap((line) => [...line])).map(Math.abs).filter((size) => size === size).sort();
    const most = Math.max(1e-30, sizes[Math.floor(0.99 * (sizes.length - 1))] ?? 0);
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const ramp = rampPixels("diverging");
    gaps.forEach((line, y) => line.forEach((gap, x) => gap === gap && (pixels[y * a.tokens + x] = ramp[Math.round(Math.min(1, Math.max(0, 0.5 + gap / most / 2)) * 255)] as number)));
    context.putImageData(image, 0, 0);
    const height = this.#matrixHeight(a);
    surface.rect(LEFT, top, width - LEFT - 8, height, palette.grid);
    surface.image(canvas, LEFT, top, width - LEFT - 8, height);
    surface.text(11, top + height / 2, `heads, \u00b1${tick(Number(most.toPrecision(2)))}`, { fill: palette.ink3, size: 10.5, anchor: "middle", upward: true });
  }

  #mark(): void {
    const { store, scene, palette } = this.#context;
    const key = store.state.hoverRow;
    const found = this.#changes.find((one) => one.key === key);
    for (const item of this.#list.children) item.classList.toggle("active", (item as HTMLElement).dataset["key"] === key);
    const token = activeToken(store.state);
    const value = (one: Scene | null): string => (one && token !== null && token < one.tokens ? number(one.aggregate(store.state.aggregate)[token]) : "\u2013");
    const told = this.#same && token !== null ? `${scene?.pieces[token]?.text ?? ""} #${token}: A ${value(scene)}, B ${value(this.#other)}` : "";
    tell(this.#readout, found ? `${found.name}: A ${number(found.a)}, B ${number(found.b)}, change ${number(found.b - found.a)}` : told || "point at a head or a token");
    const axis = this.#axis();
    this.#figure.overlay((surface) => {
      if (axis && token !== null && token < axis.to) surface.rect(axis.x(token) - Math.max(1, axis.step / 2), this.#stripBottom, Math.max(2, axis.step), this.#figure.height - this.#stripBottom, palette.accent, 0.2);
    });
  }
}
