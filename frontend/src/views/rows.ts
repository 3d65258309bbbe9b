/** The vectors as a list: pinned ones with their colours, or all of them; every row can be edited. */

import { card, fill, h, note, Segments, select } from "../dom";
import { addAggregate, editRow, editSet, moveRow, placeRow, removeRow, removeSet, restoreRows, restoreSets, setFocus, togglePin } from "../model/actions";
import { AGGREGATE_NAMES, AGGREGATES, statistic } from "../model/aggregate";
import { cleanColor, MAX_PINS } from "../model/color";
import { count, number } from "../model/format";
import type { Pin } from "../model/scene";
import { aggregateOf } from "../model/state";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "./context";
import { toolsOf } from "./extensions";
import { openMenu } from "./menu";
import { sparkline } from "./sparkline";
import { VirtualBody } from "./virtual";

const ROW_HEIGHT = 34;

interface Item {
  readonly key: string;
  readonly name: string;
  readonly color: string | null;
  readonly dash: readonly number[];
  readonly hidden: boolean;
  readonly pinned: boolean;
  readonly values: Float32Array;
}

export class RowsView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #segments: Segments;
  readonly #adder: HTMLSelectElement;
  readonly #note = note();
  readonly #scroller = h("div", { class: "rows-scroll", tabindex: "0", role: "group", "aria-label": "Vectors" });
  readonly #list: VirtualBody;
  readonly #foot = h("p", { class: "readout" });
  #items: readonly Item[] = [];
  #renaming: string | null = null;
  #dragged: string | null = null;
  readonly #dashes = new Map<string, HTMLCanvasElement>();

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.#segments = new Segments("Which vectors", [["pinned", "pinned"], ["all", "all"]], (value) => store.set({ rowList: value === "all" ? "all" : "pinned" }));
    const choices = AGGREGATES.map((name) => [name, AGGREGATE_NAMES[name]] as const);
    this.#adder = select("Add an aggregate as a row", [["", "+ row"], ["every", "all of them"], ...choices], "", (value) => {
      if (value) store.set(addAggregate(store.state, value));
      this.#adder.value = "";
    });
    this.#list = new VirtualBody(this.#scroller, ROW_HEIGHT, (index) => this.#row(this.#items[index] as Item));
    this.#scroller.append(h("table", { class: "rows", role: "presentation" }, this.#list.body));
    const more: HTMLElement = h("button", { class: "icon", "aria-label": "All vectors of the set", title: "Hide or remove all vectors of the set", "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => this.#setMenu(more) }, "\u22ef");
    this.element = card("rows", "Rows", this.#note, [this.#adder, this.#segments.element, more], this.#scroller, this.#foot);
  }

  update(change: Change): void {
    if (!change.has("pins", "rowList", "edits", "tint", "arrange")) {
      if (change.has("hoverRow")) this.#markHover();
      return;
    }
    const { store, scene, palette } = this.#context;
    const all = store.state.rowList === "all";
    this.#segments.set(store.state.rowList);
    const pins = scene?.pins(palette) ?? [];
    this.#note.textContent = all ? String(scene?.rows.length ?? 0) : "";
    this.#items = all ? this.#allItems(pins) : pins.map((pin) => ({ ...pin, pinned: true }));
    this.#list.show(this.#items.length);
    this.#drawFoot(pins.length);
    this.#markHover();
  }

  #allItems(pins: readonly Pin[]): Item[] {
    const byKey = new Map(pins.map((pin) => [pin.key, pin]));
    return (this.#context.scene?.rows ?? []).map((row) => {
      const pin = byKey.get(row.key);
      return { key: row.key, name: row.name, color: pin?.color ?? row.color, dash: pin?.dash ?? [], hidden: row.hidden, pinned: pin !== undefined, values: row.values };
    });
  }

  #drawFoot(pinned: number): void {
    const { store, scene } = this.#context;
    const parts: Node[] = [];
    if (!pinned && store.state.rowList === "pinned") parts.push(document.createTextNode(`Click a cell of the heat map to pin it, up to ${MAX_PINS} of them.`));
    const focus = scene?.state.focus;
    if (focus && scene) parts.push(h("button", { class: "chip", onclick: () => store.set({ focus: null }) }, `isolated: ${scene.counted.length} of ${scene.rows.length} \u00d7`));
    const dropped = scene?.document.sets.filter((_, place) => store.state.sets[place]?.removed).length ?? 0;
    if (dropped) parts.push(h("button", { class: "chip", onclick: () => store.set(restoreSets(store.state)) }, `${count(dropped, "removed set")}: restore`));
    if (scene?.setHidden) parts.push(h("button", { class: "chip", onclick: () => store.set(editSet(store.state, store.state.set, { hidden: false })) }, "the set is hidden: show"));
    const hidden = scene?.setHidden ? 0 : (scene?.rows.filter((row) => row.hidden).length ?? 0);
    if (hidden) parts.push(h("button", { class: "chip", onclick: () => this.#showAll() }, `${hidden} hidden: show`));
    if (scene?.removed.length) parts.push(h("button", { class: "chip", onclick: () => store.set(restoreRows(store.state)) }, `${count(scene.removed.length, "removed row")}: restore`));
    if (store.state.rowList === "all") {
      const sorted = store.state.arrange === "value";
      parts.push(h("button", { class: "chip", onclick: () => store.set({ arrange: sorted ? "own" : "value" }) }, sorted ? "original order" : "sort by mean"));
      if (store.state.order.length) parts.push(h("button", { class: "chip", onclick: () => store.set({ order: [] }) }, "undo moves"));
    }
    fill(this.#foot, parts);
  }

  #showAll(): void {
    const { store, scene } = this.#context;
    const edits = { ...store.state.edits };
    for (const row of scene?.rows ?? []) if (row.hidden) edits[row.key] = { ...edits[row.key], hidden: false };
    store.set({ edits });
  }

  #markHover(): void {
    const hovered = this.#context.store.state.hoverRow;
    for (const row of this.#list.body.querySelectorAll<HTMLElement>("tr[data-key]")) row.classList.toggle("hovered", row.dataset["key"] === hovered);
  }

  #row(item: Item): HTMLTableRowElement {
    const { store, palette } = this.#context;
    const drawn = item.color ?? palette.dots;
    const name = visible(item.name);
    const swatch = h("input", { type: "color", value: drawn, "aria-label": `Colour of ${name}`, onchange: () => this.#recolor(item.key, swatch.value) });
    const menu = h("button", { class: "icon", "aria-label": `Edit ${name}`, "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => this.#menu(item, menu) }, "\u22ef");
    const pin = h(
      "button",
      { class: "icon", "aria-label": item.pinned ? `Unpin ${name}` : `Pin ${name}`, onclick: () => store.set(togglePin(store.state, item.key)) },
      item.pinned ? "\u00d7" : "+",
    );
    const mean = statistic("mean", item.values);
    const row = h(
      "tr",
      {
        class: `row${item.hidden ? " hidden-row" : ""}`,
        "data-key": item.key,
        draggable: "true",
        onpointerenter: () => store.set({ hoverRow: item.key }),
        onpointerleave: () => store.set({ hoverRow: null }),
        ondragstart: () => (this.#dragged = item.key),
        ondragover: (event: DragEvent) => this.#dragged && event.preventDefault(),
        ondrop: (event: DragEvent) => this.#drop(event, item.key),
      },
      h("td", {}, h("div", { class: "row-line" }, swatch, item.pinned && sparkline.dash(this.#dashes, item.key, drawn, item.dash), this.#title(item), sparkline.values(item.values, drawn), h("span", { class: "value" }, number(mean)), menu, pin)),
    );
    return row;
  }

  #title(item: Item): HTMLElement {
    const { store } = this.#context;
    if (this.#renaming !== item.key) {
      const tinted = store.state.tint === item.key;
      return h("span", { class: "row-name", title: `${visible(item.name)}: double-click to rename`, ondblclick: () => this.#rename(item.key) }, visible(item.name), tinted && h("span", { class: "tint-mark", title: "tints the text" }, " \u25cf"), item.hidden && note(" hidden"));
    }
    const done = (keep: boolean): void => {
      if (this.#renaming !== item.key) return;
      this.#renaming = null;
      const value = input.value.trim().slice(0, 200);
      if (keep && value && value !== item.name) store.set(editRow(store.state, item.key, { name: value }));
      else this.#list.show(this.#items.length);
    };
    const input = h("input", {
      type: "text",
      class: "row-name",
      maxlength: 200,
      "aria-label": "Name of the row",
      onblur: () => done(true),
      onkeydown: (event: KeyboardEvent) => {
        event.stopPropagation();
        if (event.key === "Enter" || event.key === "Escape") done(event.key === "Enter");
      },
    });
    input.value = item.name;
    queueMicrotask(() => {
      input.focus();
      input.select();
    });
    return input;
  }

  #rename(key: string): void {
    this.#renaming = key;
    this.#list.show(this.#items.length);
  }

  #recolor(key: string, value: string): void {
    const { store } = this.#context;
    const color = cleanColor(value);
    if (color) store.set(editRow(store.state, key, { color }));
  }

  #drop(event: DragEvent, before: string): void {
    const { store } = this.#context;
    if (!this.#dragged) return;
    event.preventDefault();
    event.stopPropagation();
    store.set(placeRow(store.state, this.#dragged, before, this.#allKeys()));
    this.#dragged = null;
  }

  #allKeys(): string[] {
    return this.#context.scene?.rows.map((row) => row.key) ?? [];
  }

  /** What can be done to all vectors of the open set at once. */
  #setMenu(button: HTMLElement): void {
    const { store, host, scene } = this.#context;
    if (!scene) return;
    const place = scene.document.sets.indexOf(scene.set);
    const name = visible(scene.set.name);
    openMenu(host, button, `All of ${name}`, [
      { label: scene.setHidden ? `Show ${name}` : `Hide ${name}`, run: () => store.set(editSet(store.state, place, { hidden: !scene.setHidden })) },
      { label: `Remove ${name}`, run: () => store.set(removeSet(store.state, place, scene.document.sets.length)) },
      { label: "Add all aggregates", run: () => store.set(addAggregate(store.state, "every")) },
    ]);
  }

  #menu(item: Item, button: HTMLElement): void {
    const { store, host } = this.#context;
    const vector = aggregateOf(item.key) === null;
    const tools = toolsOf(this.#context.collection);
    const move = (by: -1 | 1) => () => store.set(moveRow(store.state, item.key, by, this.#allKeys()));
    const tinted = store.state.tint === item.key;
    openMenu(host, button, `Edit ${visible(item.name)}`, [
      ...(vector && tools ? [{ label: "About this vector", run: () => void tools.openHeadCard(this.#context, item.key) }] : []),
      { label: "Rename", run: () => this.#rename(item.key) },
      { label: tinted ? "Stop tinting the text" : "Tint the text", run: () => store.set({ tint: tinted ? "off" : item.key }) },
      { label: item.hidden ? "Show" : "Hide", run: () => store.set(editRow(store.state, item.key, { hidden: !item.hidden })) },
      ...(vector ? [{ label: "Isolate", run: () => store.set(setFocus(store.state, [item.key])) }] : []),
      { label: "Move up", run: move(-1) },
      { label: "Move down", run: move(1) },
      { label: item.pinned ? "Unpin" : "Pin", run: () => store.set(togglePin(store.state, item.key)) },
      { label: "Remove", run: () => store.set(removeRow(store.state, item.key)) },
    ]);
  }
}
