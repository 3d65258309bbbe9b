/** Pictures at twice the size, SVG, CSV and JSON of what is on the page. */

import { attvizJson } from "../data/attvizwrite";
import { single, toCsv } from "../data/csv";
import { h } from "../dom";
import { CanvasSurface, type Surface } from "../draw/surface";
import { SvgSurface } from "../draw/svg";
import { AGGREGATE_NAMES, AGGREGATES } from "../model/aggregate";
import { SCALE_NOTES } from "../model/scale";
import type { Context } from "./context";
import { openDialog } from "./dialog";
import type { HeatView } from "./heat";
import type { SeriesView } from "./series";
import type { TextView } from "./text";

const MARGIN = 16;
const PIXELS = 2;

interface Picture {
  readonly name: string;
  readonly title: string;
  readonly width: number;
  readonly height: number;
  draw(surface: Surface): void;
}

export class Exporter {
  constructor(
    private readonly context: Context,
    private readonly heat: HeatView,
    private readonly text: TextView,
    private readonly series: SeriesView,
  ) {}

  open(): void {
    const { host, collection, store } = this.context;
    const button = (label: string, run: () => void): HTMLElement => h("button", { type: "button", onclick: run }, label);
    const line = (picture: Picture): HTMLElement => h("li", {}, h("span", { class: "export-name" }, picture.title), button("PNG", () => this.png(picture)), button("SVG", () => this.svg(picture)));
    const several = collection.rows.length > 1;
    openDialog(host, "Export", [
      h("ul", { class: "exports" }, this.pictures().map(line)),
      h("ul", { class: "exports" }, [
        h("li", {}, h("span", { class: "export-name" }, "Values of this document"), button("CSV", () => this.csv())),
        h("li", {}, h("span", { class: "export-name" }, "This document, as AttViz JSON"), button("JSON", () => void this.json([store.state.document]))),
        several && h("li", {}, h("span", { class: "export-name" }, `All ${collection.rows.length} documents, as AttViz JSON`), button("JSON of all", () => void this.json(collection.rows.map((_, i) => i)))),
      ]),
      h("p", { class: "note" }, "Pictures are twice the size of the screen and follow the theme. Opened again, the JSON shows what you see: names, colours, order, hidden rows. The format holds values from 0 to 1: an entropy above 1 is left out."),
    ]);
  }

  private pictures(): Picture[] {
    const { scene, store } = this.context;
    if (!scene) return [];
    const at = `${store.state.document}`;
    const [heatWidth, heatHeight] = this.heat.size;
    const [seriesWidth, seriesHeight] = this.series.size;
    const width = Math.max(320, this.text.element.clientWidth - 28);
    return [
      { name: `text-${at}`, title: scene.document.patches ? "Image" : "Text", width, height: this.text.pictureHeight(width), draw: (surface) => this.text.draw(surface, width) },
      { name: `series-${at}`, title: "Series and vectors", width: seriesWidth, height: seriesHeight, draw: (surface) => this.series.draw(surface) },
      { name: `heat-map-${at}`, title: "Heat map", width: heatWidth, height: heatHeight, draw: (surface) => this.heat.draw(surface, heatWidth) },
    ];
  }

  private caption(): string {
    const { collection, store, scene } = this.context;
    const row = collection.rows[store.state.document];
    const scale = scene ? ` \u00b7 scale ${scene.scale} (${SCALE_NOTES[scene.scale]})` : "";
    return `attviz \u00b7 ${collection.title} \u00b7 ${row?.name || `document ${store.state.document}`}${scale}`;
  }

  private paint(surface: Surface, picture: Picture): void {
    picture.draw(surface);
    surface.text(0, picture.height + 18, this.caption(), { fill: this.context.palette.ink3, size: 10.5 });
  }

  private png(picture: Picture): void {
    const canvas = h("canvas");
    canvas.width = Math.round((picture.width + 2 * MARGIN) * PIXELS);
    canvas.height = Math.round((picture.height + 2 * MARGIN + 24) * PIXELS);
    const context = canvas.getContext("2d");
    if (!context) return;
    context.fillStyle = this.context.palette.card;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(PIXELS, 0, 0, PIXELS, MARGIN * PIXELS, MARGIN * PIXELS);
    const surface = new CanvasSurface(context);
    this.paint(surface, picture);
    surface.flush();
    canvas.toBlob((blob) => {
      if (blob) this.context.download(`${picture.name}.png`, blob);
      else this.context.notice("This picture is too large for the browser; take the SVG.", "error");
    }, "image/png");
  }

  private svg(picture: Picture): void {
    const surface = new SvgSurface(picture.width, picture.height + 26, MARGIN);
    this.paint(surface, picture);
    const text = surface.finish(this.context.palette.card, this.caption());
    this.context.download(`${picture.name}.svg`, new Blob([text], { type: "image/svg+xml" }));
  }

  private csv(): void {
    const { scene, store, palette } = this.context;
    if (!scene) return;
    const rows = scene.rows;
    const pinned = new Set(scene.pins(palette).map((pin) => pin.key));
    const head = ["token_index", "token", ...AGGREGATES.map((name) => AGGREGATE_NAMES[name]), ...rows.map((row) => row.name + (pinned.has(row.key) ? " (pinned)" : ""))];
    const columns = AGGREGATES.map((name) => scene.plain(name));
    const number = (value: number | undefined): number | null => (value === undefined || Number.isNaN(value) ? null : single(value));
    const lines = scene.set.tokens.map((token, i) => [i, token, ...columns.map((values) => number(values[i])), ...rows.map((row) => number(row.values[i]))]);
    this.context.download(`values-${store.state.document}.csv`, new Blob([toCsv([head, ...lines])], { type: "text/csv" }));
  }

  private async json(indices: readonly number[]): Promise<void> {
    const { collection, store, palette } = this.context;
    try {
      const parts = await attvizJson(collection, indices, store.state, palette);
      const name = indices.length === 1 ? `attviz-${indices[0] ?? 0}.json` : "attviz.json";
      this.context.download(name, new Blob(parts, { type: "application/json" }));
    } catch (error) {
      this.context.notice(`The JSON could not be made: ${error instanceof Error ? error.message : String(error)}`, "error");
    }
  }
}
