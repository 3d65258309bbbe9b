/** The bar at the top: what is open, the scale of the colours, and the commands. */

import { fill, h, Segments, select, setOptions, tell } from "../dom";
import { count } from "../model/format";
import { SCALE_NOTES, SCALES, type ScaleName } from "../model/scale";
import type { Range, Special } from "../model/state";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "./context";
import { extensionsOf, tabOf } from "./extensions";

export interface HeaderCommands {
  readonly open: () => void;
  readonly exports: () => void;
  readonly tables: () => void;
  readonly theme: () => void;
  readonly help: () => void;
}

function logo(): HTMLElement {
  return h("span", { class: "logo", "aria-hidden": "true" });
}

export class HeaderView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #note = h("span", { class: "note title-note" });
  readonly #scaleBox: HTMLSelectElement;
  readonly #special: Segments;
  readonly #specialLabel = h("span", { class: "inline", title: "Whether special tokens, such as [CLS], [SEP] and padding, count in the numbers of this page" }, "special ");
  readonly #rangeBox: HTMLSelectElement;
  readonly #rangeLabel: HTMLElement;
  readonly #tabs = h("span", { class: "tabs", hidden: true });
  #tabBox: Segments | null = null;

  constructor(
    context: Context,
    commands: HeaderCommands,
  ) {
    this.#context = context;
    const { store } = context;
    this.#scaleBox = select("Scale of colours and strokes", [], "log", (value) => store.set({ scale: value as ScaleName }));
    this.#special = new Segments("Special tokens", [["out", "out"], ["in", "in"]], (value) => store.set({ special: value as Special }));
    this.#specialLabel.append(this.#special.element);
    this.#rangeBox = select("Range of colours", [["document", "this text"], ["corpus", "all texts"]], "document", (value) => store.set({ range: value as Range }));
    this.#rangeLabel = h("label", { class: "inline", title: "Fit the colours to this text, or use one range for all texts" }, "colours ", this.#rangeBox);
    const command = (label: string, key: string, run: () => void): HTMLElement => h("button", { onclick: run }, label, " ", h("kbd", {}, key));
    this.element = h(
      "header",
      { class: "page-header" },
      logo(),
      h("h1", {}, "attviz"),
      this.#tabs,
      this.#note,
      h("span", { class: "spacer" }),
      h(
        "span",
        { class: "commands", role: "group", "aria-label": "Commands" },
        this.#specialLabel,
        h("label", { class: "inline" }, "scale ", this.#scaleBox),
        this.#rangeLabel,
        command("Open", "o", commands.open),
        command("Numbers", "t", commands.tables),
        command("Export", "e", commands.exports),
        command("Theme", "d", commands.theme),
        command("Help", "?", commands.help),
      ),
    );
  }

  #makeTabs(): void {
    const { collection, store } = this.#context;
    const found = extensionsOf(collection);
    this.#tabs.hidden = !found.length;
    this.#tabBox = found.length ? new Segments("View", [["", collection.measure?.name ?? "Own position"], ...found.map((one) => [tabOf(one), one.title ?? ""] as const)], (tab) => store.set({ tab })) : null;
    fill(this.#tabs, this.#tabBox?.element);
  }

  update(change: Change): void {
    const { collection, store, scene } = this.#context;
    if (change.data) this.#makeTabs();
    this.#tabBox?.set(store.state.tab);
    if (!change.full && !change.data) return;
    const scale = scene?.scale ?? store.state.scale;
    setOptions(this.#scaleBox, (collection.measure?.scales ?? SCALES).map((name) => [name, name] as const), scale);
    this.#special.set(store.state.special);
    this.#specialLabel.hidden = !scene?.set.special.some(Boolean);
    this.#rangeBox.value = store.state.range;
    this.#rangeLabel.hidden = !scene?.side || collection.rows.length < 2;
    this.#note.title = visible(collection.title);
    this.#scaleBox.title = SCALE_NOTES[scale];
    const shape = collection.layers.length ? `${collection.layers.length} layers \u00d7 ${collection.heads.length} heads` : scene ? count(scene.set.rows.length, "vector") : "";
    tell(this.#note, [visible(collection.title), shape, count(collection.rows.length, "document")].filter(Boolean).join(" \u00b7 "));
  }
}
