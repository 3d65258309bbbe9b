/** The text view on its own, with what it cannot do without: the choice of a document, the switch of the special tokens, a line that tells. */

import { type Collection, DataFault } from "../data/types";
import { h, on, Segments, select, tell } from "../dom";
import { togglePin } from "../model/actions";
import { LIGHT } from "../model/color";
import { number } from "../model/format";
import { Scene } from "../model/scene";
import { type Key, START, type Special, type State, Store } from "../model/state";
import { visible } from "../model/tokens";
import { activeToken, Change, type Context } from "./context";
import { TextView } from "./text";
import { applyPalette, wantsDark, watchTheme } from "./theme";

/** What leaves rows, values and scale as they are. */
const LIGHT_KEYS: ReadonlySet<Key> = new Set(["hoverToken", "hoverRow", "token", "tint", "strokes", "pins"]);

export class Slim {
  readonly #context: Context;
  readonly #text: TextView;
  readonly #special: Segments;
  readonly #readout = h("p", { class: "readout" });
  readonly #live = h("div", { class: "live", role: "status", "aria-live": "polite" });
  #fresh = true;
  #asked = 0;

  constructor(host: HTMLElement, collection: Collection, start: Partial<State>) {
    const store = new Store({ ...START, ...start, tab: "" });
    const told = (words: string): void => tell(this.#readout, words);
    const none = (): void => undefined;
    this.#context = { host, file: false, store, collection, scene: null, palette: LIGHT, say: (words) => tell(this.#live, words), notice: told, download: none, openFile: none };
    this.#context.palette = applyPalette(host, wantsDark(store.state.theme));
    this.#text = new TextView(this.#context);
    this.#special = new Segments("Special tokens", [["out", "out"], ["in", "in"]], (value) => store.set({ special: value as Special }));
    const names = collection.rows.map((row, i) => [String(i), visible(row.name || row.text.slice(0, 40) || `document ${i}`)] as const);
    const choice = select("Document", names, String(store.state.document), (value) => store.set({ document: Number(value), token: null, hoverToken: null }));
    const documents = h("label", { class: "inline" }, "text ", choice);
    documents.hidden = names.length < 2;
    const line = h("p", { class: "inline wrap slim-line" }, documents, h("span", { class: "inline" }, "special tokens ", this.#special.element), h("h1", { class: "note" }, collection.title === "attviz" ? "attviz" : `attviz \u00b7 ${visible(collection.title)}`));
    host.replaceChildren(h("main", { class: "slim" }, this.#text.element, this.#readout, line, this.#live));
    store.subscribe((changed) => (changed.has("document") ? this.#load() : this.#update(changed, ![...changed].every((key) => LIGHT_KEYS.has(key)))));
    const again = (): void => {
      this.#context.palette = applyPalette(host, wantsDark(store.state.theme));
      this.#update(new Set(), true);
    };
    watchTheme(again);
    on(window, "resize", again);
    on(host, "keydown", (event) => this.#key(event));
    this.#load();
  }

  #key(event: KeyboardEvent): void {
    const { store } = this.#context;
    if ((event.target as Element).matches("select, button")) return;
    const token = activeToken(store.state);
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.#text.step(event.key === "ArrowLeft" ? -1 : 1);
    else if (event.key === "Enter" && token !== null) store.set({ token: token === store.state.token ? null : token });
    else if (event.key === "Escape") store.set({ token: null, hoverToken: null });
    else if (event.key === "p" && store.state.hoverRow) store.set(togglePin(store.state, store.state.hoverRow));
    else return;
    event.preventDefault();
  }

  #load(): void {
    const { collection, store } = this.#context;
    const ask = ++this.#asked;
    const index = Math.min(store.state.document, collection.rows.length - 1);
    collection.load(index).then(
      (document) => {
        if (ask !== this.#asked) return;
        this.#document = document;
        this.#update(new Set(["document"]), true);
        this.#fresh = false;
      },
      (error: unknown) => ask === this.#asked && tell(this.#readout, error instanceof DataFault ? error.message : String(error)),
    );
  }
  #document: Scene["document"] | null = null;

  #update(changed: ReadonlySet<Key>, full: boolean): void {
    const { collection, store } = this.#context;
    const { state } = store;
    const document = this.#document;
    const set = document?.sets[state.set] ?? document?.sets[0];
    if (!document || !set?.tokens.length || !set.rows.length) {
      tell(this.#readout, "This text has no vectors.");
      return;
    }
    const side = collection.sides[document.sets.indexOf(set)] ?? null;
    if (full) this.#context.scene = new Scene(document, set, collection.rows[document.index]?.text ?? "", state, side);
    else this.#context.scene?.follow(state);
    this.#special.set(state.special);
    (this.#special.element.parentElement as HTMLElement).hidden = !set.special.some(Boolean);
    this.#text.update(new Change(changed, full, this.#fresh));
    this.#tell();
  }

  #tell(): void {
    const { scene, store } = this.#context;
    const token = activeToken(store.state);
    const tint = scene?.tint();
    const lift = scene && token !== null ? (scene.plain("mean")[token] as number) * scene.visibleKeys(token) : NaN;
    const measure = scene?.side?.measure;
    const what = tint && token !== null && measure ? `\u201c${scene.pieces[token]?.text ?? ""}\u201d: ${measure.axis} ${number(tint.values[token])} (${scene.nameOf(tint.key)})` : tint && token !== null ? `\u201c${scene?.pieces[token]?.text ?? ""}\u201d gives itself ${number(tint.values[token])} of its attention (${scene?.nameOf(tint.key) ?? ""}); on average ${number(lift)} times as much as even attention would` : "The stronger the tint, the more of its attention a token gives itself. Point at one.";
    tell(this.#readout, scene?.without && token !== null && scene.set.special[token] ? "A special token, left out until you switch it in." : what);
  }
}
