/** Pictures that can stand in a paper (title, names, key, scale), CSV, JSON, and the page itself as it is now. */

import { attvizJson } from "../data/attvizwrite";
import { single, toCsv } from "../data/csv";
import { h, on, select } from "../dom";
import { SvgSurface } from "../draw/svg";
import { AGGREGATE_NAMES, AGGREGATES, isEntropy } from "../model/aggregate";
import { blend, rampColor } from "../model/color";
import { short } from "../model/format";
import { toHash } from "../model/hash";
import { type Fit, SCALE_NOTES } from "../model/scale";
import { Scene } from "../model/scene";
import { visible } from "../model/tokens";
import type { Context } from "./context";
import { compose, type Item, MARGIN, paint, type Picture, PIXELS, type Sheet } from "./compose";
import { openDialog } from "./dialog";
import type { HeatView } from "./heat";
import type { SeriesView } from "./series";
import type { TextView } from "./text";

/** Widths of figures in print, in CSS pixels of 1/96 inch. */
const WIDTHS = [["336", "one column (89 mm)"], ["680", "page (180 mm)"], ["screen", "as on screen"]] as const;

export class Exporter {
  readonly #context: Context;
  #width: string = WIDTHS[1][0];

  constructor(
    context: Context,
    private readonly heat: HeatView,
    private readonly text: TextView,
    private readonly series: SeriesView,
  ) {
    this.#context = context;
  }

