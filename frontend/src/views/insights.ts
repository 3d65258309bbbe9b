/** What stands out, in words: computed sentences, each a button that shows what it says. */

import type { Insight } from "../data/types";
import { card, fill, h, tell } from "../dom";
import { patch } from "../model/hash";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "./context";

const LEADING = 4;
const WIDTH = 300;
const TALL = 1000;

export class InsightsView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #lead = h("span", { class: "note lead" });
  readonly #list = h("ul", { class: "insights" });
  readonly #more = h("button", { class: "link", "aria-expanded": "false", onclick: () => this.#toggle() });
  #open = false;

  constructor(context: Context) {
    this.#context = context;
    this.element = card("insights", "What stands out", this.#lead, this.#more, this.#list);
  }

  update(change: Change): void {
    if (!change.lists("document")) {
      if (change.measure) this.#fit();
      return;
    }
    const { collection, store } = this.#context;
    const own = (collection.part("insights", store.state.document) ?? []) as readonly Insight[];
    this.element.hidden = !collection.insights.length && !own.length;
    const title = this.element.querySelector("h2");
    if (title) tell(title, `What stands out${collection.model ? ` in ${visible(collection.model.split("/").pop() ?? "").slice(0, 60)}` : ""}`);
    const heads = collection.layers.length ? " L1\u00b7H3 is head 3 of layer 1, both counted from 0." : "";
    fill(this.#lead, `${collection.about["lead"] ?? ""}${heads}`, h("span", {}, " Click a sentence to see it."));
    const shared = collection.insights.map((one) => this.#sentence(one));
    // What a newcomer needs first, then what is special about this text, then the rest.
    fill(this.#list, shared.slice(0, LEADING), own.map((one) => this.#sentence(one, true)), shared.slice(LEADING));
    this.#fit();
  }

  /** As many sentences as stand in one or two lines of the grid; the button shows all. */
  #fit(): void {
    const columns = Math.max(1, Math.floor((this.#list.clientWidth + 12 || 1200) / WIDTH));
    const { file } = this.#context;
    const kept = this.#open ? Infinity : Math.max(columns * (file && window.innerHeight < TALL ? 1 : 2), 3);
    [...this.#list.children].forEach((item, i) => ((item as HTMLElement).hidden = i >= kept));
    const rest = this.#list.children.length - kept;
    this.#more.hidden = rest <= 0 && !this.#open;
    this.#more.textContent = this.#open ? "fewer" : `${rest} more`;
    this.#more.setAttribute("aria-expanded", String(this.#open));
  }

  #toggle(): void {
    this.#open = !this.#open;
    this.#fit();
  }

  #sentence(insight: Insight, own = false): HTMLElement {
    const { store } = this.#context;
    const press = (): void => {
      const before = insight.name === "special" ? {} : { special: "out" as const };
      store.set({ ...before, ...(own ? {} : { tab: "" }), ...patch(insight.state) });
    };
    const text = [own && h("span", { class: "badge" }, "this text"), h("b", {}, visible(insight.text)), " ", h("span", { class: "note" }, visible(insight.null))];
    return h("li", {}, h("button", { class: "insight", onclick: press }, h("span", {}, text)));
  }
}
