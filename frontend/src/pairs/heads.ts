/** Head view: queries left, keys right, a line for each pair, coloured by head (Vig 2019). One token at a time on hover. */

import { h } from "../dom";
import type { Surface } from "../draw/surface";
import { blend, type Palette } from "../model/color";
import { count, number } from "../model/format";
import { headColor } from "./colors";
import { cut, type Labels, labelsOf, widthOf } from "./labels";
import type { Layer } from "./layer";
import type { Drawing, Panel, Part } from "./panel";
import { Slice } from "./slices";
import { Tall } from "./tall";

const STEPS = 24;
/** Where a curve stands after each step: it leaves and arrives level. */
const EASE = Array.from({ length: STEPS + 1 }, (_, i) => (i / STEPS) ** 2 * (3 - (2 * i) / STEPS));
/** Weights below are not drawn: of all tokens together, and of one. */
const FAINT = 0.1;
const FAINT_ONE = 0.015;
const KEPT_ROWS = 6000;
/** More lines than these hide each other: the strongest are drawn. */
const MOST_LINES = 1200;

interface Line {
  readonly query: number;
  readonly key: number;
  readonly head: number;
  readonly weight: number;
}

export class HeadsView implements Part {
  readonly element: HTMLElement;
  private readonly tall: Tall;
  private layer: Layer | null = null;
  private queries: Labels = { texts: [], special: [] };
  private keys: Labels = this.queries;
  private readonly rows = new Map<number, Float32Array>();
  private job = 0;
  private get hoverKey(): number | null {
    return this.panel.key;
  }

  constructor(private readonly panel: Panel) {
    this.tall = new Tall("pairs-lines", "Lines from query tokens to key tokens. Up and down choose the query, Enter pins it, left and right change the layer.", 22, () => void this.fill());
    this.element = h("div", { class: "pairs-part" }, this.tall.element);
    this.listen();
  }

