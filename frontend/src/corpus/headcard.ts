/** All that is known of one head: its profile, where it is strongest, which heads are like it, and the reader's note. */

import { type Corpus, corpusOf } from "./table";
import { h, on } from "../dom";
import { editRow, togglePin } from "../model/actions";
import { number } from "../model/format";
import { visible } from "../model/tokens";
import type { Context } from "../views/context";
import { openDialog } from "../views/dialog";
import { contextLine } from "./occurrences";

interface CardsJson {
  readonly classes: readonly string[];
  readonly position: readonly (readonly (number | null)[])[];
  readonly kinds: readonly (readonly (number | null)[])[];
  readonly top: readonly (readonly (readonly [number, number, number])[])[];
  readonly near: readonly (readonly (readonly [number, number])[])[];
  readonly role: readonly (readonly [string, string])[];
}

function bars(names: readonly string[], values: readonly (number | null)[]): HTMLElement {
  const most = Math.max(1e-30, ...values.map((value) => value ?? 0));
  const line = (name: string, i: number): Node[] => [
    h("dt", {}, name),
    h("dd", {}, h("span", { class: "bar-track" }, h("span", { class: "bar", style: { width: `${((values[i] ?? 0) / most) * 100}%` } }))),
    h("dd", { class: "value" }, number(values[i])),
  ];
  return h("dl", { class: "bars" }, names.map(line));
}

export async function openHeadCard(context: Context, key: string): Promise<void> {
  const { scene, collection, store } = context;
  const row = scene?.find(key);
  if (!scene || !row) return;
  const place = scene.set.rows.findIndex((one) => one.key === key);
  const cards = scene.side && scene.side === collection.sides[0] ? (collection.part("heads", 0) as CardsJson | null) : null;
  const note = h("textarea", { rows: 3, maxlength: 2000, "aria-label": "Note", placeholder: "Your note. The address, the JSON and a saved page keep it." });
  note.value = store.state.edits[key]?.note ?? "";
  on(note, "change", () => store.set(editRow(store.state, key, { note: note.value })));
  const corpus = cards ? await corpusOf(collection) : null;
  const stats = h("p", {}, `In this document: mean ${number(scene.statistic("mean", row, true))}, largest ${number(scene.statistic("max", row, true))}, smallest ${number(scene.statistic("min", row, true))}.`);
  openDialog(context.host, `${visible(row.name)}${scene.side ? ` \u00b7 ${visible(scene.side.layers[row.base.gridRow]?.name ?? "")}` : ""}`, [stats, cards && corpus ? parts(context, cards, corpus, place) : null, h("label", {}, h("h3", {}, "Note"), note)], true);
}

function parts(context: Context, cards: CardsJson, corpus: Corpus, place: number): Node[] {
  const { store, scene } = context;
  const [role, why] = cards.role[place] ?? ["", ""];
  const bins = cards.position[place] ?? [];
  const near = (cards.near[place] ?? []).flatMap(([other, likeness]) => {
    const row = scene?.set.rows[other];
    return row ? [h("button", { class: "chip", onclick: () => store.set(togglePin(store.state, row.key)) }, `${row.name} ${number(likeness)}`)] : [];
  });
  const top = cards.top[place] ?? [];
  const most = Math.max(1e-30, ...top.map((one) => one[2]));
  const percent = (bin: number): string => `${Math.round((100 * bin) / bins.length)}\u2013${Math.round((100 * (bin + 1)) / bins.length)}%`;
  return [
    ...(role ? [h("p", {}, h("b", {}, `Role, judged by the diagonal alone: ${role}. `), h("span", { class: "note" }, why))] : []),
    h(
      "div",
      { class: "head-card" },
      h("section", {}, h("h3", {}, "By place in the text"), bars(bins.map((_, bin) => percent(bin)), bins)),
      h("section", {}, h("h3", {}, "By kind of token"), bars(cards.classes, cards.kinds[place] ?? []), h("h3", {}, "Most similar heads (correlation; click to pin)"), h("p", { class: "inline wrap" }, near)),
    ),
    h("section", {}, h("h3", {}, "Where it is strongest in all documents"), h("div", { class: "context-lines" }, top.map(([document, token, value]) => contextLine(context, corpus, { document, token, value }, most)))),
  ];
}
