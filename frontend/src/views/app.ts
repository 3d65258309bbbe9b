/** Puts the views together around one state, and opens documents. */

import { MAX_FILE_BYTES, parseAttvizJson } from "../data/attvizjson";
import { type Collection, DataFault, type PageDocument } from "../data/types";
import { h, on } from "../dom";
import { LIGHT } from "../model/color";
import { Scene } from "../model/scene";
import { type Key, START, type State, Store, type Theme } from "../model/state";
import { ClassView, TokenView } from "./side";
import { Change, type Context, type View } from "./context";
import { DocumentsView } from "./documents";
import { Exporter } from "./export";
import { extensionsOf, tabOf, toolsOf } from "./extensions";
import { HeaderView } from "./header";
import { HeatView } from "./heat";
import { openHelp } from "./help";
import { InsightsView } from "./insights";
import { listenToKeys } from "./keyboard";
import { RowsView } from "./rows";
import { SeriesView } from "./series";
import { openTables } from "./tables";
import { download, nameCut, prepared, strongest } from "./start";
import { TextView } from "./text";
import { applyPalette, wantsDark, watchTheme } from "./theme";
import { TopView } from "./top";

/** Height of a window in which the list of documents begins folded. */
const LOW = 820;
/** Values of a document that take longer than a frame to read and draw: its work is cut into parts. */
const MANY = 200_000;
const LIGHT_KEYS: ReadonlySet<Key> = new Set(["tab", "extra", "folded", "topScope", "topBy", "against", "hoverToken", "hoverRow", "token", "filters", "sort", "rowList", "tint", "strokes", "statistic", "aggregate", "axis", "window", "pins", "theme"]);

export interface Options {
  /** State to begin with: from the address, or from Python. */
  readonly start: Partial<State>;
  /** Where keys are listened to: the document of a file, the host of a widget. */
  readonly keys: HTMLElement | Document;
  /** Takes back the last step, or does it again; says whether there was one. */
  readonly step: (by: -1 | 1) => boolean;
  /** A file of its own, not a cell of a notebook. */
  readonly file: boolean;
}

export class App {
  readonly store: Store;
  readonly #context: Context;
  readonly #views: View[];
  readonly #grid: HTMLElement;
  /** Views of extensions, made when their tab is opened. */
  readonly #tabs = new Map<string, View>();
  readonly #live = h("div", { class: "live", role: "status", "aria-live": "polite" });
  readonly #notices = h("div", { class: "notices" });
  readonly #filePicker = h("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": "AttViz JSON file" });
  #document: PageDocument | null = null;
  #asked = 0;
  /** Changes that wait for the document they came with. */
  readonly #awaited = new Set<Key>();
  #dataIsNew = true;
  /** Nobody said what to show. */
  #fresh: boolean;

