/** All documents: search with marks, filters, sorting; only the rows in sight exist. */

import { card, fill, h, on, Segments, select, setOptions } from "../dom";
import { count, number, percent } from "../model/format";
import { confidence, correct, listed, loss, marked } from "../model/search";
import { type Filters, NO_FILTERS, type SortKey } from "../model/state";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "./context";
import { classColor, className } from "./side";
import { VirtualBody } from "./virtual";

const ROW_HEIGHT = 27;
const HEAD_HEIGHT = 27;

interface Column {
  readonly key: SortKey | null;
  readonly title: string;
  readonly className: string;
}

export class DocumentsView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #search = h("input", { type: "search", class: "search", placeholder: "Search documents", "aria-label": "Search documents" });
  readonly #outcome: Segments;
  readonly #labelBox: HTMLSelectElement;
  readonly #predictedBox: HTMLSelectElement;
  readonly #ranges: HTMLInputElement[];
  readonly #more: HTMLElement;
  readonly #found = h("span", { class: "note", role: "status" });
  readonly #scroller = h("div", { class: "documents-scroll", tabindex: "0", role: "group", "aria-label": "Documents" });
  readonly #head = h("thead");
  readonly #table = h("table", { class: "documents" });
  readonly #list: VirtualBody;
  #order: number[] = [];

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    const filter = (change: Partial<Filters>): void => store.set({ filters: { ...store.state.filters, ...change } });
    on(this.#search, "input", () => filter({ query: this.#search.value.slice(0, 200) }));
    this.#outcome = new Segments("Correct or wrong", [["all", "all"], ["correct", "correct"], ["wrong", "wrong"]], (value) => filter({ outcome: value as Filters["outcome"] }));
    const index = (value: string): number | null => (value === "" ? null : Number(value));
    this.#labelBox = select("Filter by label", [["", "any label"]], "", (value) => filter({ label: index(value) }));
    this.#predictedBox = select("Filter by predicted class", [["", "any class"]], "", (value) => filter({ prediction: index(value) }));
    const move = (by: number, label: string, text: string): HTMLElement => h("button", { class: "icon", "aria-label": label, title: label, onclick: () => this.step(by) }, text);
    this.#ranges = ["fewest tokens", "most tokens", "lowest loss", "highest loss"].map((name) => h("input", { type: "number", min: 0, step: "any", "aria-label": name, placeholder: name, class: "range", oninput: () => this.#readRanges() }));
    const clear = h("button", { onclick: () => this.#clear() }, "clear filters");
    this.#more = h("div", { class: "filters", hidden: true }, this.#labelBox, this.#ranges, clear);
    const toggle = h("button", { class: "chip", "aria-expanded": "false", onclick: () => this.#toggle(toggle) }, "more filters");
    this.#list = new VirtualBody(this.#scroller, ROW_HEIGHT, (at) => this.#row(this.#order[at] as number));
    this.#table.append(this.#head, this.#list.body);
    this.#scroller.append(this.#table);
    const tools = h("span", { class: "inline tools" }, move(-1, "Previous document", "\u2039"), move(1, "Next document", "\u203a"), this.#search, h("kbd", {}, "/"), this.#outcome.element, this.#predictedBox, toggle);
    this.element = card("documents", "Documents", tools, this.#found, this.#more, this.#scroller);
  }

  focusSearch(): void {
    this.#search.focus();
    this.#search.select();
  }

  #toggle(button: HTMLElement): void {
    this.#more.hidden = !this.#more.hidden;
    button.setAttribute("aria-expanded", String(!this.#more.hidden));
  }

  #readRanges(): void {
    const { store } = this.#context;
    const [a, b, c, d] = this.#ranges.map((input) => (input.value === "" ? null : input.valueAsNumber)).map((value) => (Number.isNaN(value) ? null : (value ?? null)));
    store.set({ filters: { ...store.state.filters, tokens: [a ?? null, b ?? null], loss: [c ?? null, d ?? null] } });
  }

  #clear(): void {
    for (const input of this.#ranges) input.value = "";
    this.#context.store.set({ filters: NO_FILTERS });
  }

  #columns(): Column[] {
    const { rows } = this.#context.collection;
    const some = (test: (row: (typeof rows)[number]) => boolean): boolean => rows.some(test);
    const labelled = some((row) => row.label !== null);
    const predicted = some((row) => row.prediction !== null);
    const column = (key: SortKey | null, title: string, className: string): Column => ({ key, title, className });
    return [
      column("index", "#", "c-index"),
      ...(labelled && predicted ? [column("ok", "ok", "c-ok")] : []),
      ...(rows.some((row, i) => row.name !== "" && row.name !== String(i)) ? [column("name", "name", "c-name")] : []),
      ...(predicted ? [column("prediction", "predicted", "c-class")] : []),
      ...(some((row) => row.probabilities !== null) ? [column("probability", "probability", "c-share")] : []),
      ...(labelled ? [column("label", "label", "c-label")] : []),
      ...(labelled && some((row) => row.probabilities !== null) ? [column("loss", "loss", "c-number")] : []),
      column("tokens", "tokens", "c-number"),
      column("mean", "mean", "c-number"),
      column(null, "text", "c-text"),
    ];
  }
  #shownColumns: readonly Column[] = [];

  update(change: Change): void {
    const { store, collection } = this.#context;
    const { filters } = store.state;
    if (change.data || !this.#shownColumns.length) {
      this.#shownColumns = this.#columns();
      const classes = collection.classes.map((name, i) => [String(i), visible(name)] as const);
      setOptions(this.#labelBox, [["", "any label"], ...classes], "");
      setOptions(this.#predictedBox, [["", "any class"], ...classes], "");
      this.#table.setAttribute("aria-rowcount", String(collection.rows.length + 1));
    }
    if (change.lists("filters", "sort", "special")) {
      if (this.#search.value !== filters.query) this.#search.value = filters.query;
      this.#outcome.set(filters.outcome);
      this.#labelBox.value = filters.label === null ? "" : String(filters.label);
      this.#predictedBox.value = filters.prediction === null ? "" : String(filters.prediction);
      this.#predictedBox.hidden = !collection.classes.length;
      this.#outcome.element.hidden = !this.#shownColumns.some((column) => column.key === "ok");
      const ends = [...filters.tokens, ...filters.loss];
      this.#ranges.forEach((input, i) => {
        const end = ends[i] ?? null;
        if ((input.value === "" ? null : input.valueAsNumber) !== end) input.value = end === null ? "" : String(end);
      });
      this.#order = listed(collection, filters, store.state.sort, store.state.special);
      this.#found.textContent = `${this.#order.length} of ${count(collection.rows.length, "document")}`;
      this.#drawHead();
      this.#list.show(this.#order.length);
      this.#reveal();
    } else if (change.lists("document")) {
      for (const row of this.#list.body.querySelectorAll<HTMLElement>("tr[data-document]")) this.#markRow(row);
      this.#reveal();
    }
  }

  #reveal(): void {
    const at = this.#order.indexOf(this.#context.store.state.document);
    if (at >= 0) this.#list.reveal(at, HEAD_HEIGHT);
  }

  #drawHead(): void {
    const { store } = this.#context;
    const [key, direction] = store.state.sort;
    const cells = this.#shownColumns.map((column) => {
      if (!column.key) return h("th", { scope: "col", class: column.className }, column.title);
      const sorted = column.key === key;
      const next = column.key;
      const button = h("button", { class: "sort", onclick: () => store.set({ sort: [next, sorted && direction === 1 ? -1 : 1] }) }, column.title, sorted ? (direction === 1 ? " \u2191" : " \u2193") : "");
      return h("th", { scope: "col", class: column.className, "aria-sort": sorted ? (direction === 1 ? "ascending" : "descending") : null }, button);
    });
    fill(this.#head, h("tr", {}, cells));
  }

  #row(index: number): HTMLTableRowElement {
    const cells = this.#shownColumns.map((column) => h("td", { class: column.className }, this.#cell(column, index)));
    const row = h("tr", { "data-document": index, "aria-rowindex": index + 2, onclick: () => this.#open(index) }, cells);
    this.#markRow(row);
    return row;
  }

  #markRow(row: HTMLElement): void {
    const current = row.dataset["document"] === String(this.#context.store.state.document);
    row.classList.toggle("current", current);
    if (current) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }

  #open(index: number): void {
    this.#context.store.set({ document: index, token: null, hoverToken: null, window: null });
  }

  #cell(column: Column, index: number): Node | string {
    const row = this.#context.collection.rows[index];
    if (!row) return "";
    const { query } = this.#context.store.state.filters;
    switch (column.key) {
      case "index":
        return h("button", { class: "open", "aria-label": `Open document ${index}` }, String(index));
      case "ok": {
        const right = correct(row);
        return right === null ? "" : h("span", { class: right ? "ok" : "bad", "aria-label": right ? "correct" : "wrong", role: "img" }, right ? "\u2713" : "\u2717");
      }
      case "prediction":
        return row.prediction === null ? "" : h("span", {}, h("span", { class: "square", style: { "background-color": classColor(this.#context, row.prediction) } }), className(this.#context, row.prediction));
      case "probability": {
        const share = confidence(row);
        if (share === null || row.prediction === null) return "";
        const width = `${Math.min(1, Math.max(0, share)) * 100}%`;
        return h("span", { class: "share" }, h("span", { class: "bar-track" }, h("span", { class: "bar", style: { width, "background-color": classColor(this.#context, row.prediction) } })), percent(share));
      }
      case "label":
        return className(this.#context, row.label);
      case "loss":
        return number(loss(row));
      case "tokens":
        return String(row.tokens);
      case "mean":
        return number(this.#context.store.state.special === "in" ? row.meanIn : row.mean);
      case "name":
      case null: {
        const text = column.key ? row.name : row.text;
        const start = Math.max(0, query ? text.toLowerCase().indexOf(query.trim().toLowerCase()) - 200 : 0);
        const parts = marked(text.slice(start, start + 600), query);
        return h("span", { dir: "auto" }, snippet(parts, query).map((part) => (part.hit ? h("mark", {}, visible(part.text)) : visible(part.text))));
      }
    }
  }

  /** Opens the document before or after the open one in the list. */
  step(by: number): void {
    const at = this.#order.indexOf(this.#context.store.state.document);
    const next = this.#order[Math.min(this.#order.length - 1, Math.max(0, at + by))];
    if (next !== undefined && next !== this.#context.store.state.document) {
      this.#open(next);
      this.#context.say(`document ${next}`);
    }
  }
}

/** Shortens what stands before a late first match, so that the mark is in sight. */
function snippet(parts: { text: string; hit: boolean }[], query: string): { text: string; hit: boolean }[] {
  const first = parts[0];
  if (!query || !first || first.hit || first.text.length < 60 || parts.length < 2) return parts;
  return [{ text: `\u2026${first.text.slice(-30)}`, hit: false }, ...parts.slice(1)];
}
