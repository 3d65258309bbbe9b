/** The top tokens, of this text or of all documents, by value or by lift. */

import { card, fill, h, note, on, Segments, select, tell } from "../dom";
import { AGGREGATE_NAMES, isEntropy } from "../model/aggregate";
import { number } from "../model/format";
import { spelledAlone as spelled } from "../model/tokens";
import type { Scene } from "../model/scene";
import type { TopBy, TopScope } from "../model/state";
import { activeToken, type Change, type Context, type View } from "./context";
import { type Ranked, toolsOf } from "./extensions";

const SHOWN = 40;
const LEAST = [1, 3, 10, 30] as const;

/** A word, or at least something that has a letter or a digit in it. */
function wordy(text: string): boolean {
  return /[\p{L}\p{N}]/u.test(text);
}

export class TopView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #note = note();
  readonly #scope: Segments;
  readonly #by: Segments;
  readonly #least: HTMLSelectElement;
  readonly #marks = h("button", { class: "chip", "aria-pressed": "false", title: "Include punctuation", onclick: () => this.#togglePunctuation() }, ". , !");
  readonly #body = h("ol", { class: "top", tabindex: "0", role: "listbox", "aria-label": "Top tokens. Up and down arrows move, Enter pins or opens." });
  readonly #empty = h("p", { class: "empty" }, "No tokens to rank.");
  readonly #items: TopItem[] = [];
  #ranked: readonly Ranked[] | null = null;
  #shownFor: readonly unknown[] = [];
  #cursor = -1;
  #punctuation = false;

  constructor(context: Context) {
    this.#context = context;
    const { store } = context;
    this.#scope = new Segments("Tokens of", [["document", "this text"], ["all", "all"]], (value) => store.set({ topScope: value as TopScope }));
    this.#by = new Segments("Ranked by", [["value", "value"], ["lift", "lift"]], (value) => store.set({ topBy: value as TopBy }));
    this.#least = select("Fewest places", LEAST.map((many) => [String(many), `${many}+ place${many > 1 ? "s" : ""}`] as const), "3", () => this.#build(true));
    this.element = card("top", "Top tokens", null, [this.#scope.element], h("p", { class: "inline wrap" }, this.#by.element, this.#least, this.#marks, this.#note), this.#empty, this.#body);
    this.#listen();
  }

  #listen(): void {
    const { store } = this.#context;
    const placeOf = (event: Event): number => this.#items.findIndex((item) => item.element === (event.target as Element).closest("li"));
    on(this.#body, "pointerover", (event) => this.#point(placeOf(event)));
    on(this.#body, "pointerleave", () => this.#point(-1));
    on(this.#body, "blur", () => this.#point(-1));
    on(this.#body, "click", (event) => this.#choose(placeOf(event)));
    on(this.#body, "keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) {
        this.#point(Math.min(this.#items.length - 1, Math.max(0, this.#cursor + step)));
        this.#items[this.#cursor]?.element.scrollIntoView({ block: "nearest" });
        this.#context.say(this.#items[this.#cursor]?.element.innerText.replace(/\s+/g, " ") ?? "");
      } else if (event.key === "Enter") this.#choose(this.#cursor);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    store.subscribe((changed) => {
      if (changed.has("topScope")) this.#body.scrollTop = 0;
    });
  }

  #togglePunctuation(): void {
    this.#punctuation = !this.#punctuation;
    this.#marks.setAttribute("aria-pressed", String(this.#punctuation));
    this.#build(true);
  }

  #point(place: number): void {
    this.#cursor = place;
    if (!this.#ranked) this.#context.store.set({ hoverToken: this.#items[place]?.token ?? null });
    else this.#mark();
  }

  #choose(place: number): void {
    const { store } = this.#context;
    const item = this.#items[place];
    if (!item) return;
    const word = this.#ranked?.[place]?.word;
    if (word !== undefined) void toolsOf(this.#context.collection)?.openOccurrences(this.#context, word);
    else store.set({ token: item.token === store.state.token ? null : item.token });
  }

  update(change: Change): void {
    const { state } = this.#context.store;
    const shared = toolsOf(this.#context.collection) !== null;
    this.#scope.element.hidden = !shared;
    this.#scope.set(state.topScope);
    this.#by.set(state.topBy);
    this.#by.element.hidden = this.#context.collection.measure !== null;
    this.#least.hidden = state.topScope !== "all";
    if (change.has("aggregate", "topScope", "topBy")) this.#build();
    if (change.has("hoverToken", "token", "aggregate", "topScope")) this.#mark();
  }

  #build(fresh = false): void {
    const { scene, store, collection } = this.#context;
    const { aggregate, topBy, topScope } = store.state;
    const values = scene ? (topBy === "lift" && !collection.measure && !isEntropy(aggregate) ? lifted(scene, scene.plain(aggregate)) : scene.aggregate(aggregate)) : null;
    const now = [scene?.pieces, scene?.aggregate(aggregate), aggregate, topBy, topScope, store.state.special, collection];
    if (!fresh && now.every((part, i) => part === this.#shownFor[i])) return;
    this.#shownFor = now;
    if (topScope === "all" && toolsOf(collection)) {
      void this.#buildAll(now);
      return;
    }
    this.#ranked = null;
    tell(this.#note, `${AGGREGATE_NAMES[aggregate]}${topBy === "lift" ? " \u00d7 visible keys" : ""}`);
    const keep = (token: number): boolean => this.#punctuation || wordy(scene?.pieces[token]?.text ?? "");
    const order = values ? largest(values, keep, SHOWN) : [];
    this.#fillWith(order.map((token) => ({ token, name: scene?.pieces[token]?.text ?? "", note: ` ${token}`, value: values?.[token] as number })));
  }

  async #buildAll(now: readonly unknown[]): Promise<void> {
    const { store, collection } = this.#context;
    const { topBy, special } = store.state;
    tell(this.#note, `mean over all places and heads${topBy === "lift" ? " \u00d7 visible keys" : ""}`);
    const all = (await toolsOf(collection)?.ranking(collection, topBy, Number(this.#least.value), special === "in")) ?? [];
    if (now !== this.#shownFor) return;
    this.#ranked = all.filter((one) => this.#punctuation || wordy(spelled(one.word))).slice(0, SHOWN);
    this.#fillWith(this.#ranked.map((one) => ({ token: -1, name: spelled(one.word), note: ` \u00d7${one.count}`, value: one.value })));
  }

  #fillWith(lines: readonly { token: number; name: string; note: string; value: number }[]): void {
    const most = Math.max(1e-30, lines[0]?.value ?? 0);
    while (this.#items.length < lines.length) this.#items.push(new TopItem(this.#items.length));
    this.#items.length = lines.length;
    lines.forEach((line, i) => (this.#items[i] as TopItem).set(line, most));
    if (this.#body.childElementCount !== lines.length) fill(this.#body, this.#items.map((item) => item.element));
    this.#empty.hidden = lines.length > 0;
    this.#body.hidden = !lines.length;
    this.#cursor = -1;
  }

  #mark(): void {
    const active = this.#ranked ? null : activeToken(this.#context.store.state);
    this.#items.forEach((item, i) => {
      const on = this.#ranked ? i === this.#cursor : item.token === active;
      item.element.classList.toggle("active", on);
      item.element.setAttribute("aria-selected", String(on));
      if (on) this.#body.setAttribute("aria-activedescendant", item.element.id);
    });
  }
}

function lifted(scene: Scene, values: Float32Array): Float32Array {
  return values.map((value, token) => value * scene.visibleKeys(token));
}

/** A line of the list; the same lines serve every text. */
class TopItem {
  token = -1;
  readonly #name = document.createTextNode("");
  readonly #place = note();
  readonly #bar = h("span", { class: "bar" });
  readonly #value = h("span", { class: "value" });
  readonly element: HTMLElement;

  constructor(index: number) {
    this.element = h("li", { role: "option", id: `attviz-top-${index}`, "aria-selected": "false" }, h("span", { class: "top-name" }, h("bdi", {}, this.#name), this.#place), h("span", { class: "bar-track" }, this.#bar), this.#value);
  }

  set(line: { token: number; name: string; note: string; value: number }, most: number): void {
    this.token = line.token;
    this.element.dataset["token"] = String(line.token);
    this.#name.data = line.name;
    tell(this.#place, line.note);
    tell(this.#value, number(line.value));
    this.#bar.style.width = `${Math.max(0, line.value / most) * 100}%`;
  }
}

/** The tokens with the largest values, largest first; of equals the earlier one. */
function largest(values: Float32Array, keep: (token: number) => boolean, count: number): number[] {
  const best: number[] = [];
  for (let token = 0; token < values.length; token++) {
    const value = values[token] as number;
    if (value !== value || (best.length === count && value <= (values[best[count - 1] as number] as number)) || !keep(token)) continue;
    let at = best.length;
    while (at > 0 && (values[best[at - 1] as number] as number) < value) at--;
    best.splice(at, 0, token);
    if (best.length > count) best.pop();
  }
  return best;
}
