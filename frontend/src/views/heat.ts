/** The layers x heads heat map: the way into everything else. */

import { card, h, select, tell } from "../dom";
import { Figure } from "../draw/figure";
import { drawHeat, drawPin, type HeatLayout, heatLayout, type HeatModel } from "../draw/heatmap";
import type { Surface } from "../draw/surface";
import { setFocus, togglePin } from "../model/actions";
import { STATISTICS, type Statistic } from "../model/aggregate";
import { number } from "../model/format";
import { divergingFit, fit } from "../model/scale";
import type { Row } from "../model/scene";
import type { Scope } from "../model/state";
import type { Change, Context, View } from "./context";

const SCOPES: readonly (readonly [Scope, string])[] = [
  ["document", "document"],
  ["all", "all of them"],
  ["difference", "difference"],
];

type Cell = { row: number; column: number };

export class HeatView implements View {
  readonly element: HTMLElement;
  private readonly figure = new Figure("heat", "Heat map of vectors. Arrow keys move, Enter pins, Space isolates.");
  private readonly statisticBox: HTMLSelectElement;
  private readonly scopeBox: HTMLSelectElement;
  private readonly tip = h("p", { class: "readout", "aria-hidden": "true" });
  private model: HeatModel | null = null;
  private layout: HeatLayout | null = null;
  private cursor: Cell | null = null;
  private dragFrom: Cell | null = null;
  private dragTo: Cell | null = null;

  constructor(private readonly context: Context) {
    const { store } = context;
    this.statisticBox = select("Statistic of a cell", STATISTICS.map((name) => [name, name] as const), store.state.statistic, (value) => store.set({ statistic: value as Statistic }));
    this.scopeBox = select("Documents of the heat map", SCOPES, store.state.scope, (value) => store.set({ scope: value as Scope }));
    this.element = card("heat", "Layers \u00d7 heads", null, [this.scopeBox, this.statisticBox], this.figure.element, this.tip);
    this.listen();
  }

  private listen(): void {
    const target = this.figure.element;
    const { store } = this.context;
    target.addEventListener("pointermove", (event) => {
      const cell = this.cellAt(event);
      this.cursor = cell;
      store.set({ hoverRow: this.keyOf(cell) }); // drawn with the next frame
      this.tell(cell);
      if (this.dragFrom && cell) {
        this.dragTo = cell;
        this.drawCursor();
      }
    });
    target.addEventListener("pointerleave", () => {
      this.cursor = null;
      store.set({ hoverRow: null });
      this.drawCursor();
    });
    target.addEventListener("pointerdown", (event) => (this.dragFrom = this.dragTo = this.cellAt(event)));
    target.addEventListener("pointerup", () => this.release());
    target.addEventListener("dblclick", () => {
      const key = this.keyOf(this.cursor);
      if (key) store.set(setFocus(store.state, [key]));
    });
    target.addEventListener("keydown", (event) => this.key(event));
    target.addEventListener("blur", () => {
      this.cursor = null;
      this.drawCursor();
    });
  }

  private release(): void {
    const { store } = this.context;
    const [from, to] = [this.dragFrom, this.dragTo];
    this.dragFrom = this.dragTo = null;
    if (!from || !to) return;
    if (from.row === to.row && from.column === to.column) {
      const key = this.keyOf(from);
      if (key) store.set(togglePin(store.state, key));
    } else {
      const inside = (value: number, a: number, b: number): boolean => value >= Math.min(a, b) && value <= Math.max(a, b);
      const keys = this.model?.cells.filter((cell) => inside(cell.row, from.row, to.row) && inside(cell.column, from.column, to.column)) ?? [];
      store.set(setFocus(store.state, keys.map((cell) => cell.key)));
      this.context.say(`${keys.length} vectors isolated; Escape shows all`);
      this.drawCursor();
    }
  }

