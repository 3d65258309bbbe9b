/** A long table of which only the rows in sight exist. */

import { fill, h } from "../dom";

export class VirtualBody {
  readonly body = h("tbody");
  private count = 0;
  private from = -1;
  private to = -1;

  constructor(
    private readonly scroller: HTMLElement,
    private readonly rowHeight: number,
    public columns: number,
    private readonly make: (index: number) => HTMLTableRowElement,
  ) {
    scroller.addEventListener("scroll", () => this.draw(false), { passive: true });
  }

  show(count: number): void {
    this.count = count;
    this.draw(true);
  }

  /** Scrolls so that a row is seen, as little as it takes. */
  reveal(index: number, headHeight: number): void {
    const top = index * this.rowHeight;
    const room = this.scroller.clientHeight - headHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + this.rowHeight > this.scroller.scrollTop + room) this.scroller.scrollTop = top + this.rowHeight - room;
  }

  private draw(fresh: boolean): void {
    const room = this.scroller.clientHeight || 400;
    const from = Math.max(0, Math.floor(this.scroller.scrollTop / this.rowHeight) - 6);
    const to = Math.min(this.count, Math.ceil((this.scroller.scrollTop + room) / this.rowHeight) + 6);
    if (!fresh && from === this.from && to === this.to) return;
    this.from = from;
    this.to = to;
    const rows = Array.from({ length: Math.max(0, to - from) }, (_, i) => this.make(from + i));
    fill(this.body, this.spacer(from), rows, this.spacer(this.count - to));
  }

  private spacer(rows: number): HTMLElement | null {
    if (rows <= 0) return null;
    const cell = h("td", { colspan: this.columns, style: { height: `${rows * this.rowHeight}px`, padding: "0", border: "0" } });
    return h("tr", { class: "spacer-row", "aria-hidden": "true" }, cell);
  }
}