  open(): void {
    const { host, collection, store } = this.#context;
    const button = (label: string, run: () => void): HTMLElement => h("button", { onclick: run }, label);
    const line = (picture: Picture): HTMLElement =>
      h("li", {}, h("span", { class: "export-name" }, picture.title), button("PNG", () => this.#png(picture)), button("SVG", () => this.#svg(picture)), button("PDF", () => this.#pdf(picture)));
    const several = collection.rows.length > 1;
    const unbounded = collection.measure?.scales[0] === "raw"; // the JSON holds values from 0 to 1
    const width = select("Width of pictures", WIDTHS, this.#width, (value) => (this.#width = value));
    openDialog(host, "Export", [
      h("p", {}, h("label", { class: "inline" }, "width ", width)),
      h("ul", { class: "exports" }, this.#pictures().map(line)),
      h("ul", { class: "exports" }, [
        h("li", {}, h("span", { class: "export-name" }, "Values of this document"), button("CSV", () => this.#csv())),
        unbounded ? null : h("li", {}, h("span", { class: "export-name" }, "This document, as AttViz JSON"), button("JSON", () => void this.#json([store.state.document]))),
        several && !unbounded && h("li", {}, h("span", { class: "export-name" }, `All ${collection.rows.length} documents, as AttViz JSON`), button("JSON of all", () => void this.#json(collection.rows.map((_, i) => i)))),
        this.#context.file && h("li", {}, h("span", { class: "export-name" }, "This page as it is now, notes included"), button("HTML", () => this.#page())),
        h("li", {}, h("span", { class: "export-name" }, "The same picture from Python"), button("Copy as Python", () => void this.#python())),
      ]),
      h("p", { class: "note" }, "Pictures carry a title, names, a key and the scale, at 384 dots per inch in the current theme. PDF opens the print dialog. The JSON opens here again as you left it; it leaves out entropies above 1."),
    ]);
  }

  #pictures(): Picture[] {
    const { scene, store } = this.#context;
    if (!scene) return [];
    const at = `${store.state.document}`;
    const pinned = (): Item[] => this.#pinKey();
    return [
      { name: `text-${at}`, title: scene.document.patches ? "Image" : "Text", height: (width) => this.text.pictureHeight(width), draw: (surface, width) => this.text.draw(surface, width), key: () => [...this.#tintKey(), ...(store.state.strokes === "off" ? [] : pinned())] },
      { name: `series-${at}`, title: "Series and vectors", height: (width) => this.series.pictureHeight(width), draw: (surface, width) => this.series.draw(surface, width), key: () => [...this.#seriesKey(), ...pinned()] },
      { name: `heat-map-${at}`, title: "Heat map", height: (width) => this.heat.pictureHeight(width), draw: (surface, width) => this.heat.draw(surface, width), key: () => [{ text: `${store.state.statistic} of ${this.#scopeName()}`, size: 0, mark: () => undefined }, ...pinned()] },
    ];
  }

  #scopeName(): string {
    const { scope } = this.#context.store.state;
    return scope === "document" || !this.#context.scene?.side ? "this document" : scope === "all" ? "all documents" : "this document minus all documents";
  }

  #pinKey(): Item[] {
    const { scene, palette } = this.#context;
    return (scene?.pins(palette) ?? []).filter((pin) => !pin.hidden).map((pin) => ({ text: visible(pin.name), size: 26, mark: (surface, x, y) => surface.line([x, x + 22], [y - 3.5, y - 3.5], pin.color, 2, pin.dash) }));
  }

  #ramp(text: string, color: (unit: number) => string): Item {
    return { text, size: 52, mark: (surface, x, y) => Array.from({ length: 24 }, (_, i) => surface.rect(x + 2 * i, y - 8, 2, 8, color(i / 23))) };
  }

  #tintKey(): Item[] {
    const tint = this.text.tinted;
    const { palette, scene } = this.#context;
    if (!tint || !scene) return [];
    const color = scene.document.patches ? (unit: number) => rampColor(unit) : (unit: number) => blend(palette.card, palette.tint, unit);
    return [this.#ramp(`tint: ${scene.nameOf(tint.key)}, ${tint.fit.legend}`, color)];
  }

  #seriesKey(): Item[] {
    const { scene, palette } = this.#context;
    const { fit } = this.series;
    if (!scene || !fit) return [];
    const { aggregate } = scene.state;
    const line: Item = { text: `${AGGREGATE_NAMES[aggregate]} of ${scene.counted.length}`, size: 26, mark: (surface, x, y) => surface.line([x, x + 22], [y - 3.5, y - 3.5], palette.ink, 2.25) };
    const band: Item = { text: "min\u2013max", size: 20, mark: (surface, x, y) => surface.rect(x, y - 9, 16, 10, palette.band) };
    const dots: Item = { text: "extremes, others", size: 16, mark: (surface, x, y) => (surface.dots([x + 3], [y - 4], 1.7, palette.extreme), surface.rect(x + 9, y - 5, 2, 2, palette.dots)) };
    return [line, ...(isEntropy(aggregate) ? [] : [band, dots]), this.#ramp(`matrix: ${ends(fit)}`, (unit) => rampColor(unit))];
  }

  #heading(): string {
    const { collection, store } = this.#context;
    const row = collection.rows[store.state.document];
    return visible(row?.name && row.name !== String(store.state.document) ? row.name : `document ${store.state.document}`);
  }

  #caption(): string {
    const { collection, scene, store } = this.#context;
    const side = scene && scene.document.sets.length > 1 ? ` \u00b7 ${scene.set.name}` : "";
    const scale = scene ? ` \u00b7 scale ${scene.scale} (${SCALE_NOTES[scene.scale]})${scene.without ? " \u00b7 without special tokens" : ""}${store.state.range === "corpus" ? " \u00b7 colours of all documents" : ""}` : "";
    return visible(`attviz \u00b7 ${collection.title}${collection.model && !collection.title.includes(collection.model) ? ` \u00b7 ${collection.model}` : ""}${side} \u00b7 ${this.#heading()}${scale}`);
  }

  #sheet(picture: Picture): Sheet {
    return { ...picture, heading: `${picture.title}: ${this.#heading()}`, caption: this.#caption() };
  }

  #widthOf(picture: Picture): number {
    if (this.#width !== "screen") return Number(this.#width);
    const view = picture.name.startsWith("heat") ? this.heat : picture.name.startsWith("text") ? this.text : this.series;
    return Math.max(320, view.element.clientWidth - 28);
  }

  #png(picture: Picture): void {
    paint(this.#sheet(picture), this.#widthOf(picture), this.#context.palette).toBlob((blob) => {
      if (blob) this.#context.download(`${picture.name}.png`, blob);
      else this.#context.notice("This picture is too large for the browser; take the SVG.", "error");
    }, "image/png");
  }

  #svg(picture: Picture): void {
    const width = this.#widthOf(picture);
    const sheet = this.#sheet(picture);
    const { palette } = this.#context;
    const surface = new SvgSurface(width, compose(null, sheet, width, palette), MARGIN);
    compose(surface, sheet, width, palette);
    const text = surface.finish(this.#context.palette.card, this.#caption());
    this.#context.download(`${picture.name}.svg`, new Blob([text], { type: "image/svg+xml" }));
  }

  /** The print dialog with this picture alone on the sheet, at its width. */
  #pdf(picture: Picture): void {
    const { host } = this.#context;
    const canvas = paint(this.#sheet(picture), this.#widthOf(picture), this.#context.palette);
    canvas.style.width = `${canvas.width / PIXELS}px`;
    const sheet = h("div", { class: "print-sheet" }, canvas);
    host.querySelector("dialog")?.remove();
    host.append(sheet);
    host.classList.add("print-one");
    const done = (): void => {
      sheet.remove();
      host.classList.remove("print-one");
    };
    on(window, "afterprint", done, { once: true });
    window.print();
  }

  #csv(): void {
    const { scene, store, palette } = this.#context;
    if (!scene) return;
    // Every token as it is: the last column says which are special.
    const whole = new Scene(scene.document, scene.set, scene.text, { ...store.state, special: "in" }, scene.side);
    const rows = whole.rows;
    const pinned = new Set(scene.pins(palette).map((pin) => pin.key));
    const head = ["token_index", "token", ...AGGREGATES.map((name) => AGGREGATE_NAMES[name]), ...rows.map((row) => row.name + (pinned.has(row.key) ? " (pinned)" : "")), "special"];
    const columns = AGGREGATES.map((name) => whole.plain(name));
    const number = (value: number | undefined): number | null => (value === undefined || Number.isNaN(value) ? null : single(value));
    const lines = scene.set.tokens.map((token, i) => [i, token, ...columns.map((values) => number(values[i])), ...rows.map((row) => number(row.values[i])), scene.set.special[i] ? 1 : 0]);
    this.#context.download(`values-${store.state.document}.csv`, new Blob([toCsv([head, ...lines])], { type: "text/csv" }));
  }

  async #json(indices: readonly number[]): Promise<void> {
    const { collection, store, palette } = this.#context;
    try {
      const parts = await attvizJson(collection, indices, store.state, palette);
      const name = indices.length === 1 ? `attviz-${indices[0] ?? 0}.json` : "attviz.json";
      this.#context.download(name, new Blob(parts, { type: "application/json" }));
    } catch (error) {
      this.#context.notice(`The JSON could not be made: ${error instanceof Error ? error.message : String(error)}`, "error");
    }
  }

  /** The file itself with the present view in it: notes, pins, filters. */
  #page(): void {
    const copy = document.documentElement.cloneNode(true) as HTMLElement;
    copy.querySelector("#attviz-state")?.remove();
    const root = copy.querySelector("#attviz-root");
    for (const name of root?.getAttributeNames() ?? []) if (name !== "id") root?.removeAttribute(name);
    root?.replaceChildren(h("p", { class: "boot" }, "This page draws itself with a script that is inside this file; scripts are switched off here."));
    root?.after(h("script", { type: "application/json", id: "attviz-state" }, toHash(this.#context.store.state)));
    this.#context.download("attviz.html", new Blob([`<!doctype html>\n<html lang="en">${copy.getHTML()}</html>\n`], { type: "text/html" }));
  }

  async #python(): Promise<void> {
    const { store } = this.#context;
    const { document, aggregate, axis, special } = store.state;
    const code = [
      "import numpy as np, attviz",
      ...(special === "out" ? ["from attviz.spelling import special_tokens"] : []),
      `document = analysis.documents[${document}]`,
      "diagonal = document.diagonal.astype(np.float64)",
      ...(special === "out" ? ["diagonal[..., special_tokens(document.tokens, document.special)] = np.nan"] : []),
      `attviz.plots.series(diagonal, tokens=document.tokens, aggregate=${JSON.stringify(PLOT_NAMES[aggregate] ?? aggregate)}, log=${axis === "log" ? "True" : "False"})`,
      `attviz.plots.sequence(diagonal, tokens=document.tokens, tint=diagonal.mean((0, 1)))`,
    ].join("\n");
    try {
      await navigator.clipboard.writeText(code);
      this.#context.notice("The Python code is in the clipboard.", "info");
    } catch {
      openDialog(this.#context.host, "Python", h("pre", { tabindex: "0" }, code));
    }
  }
}

const PLOT_NAMES: Readonly<Record<string, string>> = { binned: "binned entropy", shannon: "shannon entropy" };

function ends(fit: Fit): string {
  return `${short(fit.low)} \u2013 ${short(fit.high)}${fit.logarithmic ? ", log" : ""}`;
}
