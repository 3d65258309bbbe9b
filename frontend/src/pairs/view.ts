/** The tab of the pairs: which view, which layer, which heads; the views themselves; one line of words below. */

import { fill, h, Segments, select, setOptions, tell } from "../dom";
import { count } from "../model/format";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "../views/context";
import { headColor } from "./colors";
import { pairsCsv } from "./csv";
import { PairsData } from "./data";
import { HeadsView } from "./heads";
import type { Layer } from "./layer";
import { MatrixView } from "./matrix";
import { ModelView } from "./model";
import { NeuronsView } from "./neurons";
import { type Choice, choose, readChoice, type ViewName } from "./options";
import type { Panel, Part } from "./panel";
import type { Patches } from "./patches";
import { picture } from "./picture";

const NAMES: readonly (readonly [ViewName, string])[] = [
  ["heads", "Heads"],
  ["model", "Model"],
  ["neurons", "Neurons"],
];

/** What a picture says of itself. */
const CAPTIONS: Readonly<Record<ViewName, string>> = {
  heads: "lines run from query to key; the stronger, the larger the weight",
  model: "each square is a head, queries down, keys across; square root of the weight, 0 to 1",
  neurons: "query and key element by element; blue is negative, red positive",
};

export class PairsView implements View {
  readonly element: HTMLElement;
  private data: PairsData | null = null;
  private of: object | null = null;
  private choice: Choice | null = null;
  private readonly parts: Readonly<Record<ViewName, Part>>;
  private readonly matrix: MatrixView;
  private readonly views = new Segments("Pair view", NAMES, (view) => this.choose({ view: view as ViewName }));
  private readonly kinds = select("Kind of attention", [], "", (key) => this.choose({ layer: this.data?.groups.find((group) => group.key === key)?.places[0] ?? 0 }));
  private readonly layers = select("Layer", [], "", (place) => this.choose({ layer: Number(place) }));
  private readonly heads = h("div", { class: "pairs-heads", role: "group", "aria-label": "Heads" });
  private readonly body = h("div", { class: "pairs-body" });
  private readonly readout = h("p", { class: "readout" });
  private readonly note = h("span", { class: "note" });
  private hover: { query: number | null; key: number | null } = { query: null, key: null };
  private opened = -1;
  private asked = 0;
  private previewed = "";

  constructor(private readonly context: Context) {
    const panel = this.panel();
    this.parts = { heads: new HeadsView(panel), model: new ModelView(panel), neurons: new NeuronsView(panel) };
    this.matrix = new MatrixView(panel);
    const step = (by: -1 | 1, label: string, sign: string): HTMLElement => h("button", { type: "button", class: "icon", "aria-label": label, onclick: () => panel.stepLayer(by) }, sign);
    const controls = [this.kinds, h("span", { class: "pairs-layer" }, step(-1, "Layer before", "\u2039"), this.layers, step(1, "Next layer", "\u203a")), ...["PNG", "SVG"].map((kind) => h("button", { title: "This view as a picture", onclick: () => void this.picture(kind) }, kind)), h("button", { title: "Weights of the shown heads", onclick: () => void this.csv() }, "CSV")];
    this.element = h(
      "main",
      { class: "pairs" },
      h("section", { class: "card card-pairs", "aria-labelledby": "attviz-title-pairs" }, h("header", {}, h("h2", { id: "attviz-title-pairs" }, "Pairs of tokens"), this.views.element, this.note, h("span", { class: "controls" }, controls)), this.heads, this.body, this.readout),
    );
    let size = "";
    new ResizeObserver(() => {
      const now = `${this.body.clientWidth} ${this.body.clientHeight}`;
      if (now === size || !this.choice) return;
      size = now;
      this.parts[this.choice.view].resize();
      this.matrix.resize();
    }).observe(this.body);
  }

  private panel(): Panel {
    const view = this;
    return {
      get data() {
        return view.data as PairsData;
      },
      get choice() {
        return view.choice as Choice;
      },
      get palette() {
        return view.context.palette;
      },
      get query() {
        return view.hover.query ?? view.choice?.query ?? null;
      },
      get special() {
        return view.special;
      },
      get key() {
        return view.hover.key;
      },
      patches: (layer) => this.patches(layer),
      point: (query, key) => this.point(query, key),
      pin: (query) => this.choose({ query }),
      preview: (layer, head) => void this.preview(layer, head),
      filled: () => this.showMatrix(),
      isolate: (layer, head) => this.choose({ view: "heads", layer, heads: [head] }),
      stepLayer: (by) => this.stepLayer(by),
      tell: (text) => tell(this.readout, text || this.hint()),
      say: (text) => this.context.say(text),
    };
  }

  /** The page's one switch. */
  private get special(): boolean {
    return this.context.store.state.special === "in";
  }

