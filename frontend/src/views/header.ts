/** The bar at the top: what is open, the scale of the colours, and the commands. */

import { fill, h, Segments, select, tell } from "../dom";
import { count } from "../model/format";
import { SCALE_NOTES, SCALES, type ScaleName } from "../model/scale";
import { visible } from "../model/tokens";
import type { Change, Context, View } from "./context";
import { extensionsOf } from "./extensions";

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
  readonly element: HTMLElement;
  private readonly note = h("span", { class: "note title-note" });
  private readonly scaleBox: HTMLSelectElement;
  private readonly tabs = h("span", { class: "tabs", hidden: true });
  private tabBox: Segments | null = null;

  constructor(
    private readonly context: Context,
    commands: HeaderCommands,
  ) {
    const { store } = context;
    this.scaleBox = select("Scale of colours and strokes", SCALES.map((name) => [name, name] as const), "log", (value) => store.set({ scale: value as ScaleName }));
    const command = (label: string, key: string, run: () => void): HTMLElement => h("button", { type: "button", onclick: run }, label, " ", h("kbd", {}, key));
    this.element = h(
      "header",
      { class: "page-header" },
      logo(),
      h("h1", {}, "attviz"),
      this.tabs,
      this.note,
      h("span", { class: "spacer" }),
      h("label", { class: "inline" }, "scale ", this.scaleBox),
      command("Open", "o", commands.open),
      command("Numbers", "t", commands.tables),
      command("Export", "e", commands.exports),
      command("Theme", "d", commands.theme),
      command("Help", "?", commands.help),
    );
  }

  private makeTabs(): void {
    const { collection, store } = this.context;
    const found = extensionsOf(collection.extensions);
    this.tabs.hidden = !found.length;
    this.tabBox = found.length ? new Segments("View", [["", "Own position"], ...found.map((one) => [one.name, one.title] as const)], (tab) => store.set({ tab })) : null;
    fill(this.tabs, this.tabBox?.element);
  }

  update(change: Change): void {
    const { collection, store, scene } = this.context;
    if (change.data) this.makeTabs();
    this.tabBox?.set(store.state.tab);
    if (!change.full && !change.data) return;
    this.scaleBox.value = store.state.scale;
    this.scaleBox.title = SCALE_NOTES[store.state.scale];
    const shape = collection.layers.length ? `${collection.layers.length} layers \u00d7 ${collection.heads.length} heads` : scene ? count(scene.set.rows.length, "vector") : "";
    tell(this.note, [visible(collection.title), shape, count(collection.rows.length, "document")].filter(Boolean).join(" \u00b7 "));
  }
}
