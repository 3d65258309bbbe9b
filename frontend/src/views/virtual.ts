/** A long table of which only the rows in sight exist. */

import { fill, h } from "../dom";

export class VirtualBody {
  readonly body = h("tbody");
  #count = 0;
  #from = -1;
  #to = -1;
  // Kept, not asked for: asking in the middle of an update would make the browser lay out the page once more.
  #room = 400;
  #top = 0;

  constructor(
    private readonly scroller: HTMLElement,
    private readonly rowHeight: number,
    private readonly make: (index: number) => HTMLTableRowElement,
  ) {
    scroller.addEventListener(
      "scroll",
      () => {
        this.#top = this.scroller.scrollTop;
        this.#draw(false);
      },
      { passive: true },
    );
    new ResizeObserver(() => {
      this.#room = scroller.clientHeight || this.#room;
      this.#draw(false);
    }).observe(scroller);
  }

  show(count: number): void {
    this.#count = count;
    this.#draw(true);
  }

  /** Scrolls so that a row is seen, as little as it takes. */
  reveal(index: number, headHeight: number): void {
    const top = index * this.rowHeight;
    const room = this.#room - headHeight;
    if (top < this.#top) this.scroller.scrollTop = top;
    else if (top + this.rowHeight > this.#top + room) this.scroller.scrollTop = top + this.rowHeight - room;
  }

  #draw(fresh: boolean): void {
    const top = Math.min(this.#top, Math.max(0, this.#count * this.rowHeight - this.#room));
    const from = Math.max(0, Math.floor(top / this.rowHeight) - 6);
    const to = Math.min(this.#count, Math.ceil((top + this.#room) / this.rowHeight) + 6);
    if (!fresh && from === this.#from && to === this.#to) return;
    this.#from = from;
    this.#to = to;
    const rows = Array.from({ length: Math.max(0, to - from) }, (_, i) => this.make(from + i));
    fill(this.body, this.#spacer(from), rows, this.#spacer(this.#count - to));
  }

  #spacer(rows: number): HTMLElement | null {
    if (rows <= 0) return null;
    // One column only: where a narrow window hides columns, a wider cell would make new ones.
    const cell = h("td", { style: { height: `${rows * this.rowHeight}px`, padding: "0", border: "0" } });
    return h("tr", { class: "spacer-row", "aria-hidden": "true" }, cell);
  }
}
