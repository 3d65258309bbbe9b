/** Model view: a small picture of every head, layers down and heads across, drawn as they are made. */

import { h } from "../dom";
import { Figure } from "../draw/figure";
import type { Surface } from "../draw/surface";
import { rampPixels } from "../model/color";
import type { Layer } from "./layer";
import type { Drawing, Panel, Part } from "./panel";
import { Slice } from "./slices";
import { type Thumb, thumbnail } from "./thumbs";

const LEFT = 34;
const TOP = 20;

export class ModelView implements Part {
  readonly element: HTMLElement;
  private readonly figure = new Figure("pairs-model", "One picture a head, layers down and heads across. Arrow keys move, Enter opens the head.");
  /** The picture that is being made. One canvas for all of them would be copied whole each time it is read and written by turns. */
  private readonly scratch = h("canvas");
  private readonly thumbs = new Map<string, Thumb>();
  private thumbsOf: object | null = null;
  private cell = 48;
  private cursor: { row: number; column: number } | null = null;
  private job = 0;
  private filledFor = "";

  constructor(private readonly panel: Panel) {
    this.element = h("div", { class: "pairs-part pairs-model-part" }, h("div", { class: "pairs-scroll" }, this.figure.element));
    const target = this.figure.element;
    target.addEventListener("pointermove", (event) => this.move(this.at(...this.figure.place(event))));
    target.addEventListener("pointerleave", () => this.move(null));
    target.addEventListener("click", () => this.enter());
    target.addEventListener("keydown", (event) => this.key(event));
  }

  private get gap(): number {
    return this.cell < 16 ? 1 : 3;
  }

  private get places(): readonly number[] {
    const { data, choice } = this.panel;
    return data.groupOf(choice.layer).places;
  }

  private at(x: number, y: number): { row: number; column: number } | null {
    const [row, column] = [Math.floor((y - TOP) / this.cell), Math.floor((x - LEFT) / this.cell)];
    const place = this.places[row];
    return row >= 0 && column >= 0 && place !== undefined && column < this.panel.data.at(place).heads.length ? { row, column } : null;
  }

  private move(cell: { row: number; column: number } | null): void {
    this.cursor = cell;
    this.mark();
    const place = cell && this.places[cell.row];
    if (cell && place !== null && place !== undefined) {
      const meta = this.panel.data.at(place);
      this.panel.tell(`L${cell.row}\u00b7H${meta.heads[cell.column] ?? ""} \u00b7 ${meta.name} \u00b7 click opens the head`);
      this.panel.preview(place, cell.column);
    } else {
      this.panel.tell("");
      this.panel.preview(null, 0);
    }
  }

  private enter(): void {
    const place = this.cursor && this.places[this.cursor.row];
    if (this.cursor && place !== null && place !== undefined) this.panel.isolate(place, this.cursor.column);
  }

  private key(event: KeyboardEvent): void {
    const steps: Readonly<Record<string, readonly [number, number]>> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step) {
      const from = this.cursor ?? { row: 0, column: step[1] ? -1 : 0 };
      const row = Math.min(this.places.length - 1, Math.max(0, from.row + step[0]));
      const last = this.panel.data.at(this.places[row] as number).heads.length - 1;
      this.move({ row, column: Math.min(last, Math.max(0, from.column + step[1])) });
      this.panel.say(`layer ${row}, head ${this.cursor?.column ?? 0}`);
    } else if (event.key === "Enter" || event.key === " ") this.enter();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  open(_layer: Layer): void {
    this.resize();
  }

  resize(): void {
    const room = this.element.firstElementChild as HTMLElement;
    const columns = Math.max(...this.places.map((place) => this.panel.data.at(place).heads.length));
    const across = (room.clientWidth - LEFT - 4) / columns;
    const down = (room.clientHeight - TOP - 4) / this.places.length;
    this.cell = Math.floor(Math.max(9, Math.min(140, across, Math.max(down, Math.min(across, 44)))));
    this.figure.resize(LEFT + columns * this.cell, TOP + this.places.length * this.cell);
    this.update();
  }

  close(): void {
    this.job++;
  }

  update(): void {
    const { data } = this.panel;
    this.figure.paint((surface) => this.still(surface));
    this.places.forEach((place, row) => data.at(place).heads.forEach((_, head) => this.stamp(row, head)));
    this.mark();
    void this.fill();
  }