  private patches(layer: Layer): Patches | null {
    const { document, set } = this.context.scene ?? {};
    const { q, k, size } = layer.meta;
    if (!document?.patches || !set || q !== 0 || k !== 0 || size[0] !== set.tokens.length) return null;
    const [rows, columns] = document.patches;
    let last = set.tokens.length;
    while (last > 0 && set.special[last - 1]) last--;
    const first = last - rows * columns;
    return first < 0 ? null : { rows, columns, first, image: document.image };
  }

  private hint(): string {
    const { choice } = this;
    if (!choice) return "";
    if (choice.view === "model") return "each picture is one head: rows are queries, columns keys; click opens it";
    return choice.view === "heads" ? "point at a token to see where it looks; click pins it" : "blue is negative, red positive; the deeper the colour, the larger the value; click a query on the left";
  }

  private choose(change: Partial<Choice>): void {
    if (this.data) choose(this.context.store, this.data, change);
  }

  private stepLayer(by: -1 | 1): void {
    const { data, choice } = this;
    if (!data || !choice) return;
    const { places } = data.groupOf(choice.layer);
    const next = places[places.indexOf(choice.layer) + by];
    if (next !== undefined) this.choose({ layer: next });
  }

  private point(query: number | null, key: number | null): void {
    if (query === this.hover.query && key === this.hover.key) return;
    this.hover = { query, key };
    if (!this.choice) return;
    const part = this.parts[this.choice.view];
    if (query !== null) part.reveal?.(query);
    if (this.choice.view !== "model") part.update();
    this.matrix.cursor();
  }

  update(change: Change): void {
    const { store, collection } = this.context;
    if (this.of !== collection || this.data?.document !== store.state.document) this.read();
    const { data } = this;
    if (!data) return;
    const before = this.choice;
    const choice = (this.choice = readChoice(store.state, data));
    this.controls(data, choice);
    if (before?.view !== choice.view || !this.body.firstChild) {
      if (before) this.parts[before.view].close();
      fill(this.body, this.parts[choice.view].element, choice.view === "neurons" ? null : this.matrix.element);
      this.opened = -1;
    }
    if (this.opened !== choice.layer) void this.open(data, choice);
    else if (change.has("extra", "token", "special")) this.show();
  }

  private read(): void {
    const { store, collection, notice } = this.context;
    this.of = collection;
    this.opened = -1;
    this.choice = null;
    this.hover = { query: null, key: null };
    try {
      this.data = PairsData.open(collection, store.state.document);
    } catch (error) {
      this.data = null;
      notice(error instanceof Error ? error.message : String(error), "error");
    }
    this.element.classList.toggle("pairs-none", this.data === null);
    if (!this.data) {
      fill(this.body, h("p", { class: "empty" }, `Document ${store.state.document} has no query and key in this page. Others may: choose one with the up and down arrow keys.`));
      fill(this.heads);
      tell(this.readout, "");
    } else fill(this.body);
  }

  private async open(data: PairsData, choice: Choice): Promise<void> {
    const ask = ++this.asked;
    try {
      const layer = await data.layer(choice.layer);
      if (ask !== this.asked || this.data !== data) return;
      this.opened = choice.layer;
      this.layer = layer;
      this.parts[choice.view].open(layer);
      this.show(true);
    } catch (error) {
      if (ask === this.asked) this.context.notice(error instanceof Error ? error.message : String(error), "error");
    }
  }
  private layer: Layer | null = null;

  private show(fresh = false): void {
    const { choice, data, layer } = this;
    if (!choice || !data || !layer) return;
    if (!fresh) this.parts[choice.view].update(); // else it has just drawn itself
    this.previewed = "";
    if (choice.view === "heads") this.showMatrix();
    if (choice.view !== "heads" || (this.hover.query ?? choice.query) === null) tell(this.readout, this.hint());
  }

  private showMatrix(): void {
    const { choice, data, layer } = this;
    if (choice && data && layer) this.matrix.show(layer, choice.heads, this.title(data, choice.layer, choice.heads));
  }

  private title(data: PairsData, layer: number, heads: readonly number[]): string {
    const meta = data.at(layer);
    return heads.length === 1 ? `${data.label(layer)}\u00b7H${meta.heads[heads[0] as number] ?? 0}` : `${data.label(layer)}, mean of ${count(heads.length, "head")}`;
  }

  private async preview(place: number | null, head: number): Promise<void> {
    const { data, choice } = this;
    const key = place === null ? "" : `${place}.${head}`;
    if (!data || !choice || key === this.previewed) return;
    this.previewed = key;
    await new Promise((done) => setTimeout(done, 60)); // a pointer on its way passes many heads
    if (this.previewed !== key || this.choice?.view !== "model" || this.data !== data) return;
    const [at, heads] = place === null ? [choice.layer, choice.heads] : [place, [head]];
    const layer = await data.layer(at);
    if (this.previewed === key) this.matrix.show(layer, heads, this.title(data, at, heads));
  }