  private key(event: KeyboardEvent): void {
    const { store } = this.context;
    const steps: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const layout = this.layout;
    if (step && layout) {
      const from = this.cursor ?? { row: 0, column: step[1] ? -1 : 0 };
      const row = Math.min(layout.rows - 1, Math.max(0, from.row + step[0]));
      const column = Math.min(layout.columns - 1, Math.max(0, from.column + step[1]));
      this.cursor = { row, column };
      store.set({ hoverRow: this.keyOf(this.cursor) });
      this.drawCursor();
      this.context.say(this.readout(this.cursor));
    } else if (event.key === "Enter" || event.key === " ") {
      const key = this.keyOf(this.cursor);
      if (!key) return;
      store.set(event.key === "Enter" ? togglePin(store.state, key) : setFocus(store.state, [key]));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private cellAt(event: MouseEvent): Cell | null {
    const layout = this.layout;
    if (!layout) return null;
    const [x, y] = this.figure.place(event);
    const column = Math.floor((x - layout.left) / layout.cellWidth);
    const row = Math.floor((y - layout.top) / layout.cellHeight);
    return column >= 0 && row >= 0 && column < layout.columns && row < layout.rows ? { row, column } : null;
  }

  private keyOf(cell: Cell | null): string | null {
    return (cell && this.model?.cells.find((one) => one.row === cell.row && one.column === cell.column)?.key) ?? null;
  }

  private readout(cell: Cell | null): string {
    const found = cell && this.model?.cells.find((one) => one.row === cell.row && one.column === cell.column);
    const { scene, collection, store } = this.context;
    if (!found || !scene) return "";
    const layer = collection.layers[found.row]?.name;
    return `${scene.nameOf(found.key)}: ${store.state.statistic} ${number(found.value)}${layer ? ` \u00b7 ${layer}` : ""}`;
  }

  update(change: Change): void {
    const { store, collection } = this.context;
    this.statisticBox.value = store.state.statistic;
    this.scopeBox.hidden = collection.overall === null || collection.rows.length < 2;
    this.scopeBox.value = store.state.scope;
    const title = this.element.querySelector("h2");
    if (title) tell(title, collection.layers.length || this.context.scene?.set.rowLabels[0]?.startsWith("L") ? "Layers \u00d7 heads" : "Vectors");
    if (change.has("statistic", "scope")) {
      this.model = this.build();
      const width = change.measure || !this.figure.width ? this.figure.element.clientWidth || 286 : this.figure.width;
      this.layout = this.model && heatLayout(this.model, width);
      if (this.layout) this.figure.resize(width, this.layout.height);
      const { model, layout } = this;
      this.figure.paint((surface) => model && layout && drawHeat(surface, model, layout, this.context.palette, width));
    }
    if (change.has("hoverRow", "statistic", "scope", "pins")) this.drawCursor();
  }

  draw(surface: Surface, width: number): void {
    if (!this.model || !this.layout) return;
    drawHeat(surface, this.model, this.layout, this.context.palette, width);
    this.drawPins(surface, this.layout);
  }

  /** Pins lie above the map: a pin leaves the map as it is. */
  private drawPins(surface: Surface, layout: HeatLayout): void {
    const { scene, palette } = this.context;
    const colors = new Map(scene?.pins(palette).map((pin) => [pin.key, pin.color]));
    for (const cell of this.model?.cells ?? []) {
      const color = colors.get(cell.key);
      if (color) drawPin(surface, layout, cell, color, palette);
    }
  }

  /** Size of the figure, for pictures. */
  get size(): [number, number] {
    return [this.figure.width, this.figure.height];
  }

  private build(): HeatModel | null {
    const { scene, store, collection } = this.context;
    if (!scene || !scene.rows.length) return null;
    const { statistic, scope } = store.state;
    // Statistics over all documents are of plain values: what is compared with them must be plain too.
    const plain = scope !== "document" && collection.overall !== null;
    const place = new Map(scene.set.rows.map((row, i) => [row.key, i]));
    const overall = collection.overall?.[statistic];
    const value = (row: Row): number => {
      const own = scene.statistic(statistic, row, plain);
      if (scope === "document" || !overall) return own;
      const elsewhere = overall[place.get(row.key) ?? -1] ?? NaN;
      return scope === "all" ? elsewhere : own - elsewhere;
    };
    const counted = new Set(scene.shown);
    const cells = scene.rows.map((row) => ({ key: row.key, row: row.base.gridRow, column: row.base.gridColumn, value: value(row), faded: !counted.has(row) }));
    const values = Float64Array.from(cells, (cell) => cell.value);
    const diverging = scope === "difference" && overall !== undefined;
    const scale = (scene.scale === "log" || (plain && scene.scale === "lift")) && values.every((one) => !(one <= 0)) ? "log" : scene.scale === "log" || plain ? "raw" : scene.scale;
    return { cells, rowLabels: scene.set.rowLabels, columnLabels: scene.set.columnLabels, fit: diverging ? divergingFit(values) : fit(values, scale), diverging };
  }

  private tell(cell: Cell | null): void {
    tell(this.tip, this.readout(cell) || "click pins \u00b7 drag isolates \u00b7 double-click shows one");
  }

  private drawCursor(): void {
    const { store, palette } = this.context;
    const { layout, model } = this;
    if (!layout || !model) return;
    const hovered = this.cursor ?? model.cells.find((cell) => cell.key === store.state.hoverRow) ?? null;
    this.figure.overlay((surface) => {
      this.drawPins(surface, layout);
      if (this.dragFrom && this.dragTo && (this.dragFrom.row !== this.dragTo.row || this.dragFrom.column !== this.dragTo.column)) {
        const [a, b] = [this.dragFrom, this.dragTo];
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
    this.tell(hovered);
  }
}
