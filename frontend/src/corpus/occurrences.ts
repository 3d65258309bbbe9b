/** A token across all documents: every place as a line of context with its value. */

import { around, type Corpus, corpusOf, type Occurrence, occurrences } from "./table";
import { fill, h, Segments } from "../dom";
import { count, number } from "../model/format";
import { pieces, spelledAlone as spelled, visible } from "../model/tokens";
import type { Context } from "../views/context";
import { openDialog } from "../views/dialog";

const REACH = 12;
const SHOWN = 300;

export function written(tokens: readonly string[]): string {
  const set = { tokens, special: tokens.map(() => false), offsets: [] };
  return pieces(set, "").map((piece, i) => (piece.glued || i === 0 ? "" : " ") + piece.text).join("");
}

/** A line of context that opens its document when it is pressed. */
export function contextLine(context: Context, corpus: Corpus, place: { document: number; token: number; value: number }, most: number): HTMLElement {
  const { store, collection } = context;
  const { before, after } = around(corpus, place.document, place.token, REACH);
  const word = corpus.words[corpus.ids[(corpus.starts[place.document] as number) + place.token] as number] as string;
  const glue = written([...before.slice(-1), word]).endsWith(` ${spelled(word)}`) ? " " : "";
  const open = (): void => {
    context.host.querySelector("dialog")?.remove();
    store.set({ document: place.document, token: place.token, tab: "", hoverToken: null, window: null });
  };
  const name = collection.rows[place.document]?.name || `document ${place.document}`;
  return h(
    "button",
    { class: "context-line", onclick: open, title: visible(name) },
    h("span", { class: "before", dir: "auto" }, h("bdi", {}, written(before) + glue)),
    h("mark", {}, spelled(word)),
    h("span", { class: "after", dir: "auto" }, written(after)),
    h("span", { class: "bar-track" }, h("span", { class: "bar", style: { width: `${Math.max(0, place.value / most) * 100}%` } })),
    h("span", { class: "value" }, number(place.value)),
  );
}

export async function openOccurrences(context: Context, word: string): Promise<void> {
  const corpus = await corpusOf(context.collection);
  const found = occurrences(corpus, word);
  const list = h("div", { class: "context-lines" });
  const note = h("span", { class: "note" });
  const orders: Readonly<Record<string, (a: Occurrence, b: Occurrence) => number>> = {
    high: (a, b) => b.value - a.value,
    low: (a, b) => a.value - b.value,
    place: (a, b) => a.document - b.document || a.token - b.token,
  };
  const most = Math.max(1e-30, ...found.map((one) => one.value));
  const sort = new Segments("Order", [["high", "highest first"], ["low", "lowest first"], ["place", "in order"]], (value) => draw(value));
  const draw = (order: string): void => {
    sort.set(order);
    fill(list, [...found].sort(orders[order]).slice(0, SHOWN).map((one) => contextLine(context, corpus, one, most)));
  };
  const documents = new Set(found.map((one) => one.document)).size;
  const mean = found.reduce((sum, one) => sum + one.value, 0) / found.length;
  note.textContent = `${count(found.length, "place")} in ${count(documents, "document")}, mean of all vectors ${number(mean)}${found.length > SHOWN ? `; ${SHOWN} are shown` : ""}`;
  draw("high");
  openDialog(context.host, `\u201c${spelled(word)}\u201d in all documents`, [h("p", { class: "inline wrap" }, sort.element, note), list], true);
}
