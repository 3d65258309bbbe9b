/** A | B: two documents, or one document in two models: two texts over one axis, two maps and their difference, heads by change. */

import type { PageDocument } from "../data/types";
import { card, fill, h, on, select, setOptions, tell } from "../dom";
import { Figure } from "../draw/figure";
import { drawHeat, type HeatLayout, heatLayout, type HeatModel } from "../draw/heatmap";
import { togglePin } from "../model/actions";
import { diverging, rampColor } from "../model/color";
import { number } from "../model/format";
import { divergingFit, type Fit, fit } from "../model/scale";
import { Scene } from "../model/scene";
import type { State } from "../model/state";
import { visible } from "../model/tokens";
import { activeToken, type Change, type Context, type View } from "../views/context";
import { CompareFigure } from "./comparefigure";

const RANKED = 60;
/** Pixels of the body of a map: three of them stand one below the other. */
const MAP = 110;

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
  readonly #figure = new CompareFigure();
  readonly #note = h("p", { class: "readout" });
  readonly #list = h("ol", { class: "top", tabindex: "0", "aria-label": "Heads by change" });
  readonly #readout = h("p", { class: "readout" });
  readonly #doubt = h("span", { class: "note" });
  #other: Scene | null = null;
  #asked = 0;
  #heat: HeatLayout | null = null;
  #changes: readonly Changed[] = [];

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
      card("texts", "Token by token", null, null, h("div", { class: "compare-holder" }, this.#figure.figure.element)),
      card("changes", "Heads by change", h("span", { class: "note" }, "B \u2212 A"), null, this.#doubt, this.#list),
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
    const { figure } = this.#figure;
    on(figure.element, "pointermove", (event) => store.set({ hoverToken: this.#figure.axis?.token(figure.place(event)[0]) ?? null }));
    on(figure.element, "pointerleave", () => store.set({ hoverToken: null }));
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
      this.#other = new Scene(document, set, collection.rows[index]?.text ?? "", state, collection.sides[document.sets.indexOf(set)] ?? null);
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
    this.#figure.draw([a, b], [this.#nameOf(a), this.#nameOf(b)], this.#context.palette);
    const words = this.#figure.axis ? "same tokens, so the change is B \u2212 A token by token" : "different tokens, so the series are drawn one below the other";
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
    const model = (scene: Scene, value: (key: string, i: number) => number, ramp: Fit, change = false): HeatModel => ({
      cells: scene.rows.map((row, i) => ({ key: row.key, row: row.base.gridRow, column: row.base.gridColumn, value: value(row.key, i), faded: false })),
      rowLabels: scene.set.rowLabels,
      columnLabels: scene.set.columnLabels,
      means: false,
      fit: ramp,
      diverging: change,
      legend: scene === b || change, // A and B share one
    });
    const gaps = divergingFit(Float64Array.from(change.values()));
    const models = [model(a, (_, i) => sides[0]?.[i] ?? NaN, common), model(b, (_, i) => sides[1]?.[i] ?? NaN, common), model(a, (key) => change.get(key) ?? NaN, gaps, true)];
    const width = this.#maps[0]?.element.clientWidth || 286;
    models.forEach((one, i) => {
      const layout = heatLayout(one, width, MAP);
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

  /** Ends of a head's change over all texts, where a comparison of two models worked them out (attviz.compare). */
  #intervals(): (key: string) => readonly [number, number] {
    const { collection, scene, store } = this.#context;
    const found = collection.part("changes", 0) as { low: (number | null)[]; high: (number | null)[] } | null;
    const [index, set] = this.#against();
    const told = found && index === store.state.document && store.state.set === 0 && set === (scene?.document.sets.length ?? 0) - 1;
    tell(this.#doubt, told ? "grey: may be chance over all texts" : "");
    return (key) => {
      const place = scene?.find(key)?.place ?? -1;
      return told ? [found.low[place] ?? NaN, found.high[place] ?? NaN] : [NaN, NaN];
    };
  }

  #drawList(): void {
    const { store } = this.#context;
    const order = [...this.#changes].filter((one) => !Number.isNaN(one.b - one.a)).sort((x, y) => Math.abs(y.b - y.a) - Math.abs(x.b - x.a)).slice(0, RANKED);
    const most = Math.max(1e-30, ...order.map((one) => Math.abs(one.b - one.a)));
    const intervals = this.#intervals();
    fill(
      this.#list,
      order.map((one) => {
        const gap = one.b - one.a;
        const [low, high] = intervals(one.key);
        const unsure = low <= 0 && high >= 0;
        const words = Number.isNaN(low) ? "" : `; over all texts ${number(low)} to ${number(high)}${unsure ? ": uncertain" : ""}`;
        const bar = h("span", { class: "bar", style: { width: `${(Math.abs(gap) / most) * 100}%`, "background-color": rampColor(gap > 0 ? 0.85 : 0.15, diverging(this.#context.palette)) } });
        const press = (): void => store.set(togglePin(store.state, one.key));
        return h("li", { class: unsure ? "unsure" : null, title: `A ${number(one.a)}, B ${number(one.b)}${words}`, "data-key": one.key, onpointerenter: () => store.set({ hoverRow: one.key }) }, h("button", { class: "link", onclick: press, "aria-label": unsure ? `${visible(one.name)}, uncertain` : null }, visible(one.name)), h("span", { class: "bar-track" }, bar), h("span", { class: "value" }, `${gap > 0 ? "+" : ""}${number(gap)}`));
      }),
    );
  }

  #mark(): void {
    const { store, scene } = this.#context;
    const key = store.state.hoverRow;
    const found = this.#changes.find((one) => one.key === key);
    for (const item of this.#list.children) item.classList.toggle("active", (item as HTMLElement).dataset["key"] === key);
    const token = activeToken(store.state);
    const value = (one: Scene | null): string => (one && token !== null && token < one.tokens ? number(one.aggregate(store.state.aggregate)[token]) : "\u2013");
    const told = this.#figure.axis && token !== null ? `${scene?.pieces[token]?.text ?? ""} #${token}: A ${value(scene)}, B ${value(this.#other)}` : "";
    tell(this.#readout, found ? `${found.name}: A ${number(found.a)}, B ${number(found.b)}, change ${number(found.b - found.a)}` : told || "Point at a head or a token.");
    this.#figure.mark(token);
  }
}