  private still(surface: Surface): void {
    const { palette, data } = this.panel;
    const columns = Math.max(...this.places.map((place) => data.at(place).heads.length));
    const step = Math.ceil(22 / this.cell);
    for (let column = 0; column < columns; column += step) {
      const head = data.at(this.places[0] as number).heads[column];
      surface.text(LEFT + (column + 0.5) * this.cell, 13, String(head ?? column), { fill: palette.ink3, size: 10.5, anchor: "middle" });
    }
    const every = Math.ceil(12 / this.cell);
    this.places.forEach((place, row) => {
      if (row % every === 0) surface.text(LEFT - 6, TOP + (row + 0.5) * this.cell + 4, `L${row}`, { fill: palette.ink3, size: 10.5, anchor: "end" });
      data.at(place).heads.forEach((_, column) => surface.rect(LEFT + column * this.cell, TOP + row * this.cell, this.cell - this.gap, this.cell - this.gap, palette.grid));
    });
  }

  /** Puts a picture on the small canvas. Square root of the weight: 1 is the end of the ramp in every picture, so that heads compare. */
  private ink(row: number, head: number): boolean {
    const thumb = this.thumbs.get(`${this.places[row] ?? -1}.${head}`);
    const { scratch } = this;
    const pen = scratch.getContext("2d", { willReadFrequently: true });
    if (!thumb || !pen) return false;
    if (scratch.width !== thumb.columns || scratch.height !== thumb.rows) [scratch.width, scratch.height] = [thumb.columns, thumb.rows];
    const image = pen.createImageData(thumb.columns, thumb.rows);
    const colors = new Uint32Array(image.data.buffer);
    const ramp = rampPixels();
    for (let i = 0; i < thumb.values.length; i++) colors[i] = ramp[Math.round(255 * Math.sqrt(Math.min(1, thumb.values[i] as number)))] as number;
    pen.putImageData(image, 0, 0);
    return true;
  }

  /** Draws a picture that is there onto the figure. */
  private stamp(row: number, head: number): void {
    const pen = this.figure.base.getContext("2d");
    if (!pen || !this.ink(row, head)) return;
    const size = this.cell - this.gap;
    pen.imageSmoothingEnabled = this.scratch.width > size;
    pen.drawImage(this.scratch, LEFT + head * this.cell, TOP + row * this.cell, size, size);
  }

  drawing(): Promise<Drawing | null> {
    const { data } = this.panel;
    const draw = (surface: Surface): void => {
      const size = this.cell - this.gap;
      this.still(surface);
      this.places.forEach((place, row) =>
        data.at(place).heads.forEach((_, head) => {
          if (this.ink(row, head)) surface.image(this.scratch, LEFT + head * this.cell, TOP + row * this.cell, size, size);
        }),
      );
    };
    return Promise.resolve({ width: this.figure.width, height: this.figure.height, draw });
  }

  private mark(): void {
    const { cursor } = this;
    this.figure.overlay((surface) => {
      const { choice, palette } = this.panel;
      const row = this.places.indexOf(choice.layer);
      if (choice.heads.length < this.panel.data.at(choice.layer).heads.length) {
        for (const head of choice.heads) surface.frame(LEFT + head * this.cell - 1, TOP + row * this.cell - 1, this.cell - this.gap + 2, this.cell - this.gap + 2, palette.accent, 2);
      }
      if (cursor) surface.frame(LEFT + cursor.column * this.cell - 1, TOP + cursor.row * this.cell - 1, this.cell - this.gap + 2, this.cell - this.gap + 2, palette.ink, 2);
    });
  }

  /** Makes the pictures that are missing, each shown in the frame after it was made. */
  private async fill(): Promise<void> {
    const { data } = this.panel;
    const key = `${data.document} ${data.groupOf(this.panel.choice.layer).key}`;
    if (this.thumbsOf !== data || this.filledFor !== key) {
      [this.thumbsOf, this.filledFor] = [data, key];
      this.thumbs.clear();
    }
    const job = ++this.job;
    const wanted = (): boolean => job === this.job;
    const slice = new Slice();
    for (const [row, place] of this.places.entries()) {
      const missing = data.at(place).heads.map((_, head) => head).filter((head) => !this.thumbs.has(`${place}.${head}`));
      if (!missing.length) continue;
      const layer = await data.layer(place);
      if (!(await slice.rest(wanted))) return;
      for (const head of missing) {
        this.thumbs.set(`${place}.${head}`, thumbnail(layer, head));
        this.stamp(row, head);
        if (!(await slice.rest(wanted))) return;
      }
    }
    this.element.dataset["done"] = String(this.thumbs.size);
    this.panel.filled();
  }
}
