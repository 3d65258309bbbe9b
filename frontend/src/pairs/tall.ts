/** A figure as tall as its rows need, of which only what is in sight is drawn. */

import { h } from "../dom";
import { Figure } from "../draw/figure";

export class Tall {
  readonly element: HTMLElement;
  readonly figure: Figure;
  private readonly spacer = h("div", { class: "pairs-spacer" });
  private queued = false;
  private unrolled = false;
  rowHeight = 18;

  constructor(
    name: string,
    label: string,
    /** Room above the rows, which does not scroll. */
    readonly head: number,
    private readonly changed: () => void,
  ) {
    this.figure = new Figure(name, label);
    this.spacer.append(this.figure.element);
    this.element = h("div", { class: "pairs-scroll" }, this.spacer);
    this.element.addEventListener("scroll", () => {
      if (this.queued) return;
      this.queued = true;
      requestAnimationFrame(() => {
        this.queued = false;
        this.changed();
      });
    }, { passive: true });
  }

  /** Measures the room and gives rows between `least` and `most` pixels each. */
  fit(rows: number, least: number, most: number): void {
    // Where the page is one column, a card is as high as its rows ask for (style.css).
    this.element.style.setProperty("--whole", `${this.head + rows * most + 6}px`);
    const { clientWidth, clientHeight } = this.element;
    const height = Math.max(160, clientHeight);
    this.rowHeight = Math.max(least, Math.min(most, Math.floor((height - this.head - 6) / Math.max(1, rows))));
    const whole = this.head + rows * this.rowHeight + 6;
    this.spacer.style.setProperty("height", `${Math.max(whole, Math.min(height, whole))}px`);
    this.figure.resize(Math.max(200, clientWidth), Math.min(height, whole));
  }

  /** All rows at once, as a picture for a paper needs them. */
  whole<T>(rows: number, draw: () => T): T {
    const { height } = this.figure;
    [this.unrolled, this.figure.height] = [true, this.head + rows * this.rowHeight + 6];
    try {
      return draw();
    } finally {
      [this.unrolled, this.figure.height] = [false, height];
    }
  }

  get top(): number {
    return this.unrolled ? 0 : this.element.scrollTop;
  }

  /** Middle of a row, in the figure. */
  y(row: number): number {
    return this.head + (row + 0.5) * this.rowHeight - this.top;
  }

  rowAt(y: number): number {
    return y < this.head ? -1 : Math.floor((y - this.head + this.top) / this.rowHeight);
  }

  /** First and one past the last row in sight. */
  get sight(): [number, number] {
    return [Math.max(0, Math.floor(this.top / this.rowHeight)), Math.ceil((this.top + this.figure.height - this.head) / this.rowHeight)];
  }

  /** Brings a row that is out of sight to the middle. */
  reveal(row: number): void {
    const [from, to] = this.sight;
    if (row < from || row >= to) this.element.scrollTop = (row + 0.5) * this.rowHeight - (this.figure.height - this.head) / 2;
  }

  show(row: number): void {
    const room = this.figure.height - this.head - 6;
    const [from, to] = [row * this.rowHeight, (row + 1) * this.rowHeight];
    if (from < this.top) this.element.scrollTop = from;
    else if (to > this.top + room) this.element.scrollTop = to - room;
  }
}