  constructor(
    private readonly host: HTMLElement,
    collection: Collection,
    options: Options,
  ) {
    this.#fresh = !Object.keys(options.start).length;
    this.store = new Store({ ...START, ...options.start });
    this.#context = {
      host,
      file: options.file,
      store: this.store,
      collection,
      scene: null,
      palette: LIGHT,
      say: (text) => (this.#live.textContent = text),
      notice: (text, kind) => this.#notice(text, kind),
      download,
      openFile: (file) => void this.#openFile(file),
    };
    this.#context.palette = applyPalette(host, wantsDark(this.store.state.theme));
    const commands = {
      open: () => this.#filePicker.click(),
      exports: () => exporter.open(),
      tables: () => openTables(this.#context),
      theme: () => this.#nextTheme(),
      help: () => openHelp(host, this.#context.collection.about["lead"]),
    };
    const heat = new HeatView(this.#context);
    const text = new TextView(this.#context);
    const series = new SeriesView(this.#context);
    const documents = new DocumentsView(this.#context);
    const exporter = new Exporter(this.#context, heat, text, series);
    const header = new HeaderView(this.#context, commands);
    const rows = new RowsView(this.#context);
    const insights = new InsightsView(this.#context);
    const side = [new ClassView(this.#context), new TokenView(this.#context), new TopView(this.#context)];
    this.#views = [header, insights, heat, rows, ...side, documents, text, series];
    const columns = [
      h("div", { class: "column left" }, heat.element, rows.element),
      h("div", { class: "column middle" }, text.element, series.element),
      h("div", { class: "column right" }, side.map((view) => view.element)),
    ];
    this.#grid = h("main", { class: "page-grid" }, insights.element, columns, documents.element);
    host.replaceChildren(header.element, this.#notices, this.#grid, this.#live, this.#filePicker);
    for (const [name, text] of Object.entries(collection.about)) {
      host.querySelector(`.card-${name} h2`)?.after(h("button", { class: "icon about", title: text, "aria-label": text, onclick: () => this.#notice(text, "info") }, "i"));
    }
    listenToKeys(options.keys, this.#context, { ...commands, search: () => documents.focusSearch(), token: (by) => text.step(by), document: (by) => documents.step(by), zoom: (key) => series.key(key), step: options.step, about: () => void (this.store.state.hoverRow && toolsOf(this.#context.collection)?.openHeadCard(this.#context, this.store.state.hoverRow)) });
    this.store.subscribe((changed) => this.#changed(changed));
    this.#listen();
    this.#load();
  }

  #listen(): void {
    on(this.#filePicker, "change", () => {
      const file = this.#filePicker.files?.[0];
      if (file) void this.#openFile(file);
      this.#filePicker.value = "";
    });
    on(this.host, "dragover", (event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    });
    on(this.host, "pointerover", (event) => nameCut(event.target as HTMLElement));
    on(this.host, "click", (event) => {
      const fold = (event.target as Element).closest<HTMLElement>(".fold");
      const name = fold?.dataset["card"];
      if (!name) return;
      const folded = this.#folded();
      this.store.set({ folded: folded.includes(name) ? folded.filter((one) => one !== name) : [...folded, name] });
    });
    on(this.host, "drop", (event) => {
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      event.preventDefault();
      void this.#openFile(file);
    });
    watchTheme(() => this.#repaint());
    let width = 0;
    new ResizeObserver(() => {
      if (Math.abs(this.host.clientWidth - width) < 1) return;
      width = this.host.clientWidth;
      this.#repaint();
    }).observe(this.host);
  }

  /** Cards that are folded up: as the reader left them, else the list of documents where the window is low. */
  #folded(): readonly string[] {
    return this.store.state.folded ?? (this.#context.file && window.innerHeight < LOW ? ["documents"] : []);
  }

  #fold(): void {
    const folded = this.#folded();
    for (const button of this.host.querySelectorAll<HTMLElement>(".fold")) {
      const up = folded.includes(button.dataset["card"] ?? "");
      button.setAttribute("aria-expanded", String(!up));
      button.closest(".card")?.classList.toggle("folded", up);
    }
  }

  #repaint(): void {
    this.#context.palette = applyPalette(this.host, wantsDark(this.store.state.theme));
    this.#update(new Set(), true);
  }

  #nextTheme(): void {
    const order: readonly Theme[] = ["auto", "light", "dark"];
    const theme = order[(order.indexOf(this.store.state.theme) + 1) % order.length] as Theme;
    this.store.set({ theme });
    this.#context.say(`theme ${theme === "auto" ? "of the system" : theme}`);
  }

  #changed(changed: ReadonlySet<Key>): void {
    if (changed.has("document")) {
      for (const key of changed) this.#awaited.add(key);
      this.#load(); // the views change when the document is there
    } else if (changed.has("theme") || changed.has("folded")) this.#repaint();
    else this.#update(changed, false);
  }

  /** Reads the document of the state; what was asked for before and comes later is dropped. */
  #load(): void {
    const { collection } = this.#context;
    const ask = ++this.#asked;
    const index = Math.min(this.store.state.document, collection.rows.length - 1);
    if (index < 0) {
      this.#notice("This page holds no documents. Drop an AttViz JSON file on it, or make it again from an analysis that has some.", "info");
      this.#update(new Set(), true);
      return;
    }
    if (index !== this.store.state.document) this.store.set({ document: index });
    collection.load(index).then(
      async (document) => {
        if (document.sets.some((set) => set.values.length > MANY)) await prepared(this.#makeScene(document));
        if (ask === this.#asked) this.#opened(document);
      },
      (error: unknown) => {
        if (ask !== this.#asked) return;
        this.#document = null;
        this.#context.scene = null;
        this.#notice(error instanceof DataFault ? error.message : `Document ${index} cannot be read: ${String(error)}`, "error");
        this.#update(new Set(), true);
      },
    );
  }

  #opened(document: PageDocument): void {
    this.#notices.querySelector(".about-document")?.remove(); // it spoke of another document
    this.#document = document;
    const { state } = this.store;
    const there = (place: number): boolean => place < document.sets.length && !state.sets[place]?.removed;
    const first = Math.max(0, document.sets.findIndex((one, i) => one.visible && there(i)));
    const set = there(state.set) && !(this.#dataIsNew && state.set === START.set) ? state.set : first;
    const tokens = document.sets[set]?.tokens.length ?? 0;
    const inside = (token: number | null): number | null => (token !== null && token < tokens ? token : null);
    this.store.set({ set, token: inside(state.token), hoverToken: inside(state.hoverToken), window: state.window && state.window[1] <= tokens ? state.window : null });
    if (this.#dataIsNew && document.highlight && state.tint === START.tint) {
      const row = document.sets[document.highlight[0]]?.rows[document.highlight[1]];
      if (row) this.store.set({ set: document.highlight[0], tint: row.key });
    }
    if (this.#fresh) this.store.set({ pins: strongest(document.sets[set]) });
    this.#fresh = false;
    this.#update(new Set(this.#awaited), true);
    this.#awaited.clear();
    if (!tokens) this.#notice(`Document ${document.index} has no tokens.`, "info");
    else if (!document.sets[set]?.rows.length) this.#notice(`Document ${document.index} has tokens but no vectors.`, "info");
    else if (this.#context.scene?.set.values.every(Number.isNaN)) this.#notice(`Every value of document ${document.index} is missing.`, "info");
    this.#dataIsNew = false;
  }

  #update(changed: ReadonlySet<Key>, full: boolean): void {
    const rebuild = full || [...changed].some((key) => !LIGHT_KEYS.has(key));
    if (rebuild) this.#context.scene = this.#makeScene();
    else this.#context.scene?.follow(this.store.state);
    const change = new Change(changed, rebuild, this.#dataIsNew);
    if (change.measure) this.#fold();
    // The matrix of thousands of heads is drawn in a frame of its own, after everything else.
    const late = rebuild && (this.#context.scene?.set.values.length ?? 0) > MANY ? this.#views.at(-1) : null;
    for (const view of this.#views) if (view !== late) view.update(change);
    if (late) requestAnimationFrame(() => late.update(new Change(new Set(), true, false)));
    this.#updateTab(change);
  }

  /** Shows the extension whose tab is open in place of the page's own views, and tells it what changed. */
  #updateTab(change: Change): void {
    const open = extensionsOf(this.#context.collection).find((one) => tabOf(one) === this.store.state.tab);
    const known = open && this.#tabs.get(open.name);
    const view = open && (known ?? open.make?.(this.#context));
    if (open && view && !known) {
      this.#tabs.set(open.name, view);
      this.#grid.after(view.element);
    }
    const shown = view ? !view.element.hidden : false;
    this.#grid.hidden = view !== undefined;
    for (const one of this.#tabs.values()) one.element.hidden = one !== view;
    view?.update(known && shown ? change : new Change(new Set(), true, true));
  }

  #makeScene(document = this.#document): Scene | null {
    const { state } = this.store;
    const { rows, sides } = this.#context.collection;
    const set = document?.sets[state.set] ?? document?.sets[0];
    if (!document || !set?.tokens.length || !set.rows.length) return null;
    return new Scene(document, set, rows[document.index]?.text ?? "", state, sides[document.sets.indexOf(set)] ?? null);
  }

  #notice(text: string, kind: "error" | "info"): void {
    const close = h("button", { class: "icon", "aria-label": "Close this message", onclick: () => box.remove() }, "\u00d7");
    const box = h("div", { class: `notice ${kind}${kind === "info" ? " about-document" : ""}`, role: kind === "error" ? "alert" : "status" }, h("span", {}, text), close);
    this.#notices.replaceChildren(box);
  }

  async #openFile(file: File): Promise<void> {
    try {
      if (file.size > MAX_FILE_BYTES) throw new DataFault(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MB; the page opens up to ${MAX_FILE_BYTES / 2 ** 20} MB.`);
      const collection = parseAttvizJson(await file.text(), file.name);
      this.show(collection);
      this.#context.say(`${file.name} is open`);
    } catch (error) {
      this.#notice(error instanceof DataFault ? error.message : `${file.name} cannot be read: ${String(error)}`, "error");
    }
  }

  /** Opens another collection in place of the one that is open. */
  show(collection: Collection): void {
    this.#notices.replaceChildren();
    this.#context.collection = collection;
    this.#dataIsNew = this.#fresh = true;
    const { theme, scale, axis } = this.store.state;
    this.store.set({ ...START, theme, scale, axis });
    this.#load();
  }
}