  private controls(data: PairsData, choice: Choice): void {
    this.views.set(choice.view);
    setOptions(this.kinds, data.groups.map((group) => [group.key, group.name] as const), data.groupOf(choice.layer).key);
    this.kinds.hidden = data.groups.length < 2;
    setOptions(this.layers, data.groupOf(choice.layer).places.map((place) => [String(place), data.label(place)] as const), String(choice.layer));
    const meta = data.at(choice.layer);
    const worst = meta.form === "weights" ? "weights in 16 bits" : `from query and key in ${meta.form === "f16" ? 16 : 32} bits${meta.error ? `, exact to ${meta.error}` : ""}`;
    tell(this.note, `${meta.size[0] === meta.size[1] && meta.q === meta.k ? count(meta.size[0], "token") : `${meta.size[0]} queries \u00d7 ${meta.size[1]} keys`} \u00b7 ${worst}`);
    this.heads.hidden = choice.view === "model";
    if (choice.view === "model") return;
    const single = choice.view === "neurons";
    const shown = new Set(single ? choice.heads.slice(0, 1) : choice.heads);
    const button = (number: number, place: number): HTMLElement =>
      h(
        "button",
        { type: "button", class: "pairs-head", "aria-pressed": String(shown.has(place)), "aria-label": `head ${number}`, title: single ? `head ${number}` : `head ${number}: click shows or hides, double-click shows it alone`, onclick: () => this.toggle(place, single), ondblclick: () => this.choose({ heads: [place] }) },
        h("span", { class: "square", style: { background: headColor(place, this.context.palette) } }),
        String(number),
      );
    const signature = `${choice.layer} ${[...shown].join()} ${single} ${this.context.palette.dark}`;
    if (this.heads.dataset["shown"] === signature) return;
    this.heads.dataset["shown"] = signature;
    const focused = [...this.heads.children].indexOf((this.heads.getRootNode() as Document | ShadowRoot).activeElement as Element);
    fill(this.heads, h("span", { class: "note" }, single ? "head" : "heads"), meta.heads.map(button), !single && meta.heads.length > 1 && h("button", { type: "button", class: "link", onclick: () => this.choose({ heads: meta.heads.map((_, place) => place) }) }, "all"));
    (this.heads.children[focused] as HTMLElement | undefined)?.focus();
  }

  private toggle(place: number, single: boolean): void {
    const { choice, data } = this;
    if (!choice || !data) return;
    if (single) this.choose({ heads: [place] });
    else if (choice.heads.length === data.at(choice.layer).heads.length) this.choose({ heads: [place] }); // the first click of all: that one alone
    else if (choice.heads.includes(place)) this.choose({ heads: choice.heads.length > 1 ? choice.heads.filter((one) => one !== place) : choice.heads });
    else this.choose({ heads: [...choice.heads, place] });
  }

  private async picture(kind: string): Promise<void> {
    const { choice, data, layer } = this;
    const drawing = choice && (await this.parts[choice.view].drawing());
    if (!choice || !data || !layer || !drawing) return;
    const { collection, palette, download } = this.context;
    const row = collection.rows[data.document];
    const group = data.groups.length > 1 ? `${data.groupOf(choice.layer).name}, ` : "";
    const what = choice.view === "model" ? `${group}all heads` : `${group}${data.label(choice.layer)} (${layer.meta.name})`;
    const heads = choice.view === "model" ? [] : (choice.view === "heads" ? choice.heads : choice.heads.slice(0, 1)).map((place) => ({ name: `H${layer.meta.heads[place] ?? place}`, color: headColor(place, palette) }));
    const left = this.special || choice.query !== null || choice.view !== "heads" ? "" : " \u00b7 without special tokens";
    const words = { title: visible(`${row?.name || `document ${data.document}`}: ${what}`), heads, caption: visible(`attviz \u00b7 ${collection.title} \u00b7 ${CAPTIONS[choice.view]}${left}`) };
    const blob = await picture(kind, drawing, words, palette);
    if (blob) download(`pairs-${choice.view}-${data.document}-${data.label(choice.layer)}.${kind.toLowerCase()}`, blob);
    else this.context.notice("This picture is too large for the browser; take the SVG.", "error");
  }

  private async csv(): Promise<void> {
    const { choice, data } = this;
    if (!choice || !data) return;
    const parts = await pairsCsv(data, choice);
    this.context.download(`pairs-${data.document}-${data.label(choice.layer)}.csv`, new Blob(parts, { type: "text/csv" }));
  }
}
