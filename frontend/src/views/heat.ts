/** The layers x heads heat map: the way into everything else. */

import { card, h, on, select, setOptions, tell } from "../dom";
import { Figure } from "../draw/figure";
import { drawHeat, drawPin, type HeatLayout, heatLayout, type HeatModel, MAX_BODY } from "../draw/heatmap";
import type { Surface } from "../draw/surface";
import { setFocus, togglePin } from "../model/actions";
import { STATISTICS, type Statistic } from "../model/aggregate";
import { number } from "../model/format";
import { divergingFit, fit } from "../model/scale";
import type { Row, Scene } from "../model/scene";
import type { Arrange, Scope } from "../model/state";
import { capture, type Change, type Context, type View } from "./context";

const SCOPES: readonly (readonly [Scope, string])[] = [
  ["document", "document"],
  ["all", "all documents"],
  ["difference", "difference"],
];

type Cell = { row: number; column: number };

interface Places {
  row(row: Row, index: number): number;
  column(row: Row, index: number): number;
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
}

export class HeatView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #figure = new Figure("heat", "Heat map of vectors. Arrow keys move, Enter pins, Space isolates.");
  readonly #statisticBox: HTMLSelectElement;
  readonly #scopeBox: HTMLSelectElement;
  readonly #arrangeBox: HTMLSelectElement;
  readonly #tip = h("p", { class: "readout", "aria-hidden": "true" });
  #model: HeatModel | null = null;
  #layout: HeatLayout | null = null;
  #cursor: Cell | null = null;
  #dragFrom: Cell | null = null;
  #dragTo: Cell | null = null;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.#statisticBox = select("Statistic of a cell", STATISTICS.map((name) => [name, name] as const), store.state.statistic, (value) => store.set({ statistic: value as Statistic }));
    this.#scopeBox = select("Documents of the heat map", SCOPES, store.state.scope, (value) => store.set({ scope: value as Scope }));
    this.#arrangeBox = select("Order of the vectors", [], "own", (value) => store.set({ arrange: value as Arrange }));
    this.element = card("heat", "Layers \u00d7 heads", null, [this.#arrangeBox, this.#scopeBox, this.#statisticBox], this.#figure.element, this.#tip);
    this.#listen();
  }

  #listen(): void {
    const target = this.#figure.element;
    const { store } = this.#context;
    on(target, "pointermove", (event) => {
      const cell = this.#cellAt(event);
      this.#cursor = cell;
      store.set({ hoverRow: this.#keyOf(cell) }); // drawn with the next frame
      this.#tell(cell);
      if (this.#dragFrom && cell) {
        this.#dragTo = cell;
        this.#drawCursor();
      }
    });
    on(target, "pointerleave", () => {
      this.#cursor = null;
      store.set({ hoverRow: null });
      this.#drawCursor();
    });
    on(target, "pointerdown", (event) => {
      capture(target, event);
      this.#dragFrom = this.#dragTo = this.#cellAt(event);
    });
    on(target, "pointerup", () => this.#release());
    on(target, "pointercancel", () => {
      this.#dragFrom = this.#dragTo = null;
      this.#drawCursor();
    });
    on(target, "dblclick", () => {
      const key = this.#keyOf(this.#cursor);
      if (key) store.set(setFocus(store.state, [key]));
    });
    on(target, "keydown", (event) => this.#key(event));
    on(target, "blur", () => {
      this.#cursor = null;
      this.#drawCursor();
    });
  }

  #release(): void {
    const { store } = this.#context;
    const [from, to] = [this.#dragFrom, this.#dragTo];
    this.#dragFrom = this.#dragTo = null;
    if (!from || !to) return;
    if (from.row === to.row && from.column === to.column) {
      const key = this.#keyOf(from);
      if (key) store.set(togglePin(store.state, key));
    } else {
      const inside = (value: number, a: number, b: number): boolean => value >= Math.min(a, b) && value <= Math.max(a, b);
      const keys = this.#model?.cells.filter((cell) => inside(cell.row, from.row, to.row) && inside(cell.column, from.column, to.column)) ?? [];
      store.set(setFocus(store.state, keys.map((cell) => cell.key)));
      this.#context.say(`${keys.length} vectors isolated; Escape shows all`);
      this.#drawCursor();
    }
  }

  #key(event: KeyboardEvent): void {
    const { store } = this.#context;
    const steps: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const layout = this.#layout;
    if (step && layout) {
      const from = this.#cursor ?? { row: 0, column: step[1] ? -1 : 0 };
      const row = Math.min(layout.rows - 1, Math.max(0, from.row + step[0]));
      const column = Math.min(layout.columns - 1, Math.max(0, from.column + step[1]));
      this.#cursor = { row, column };
      store.set({ hoverRow: this.#keyOf(this.#cursor) });
      this.#drawCursor();
      this.#context.say(this.#readout(this.#cursor));
    } else if (event.key === "Enter" || event.key === " ") {
      const key = this.#keyOf(this.#cursor);
      if (!key) return;
      store.set(event.key === "Enter" ? togglePin(store.state, key) : setFocus(store.state, [key]));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  #cellAt(event: MouseEvent): Cell | null {
    const layout = this.#layout;
    if (!layout) return null;
    const [x, y] = this.#figure.place(event);
    const column = Math.floor((x - layout.left) / layout.cellWidth);
    const row = Math.floor((y - layout.top) / layout.cellHeight);
    return column >= 0 && row >= 0 && column < layout.columns && row < layout.rows ? { row, column } : null;
  }

  #keyOf(cell: Cell | null): string | null {
    return (cell && this.#model?.cells.find((one) => one.row === cell.row && one.column === cell.column)?.key) ?? null;
  }

  #readout(cell: Cell | null): string {
    const found = cell && this.#model?.cells.find((one) => one.row === cell.row && one.column === cell.column);
    const { scene, collection, store } = this.#context;
    if (!found || !scene) return "";
    const row = scene.find(found.key);
    const layer = row && (scene.side ?? collection).layers[row.base.gridRow]?.name;
    const note = scene.state.edits[found.key]?.note;
    return `${scene.nameOf(found.key)}: ${store.state.statistic} ${number(found.value)}${layer ? ` \u00b7 ${layer}` : ""}${note ? ` \u00b7 ${note.slice(0, 80)}` : ""}`;
  }

  update(change: Change): void {
    const { store, collection } = this.#context;
    this.#statisticBox.value = store.state.statistic;
    this.#scopeBox.hidden = !this.#context.scene?.side || collection.rows.length < 2;
    const orders = [["own", "by head"], ["layer", "within layer"], ["value", "ranked"], ["cluster", "clusters"]] as const;
    setOptions(this.#arrangeBox, this.#context.scene?.side?.cluster ? orders : orders.slice(0, 3), store.state.arrange);
    this.#scopeBox.value = store.state.scope;
    const title = this.element.querySelector("h2");
    if (title) tell(title, collection.layers.length || this.#context.scene?.set.rowLabels[0]?.startsWith("L") ? "Layers \u00d7 heads" : "Vectors");
    if (change.has("statistic", "scope")) {
      this.#model = this.#build();
      const width = change.measure || !this.#figure.width ? this.#figure.element.clientWidth || 286 : this.#figure.width;
      this.#layout = this.#model && heatLayout(this.#model, width);
      if (this.#layout) this.#figure.resize(width, this.#layout.height);
      const [model, layout] = [this.#model, this.#layout];
      this.#figure.paint((surface) => model && layout && drawHeat(surface, model, layout, this.#context.palette, width));
    }
    if (change.has("hoverRow", "statistic", "scope", "pins")) this.#drawCursor();
  }

  /** For pictures, at a width of their own. */
  draw(surface: Surface, width: number): void {
    if (!this.#model) return;
    const layout = heatLayout(this.#model, width, MAX_BODY);
    drawHeat(surface, this.#model, layout, this.#context.palette, width);
    this.#drawPins(surface, layout);
  }

  pictureHeight(width: number): number {
    return this.#model ? heatLayout(this.#model, width, MAX_BODY).height : 0;
  }

  /** Pins lie above the map: a pin leaves the map as it is. */
  #drawPins(surface: Surface, layout: HeatLayout): void {
    const { scene, palette } = this.#context;
    const colors = new Map(scene?.pins(palette).map((pin) => [pin.key, pin.color]));
    for (const cell of this.#model?.cells ?? []) {
      const color = colors.get(cell.key);
      if (color) drawPin(surface, layout, cell, color, palette);
    }
  }

  #build(): HeatModel | null {
    const { scene, store } = this.#context;
    if (!scene || !scene.rows.length) return null;
    const { statistic, scope } = store.state;
    // Statistics over all documents are of plain values: what is compared with them must be plain too.
    const { side } = scene;
    const plain = scope !== "document" && side !== null;
    const overall = (store.state.special === "in" ? side?.overallIn : side?.overall)?.[statistic];
    const value = (row: Row): number => {
      const own = scene.statistic(statistic, row, plain);
      if (scope === "document" || !overall) return own;
      const elsewhere = overall[row.place] ?? NaN;
      return scope === "all" ? elsewhere : own - elsewhere;
    };
    const counted = new Set(scene.shown);
    const places = this.#places(scene);
    const cells = scene.rows.map((row, i) => ({ key: row.key, row: places.row(row, i), column: places.column(row, i), value: value(row), faded: !counted.has(row) }));
    const values = Float64Array.from(cells, (cell) => cell.value);
    const diverging = scope === "difference" && overall !== undefined;
    const scale = (scene.scale === "log" || (plain && scene.scale === "lift")) && values.every((one) => !(one <= 0)) ? "log" : scene.scale === "log" || plain ? "raw" : scene.scale;
    const shared = store.state.range === "corpus" && overall ? Float64Array.from(overall, (one) => one ?? NaN) : values;
    return { cells, rowLabels: places.rowLabels, columnLabels: places.columnLabels, means: store.state.arrange === "own", fit: diverging ? divergingFit(values) : fit(shared, scale), diverging, legend: true };
  }

  /** Where each vector stands: by layer and head, by value within its layer, or one after the other as the rows are ordered. */
  #places(scene: Scene): Places {
    const { arrange } = scene.state;
    const { rowLabels, columnLabels } = scene.set;
    if (arrange === "own") return { row: (row) => row.base.gridRow, column: (row) => row.base.gridColumn, rowLabels, columnLabels };
    const columns = Math.max(1, columnLabels.length);
    const ranks = columnLabels.map((_, i) => String(i + 1));
    if (arrange === "layer") {
      const seen = new Map<number, number>();
      const column = ({ base }: Row): number => {
        const at = seen.get(base.gridRow) ?? 0;
        seen.set(base.gridRow, at + 1);
        return at;
      };
      return { row: (row) => row.base.gridRow, column, rowLabels, columnLabels: ranks };
    }
    const lines = Array.from({ length: Math.ceil(scene.rows.length / columns) }, (_, i) => String(i * columns + 1));
    return { row: (_, i) => Math.floor(i / columns), column: (_, i) => i % columns, rowLabels: lines, columnLabels: ranks };
  }

  #tell(cell: Cell | null): void {
    tell(this.#tip, this.#readout(cell) || "Click to pin, drag to isolate, double-click for one");
  }

  #drawCursor(): void {
    const { store, palette } = this.#context;
    const [model, layout] = [this.#model, this.#layout];
    if (!layout || !model) return;
    const hovered = this.#cursor ?? model.cells.find((cell) => cell.key === store.state.hoverRow) ?? null;
    this.#figure.overlay((surface) => {
      this.#drawPins(surface, layout);
      if (this.#dragFrom && this.#dragTo && (this.#dragFrom.row !== this.#dragTo.row || this.#dragFrom.column !== this.#dragTo.column)) {
        const [a, b] = [this.#dragFrom, this.#dragTo];
        const x = layout.left + Math.min(a.column, b.column) * layout.cellWidth;
        const y = layout.top + Math.min(a.row, b.row) * layout.cellHeight;
        const width = (Math.abs(a.column - b.column) + 1) * layout.cellWidth;
        const height = (Math.abs(a.row - b.row) + 1) * layout.cellHeight;
        surface.rect(x, y, width, height, palette.accent, 0.25);
        surface.frame(x, y, width, height, palette.accent, 2);
      } else if (hovered) {
        drawPin(surface, layout, hovered, palette.ink, palette);
      }
    });
    this.#tell(hovered);
  }
}