  private listen(): void {
    const target = this.tall.figure.element;
    target.addEventListener("pointermove", (event) => this.point(...this.tall.figure.place(event)));
    target.addEventListener("pointerleave", () => this.point(-1, -1));
    target.addEventListener("click", (event) => {
      const [x, y] = this.tall.figure.place(event);
      const query = this.queryAt(x, y);
      if (query !== null) this.panel.pin(query === this.panel.choice.query ? null : query);
    });
    target.addEventListener("keydown", (event) => {
      const by = event.key === "ArrowUp" ? -1 : event.key === "ArrowDown" ? 1 : 0;
      if (by) {
        const next = Math.min(this.queries.texts.length - 1, Math.max(0, (this.panel.query ?? (by > 0 ? -1 : 0)) + by));
        this.tall.show(next);
        this.panel.point(next, null);
        void this.fill().then(() => this.panel.say(this.sentence(next)));
      } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.panel.stepLayer(event.key === "ArrowLeft" ? -1 : 1);
      else if (event.key === "Enter") this.panel.pin(this.panel.query === this.panel.choice.query ? null : this.panel.query);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  private get sides(): [number, number] {
    const { width } = this.tall.figure;
    const longest = (labels: Labels): number => Math.max(Math.min(84, width * 0.2), ...labels.texts.slice(0, 600).map((text) => widthOf(text, this.size) + 12));
    const most = Math.min(190, width * 0.28);
    return [Math.min(most, longest(this.queries)), Math.min(most, longest(this.keys))];
  }

  private get size(): number {
    return Math.min(13, Math.max(9, this.tall.rowHeight - 5));
  }

  private queryAt(x: number, y: number): number | null {
    const row = this.tall.rowAt(y);
    return x >= 0 && x < this.left + 30 && row >= 0 && row < this.queries.texts.length ? row : null;
  }

  private left = 60;
  private right = 60;

  private point(x: number, y: number): void {
    const query = this.queryAt(x, y);
    const row = this.tall.rowAt(y);
    const onKeys = x > this.tall.figure.width - this.right - this.blocks - 8 && row >= 0 && row < this.keys.texts.length;
    this.panel.point(query, onKeys ? row : null);
  }

  /** Room for one block a head beside the keys. */
  private get blocks(): number {
    return Math.min(84, this.tall.figure.width * 0.12, Math.max(8, this.panel.choice.heads.length * 7));
  }

  open(layer: Layer): void {
    const same = this.layer === layer;
    this.layer = layer;
    const { sides } = this.panel.data.meta;
    this.queries = labelsOf(sides[layer.meta.q] as never);
    this.keys = labelsOf(sides[layer.meta.k] as never);
    if (!same) {
      this.rows.clear();
      this.tall.element.scrollTop = 0;
    }
    this.resize();
  }

  resize(): void {
    this.tall.fit(Math.max(this.queries.texts.length, this.keys.texts.length), 13, 34);
    [this.left, this.right] = this.sides;
    void this.fill();
  }

  close(): void {
    this.job++;
  }

  update(): void {
    void this.fill();
  }

  reveal(query: number): void {
    this.tall.reveal(query);
  }

  async drawing(): Promise<Drawing | null> {
    const { layer, tall } = this;
    if (!layer) return null;
    const rows = Math.max(this.queries.texts.length, this.keys.texts.length);
    // Of very long texts with many heads what is in sight, as the rows of all would not stay in memory.
    const all = layer.qLen * this.panel.choice.heads.length <= KEPT_ROWS;
    if (all) await tall.whole(rows, () => this.fill([0, layer.qLen]));
    const inside = <T>(draw: () => T): T => (all ? tall.whole(rows, draw) : draw());
    const [width, height] = inside(() => [tall.figure.width, tall.figure.height] as const);
    return { width, height, draw: (surface) => inside(() => this.picture(surface, this.panel.palette)) };
  }

  /** Forms the rows in sight, a slice at a time, and draws as they come. */
  private async fill(sight: readonly [number, number] = this.tall.sight): Promise<void> {
    const { layer } = this;
    if (!layer) return;
    const job = ++this.job;
    const { heads } = this.panel.choice;
    const active = this.panel.query;
    const [from, to] = sight;
    const wanted = active !== null ? [active] : [];
    for (let query = from; query < Math.min(to, layer.qLen); query++) if (query !== active) wanted.push(query);
    if (this.rows.size > KEPT_ROWS) this.rows.clear();
    const slice = new Slice();
    const buffer = new Float32Array(4 * layer.kvLen);
    for (const head of heads) {
      const missing = wanted.filter((query) => !this.rows.has(head * layer.qLen + query));
      for (let at = 0; at < missing.length; at += 4) {
        const some = missing.slice(at, at + 4);
        layer.rows(head, some, buffer);
        some.forEach((query, i) => this.rows.set(head * layer.qLen + query, buffer.slice(i * layer.kvLen, (i + 1) * layer.kvLen)));
        if (slice.spent) {
          if (slice.due) this.draw(); // drawing takes as long as a slice
          if (!(await slice.rest(() => job === this.job))) return;
        }
      }
    }
    this.draw();
  }

  private weight(head: number, query: number, key: number): number {
    return this.rows.get(head * (this.layer?.qLen ?? 0) + query)?.[key] ?? 0;
  }

  private lines(): Line[] {
    const { layer, hoverKey } = this;
    if (!layer) return [];
    const active = this.panel.query;
    const [from, to] = this.tall.sight;
    const queries = active !== null ? [active] : Array.from({ length: Math.max(0, Math.min(to, layer.qLen) - from) }, (_, i) => from + i);
    // Of all tokens together only what stands out of an even row.
    const faint = active !== null || hoverKey !== null ? FAINT_ONE : Math.max(FAINT, 2 / layer.kvLen);
    const whole = this.panel.special || active !== null || hoverKey !== null;
    const lines: Line[] = [];
    for (const head of this.panel.choice.heads) {
      for (const query of queries) {
        const row = this.rows.get(head * layer.qLen + query);
        if (!row || (!whole && this.queries.special[query])) continue;
        for (let key = hoverKey ?? 0; key < (hoverKey === null ? row.length : hoverKey + 1); key++) {
          const weight = row[key] as number;
          if (weight >= faint && (whole || !this.keys.special[key])) lines.push({ query, key, head, weight });
        }
      }
    }
    return lines.sort((a, b) => a.weight - b.weight).slice(-MOST_LINES);
  }

  draw(): void {
    this.tall.figure.paint((surface) => this.picture(surface, this.panel.palette));
    this.panel.tell(this.panel.query === null && this.hoverKey === null ? "" : this.sentence(this.panel.query));
  }

  private picture(surface: Surface, palette: Palette): void {
    const { tall } = this;
    const { width } = tall.figure;
    const active = this.panel.query;
    const { heads } = this.panel.choice;
    const colors = new Map(heads.map((head) => [head, headColor(head, palette)]));
    // Heads leave and arrive side by side, so that none hides another.
    const apart = new Map(heads.map((head, i) => [head, ((i + 0.5) / heads.length - 0.5) * (tall.rowHeight - 5)]));
    const [x0, x1] = [this.left + 8, width - this.right - this.blocks - 8];
    for (const line of this.lines()) {
      const strength = Math.min(1, 0.16 + 0.84 * line.weight);
      const beside = apart.get(line.head) as number;
      const [from, to] = [tall.y(line.query) + beside, tall.y(line.key) + beside];
      const xs = EASE.map((_, i) => x0 + ((x1 - x0) * i) / STEPS);
      surface.line(xs, EASE.map((ease) => from + (to - from) * ease), blend(palette.card, colors.get(line.head) as string, strength), 0.8 + 2.4 * line.weight);
    }
    if (active !== null || this.hoverKey !== null) this.blocksOf(surface, palette, colors);
    this.column(surface, palette, this.queries, this.left, "end", active);
    this.column(surface, palette, this.keys, width - this.right, "start", this.hoverKey);
    surface.rect(0, 0, width, tall.head - 2, palette.card);
    surface.text(this.left, 13, this.left > 72 ? "from (query)" : "from", { fill: palette.ink3, size: 11, anchor: "end" });
    surface.text(width - this.right + 4, 13, this.right > 60 ? "to (key)" : "to", { fill: palette.ink3, size: 11 });
  }

  /** Beside each key one block a head: how much the query gives it. */
  private blocksOf(surface: Surface, palette: Palette, colors: ReadonlyMap<number, string>): void {
    const { tall } = this;
    const query = this.panel.query;
    if (query === null) return;
    const { heads } = this.panel.choice;
    const each = this.blocks / heads.length;
    const [from, to] = tall.sight;
    for (let key = from; key < Math.min(to, this.keys.texts.length); key++) {
      heads.forEach((head, i) => {
        const weight = this.weight(head, query, key);
        if (weight < FAINT_ONE) return;
        const x = tall.figure.width - this.right - this.blocks - 4 + i * each;
        surface.rect(x, tall.y(key) - tall.rowHeight / 2 + 1, Math.max(1, each - 1), tall.rowHeight - 2, blend(palette.card, colors.get(head) as string, Math.min(1, 0.1 + 0.9 * weight)));
      });
    }
  }

  private column(surface: Surface, palette: Palette, labels: Labels, x: number, anchor: "start" | "end", active: number | null): void {
    const { tall, size } = this;
    const [from, to] = tall.sight;
    const room = (anchor === "end" ? this.left : this.right) - 8;
    for (let row = from; row < Math.min(to, labels.texts.length); row++) {
      const y = tall.y(row);
      if (row === active) surface.rect(anchor === "end" ? 0 : x, y - tall.rowHeight / 2, room + 8, tall.rowHeight, palette.accentSoft);
      const fill = row === active ? palette.accent : labels.special[row] ? palette.ink3 : palette.ink;
      surface.text(anchor === "end" ? x : x + 4, y + size * 0.36, cut(labels.texts[row] as string, size, room), { fill, size, anchor, weight: row === active ? 600 : 400 });
    }
  }

  /** What the pointed pair, or the pointed query, has to say. */
  private sentence(query: number | null): string {
    const { layer, hoverKey } = this;
    if (!layer) return "";
    const { heads } = this.panel.choice;
    const name = (head: number): string => `H${layer.meta.heads[head] ?? head}`;
    if (query !== null && hoverKey !== null) {
      const each = heads.slice(0, 8).map((head) => `${name(head)} ${number(this.weight(head, query, hoverKey))}`);
      return `\u201c${this.queries.texts[query] ?? ""}\u201d ${query} \u2192 \u201c${this.keys.texts[hoverKey] ?? ""}\u201d ${hoverKey}: ${each.join(" \u00b7 ")}`;
    }
    if (query === null) return hoverKey === null ? "" : `lines to \u201c${this.keys.texts[hoverKey] ?? ""}\u201d ${hoverKey}`;
    const best = heads.flatMap((head) => {
      const row = this.rows.get(head * layer.qLen + query);
      const key = row ? row.indexOf(Math.max(...row)) : -1;
      return row && key >= 0 ? [{ head, key, weight: row[key] as number }] : [];
    });
    best.sort((a, b) => b.weight - a.weight);
    const few = best.slice(0, 3).map(({ head, key, weight }) => `${name(head)} at \u201c${this.keys.texts[key] ?? ""}\u201d ${key} (${number(weight)})`);
    const more = best.length - few.length;
    return `\u201c${this.queries.texts[query] ?? ""}\u201d ${query} looks most: ${few.join(" \u00b7 ")}${more > 0 ? ` \u00b7 ${count(more, "more head")}` : ""}`;
  }
}
