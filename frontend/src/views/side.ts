/** The right column: class probabilities and the token. */

import { card, fill, h, note } from "../dom";
import type { Aggregate } from "../model/aggregate";
import { number, percent } from "../model/format";
import { correct } from "../model/search";
import { visible } from "../model/tokens";
import { activeToken, type Change, type Context, type View } from "./context";
import { openDialog } from "./dialog";
import { toolsOf } from "./extensions";

const SHOWN_CLASSES = 6;
/** A longer name does not fit half the card. */
const LONG_NAME = 10;

export function className(context: Context, index: number | null): string {
  return index === null ? "" : visible(context.collection.classes[index] ?? `class ${index}`);
}

export function classColor(context: Context, index: number): string {
  const { classes } = context.palette;
  return classes[index % classes.length] as string;
}

export class ClassView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #body = h("div");
  readonly #note = note();
  readonly #details = h("button", { class: "link", onclick: () => this.#open() }, "details");

  constructor(context: Context) {
    this.#context = context;
    this.element = card("class", "Class", null, [this.#note, this.#details], this.#body);
  }

  #scores(): { index: number; share: number }[] {
    const row = this.#context.collection.rows[this.#context.store.state.document];
    const scores = (row?.probabilities ?? []).map((share, index) => ({ index, share: share ?? NaN }));
    return scores.filter((score) => !Number.isNaN(score.share)).sort((a, b) => b.share - a.share);
  }

  update(change: Change): void {
    if (!change.lists("document")) return;
    const { store, collection } = this.#context;
    this.element.hidden = !collection.classes.length;
    const row = collection.rows[store.state.document];
    const scores = this.#scores();
    this.#details.hidden = scores.length === 0;
    const right = row ? correct(row) : null;
    this.#note.textContent = row?.label === null || row === undefined ? "" : `label ${className(this.#context, row.label)} ${right === null ? "" : right ? "\u2713" : "\u2717"}`;
    if (!scores.length) {
      fill(this.#body, h("p", { class: "empty" }, row?.prediction !== null && row !== undefined ? `predicted ${className(this.#context, row.prediction)}` : "This document has no class probabilities."));
      return;
    }
    const total = scores.reduce((sum, score) => sum + Math.max(0, score.share), 0) || 1;
    const bar = h("div", { class: "class-bar", role: "img", "aria-label": scores.slice(0, SHOWN_CLASSES).map((score) => `${className(this.#context, score.index)} ${percent(score.share)}`).join(", ") });
    for (const score of scores) {
      const width = `${(Math.max(0, score.share) / total) * 100}%`;
      bar.append(h("span", { title: `${className(this.#context, score.index)} ${percent(score.share)}`, style: { width, "background-color": classColor(this.#context, score.index) } }));
    }
    const list = scores.slice(0, SHOWN_CLASSES).map((score, place) =>
      h("li", { class: place === 0 ? "best" : null }, h("span", { class: "square", style: { "background-color": classColor(this.#context, score.index) } }), h("span", { class: "class-name" }, className(this.#context, score.index)), h("span", { class: "value" }, percent(score.share))),
    );
    const rest = scores.length - SHOWN_CLASSES;
    const long = scores.slice(0, SHOWN_CLASSES).some((score) => className(this.#context, score.index).length > LONG_NAME);
    fill(this.#body, bar, h("ul", { class: long ? "classes long" : "classes" }, list), rest > 0 && h("p", { class: "note" }, `and ${rest} more`));
  }

  #open(): void {
    const scores = this.#scores();
    const best = scores[0];
    const rows = scores.map((score) => h("tr", {}, h("td", {}, className(this.#context, score.index)), h("td", { class: "value" }, String(Number(score.share.toPrecision(6)))), h("td", { class: "value" }, percent(score.share))));
    const head = h("thead", {}, h("tr", {}, ["class", "score", "share"].map((text) => h("th", { scope: "col" }, text))));
    const intro = best && h("p", {}, "The class with the highest score, ", h("strong", {}, percent(best.share)), ", is ", h("strong", {}, className(this.#context, best.index)), ".");
    openDialog(this.#context.host, "Class probabilities", [intro ?? null, h("table", { class: "plain" }, head, h("tbody", {}, rows))]);
  }
}

export class TokenView implements View {
  readonly #context: Context;
  readonly element: HTMLElement;
  readonly #body = h("div", { class: "token-body" });

  constructor(context: Context) {
    this.#context = context;
    this.element = card("token", "Token", null, note("Esc unpins"), this.#body);
  }

  update(change: Change): void {
    if (!change.has("token", "hoverToken", "hoverRow", "edits", "focus")) return;
    const { scene, store } = this.#context;
    const token = activeToken(store.state);
    if (!scene || token === null || token >= scene.tokens) {
      fill(this.#body, h("p", { class: "empty" }, "Point at a token to see its numbers; click to keep them."));
      return;
    }
    if (scene.without && scene.set.special[token]) {
      fill(this.#body, h("p", { class: "token-name" }, h("strong", {}, scene.pieces[token]?.text), note(` #${token}`)), h("p", { class: "empty" }, "A special token, left out of every number. The switch at the top includes it."));
      return;
    }
    const value = (name: Aggregate): string => number(scene.aggregate(name)[token]);
    let best: { name: string; value: number } | null = null;
    for (const row of scene.counted) {
      const one = row.values[token] as number;
      if (one === one && (!best || one > best.value)) best = { name: row.name, value: one };
    }
    const hovered = store.state.hoverRow;
    const own = hovered ? scene.valuesOf(hovered) : null;
    const pair = (name: string, text: string, wide = false): Node[] => [h("dt", {}, name), h("dd", { class: wide ? "wide" : null }, text)];
    const raw = scene.set.tokens[token] ?? "";
    const tools = toolsOf(this.#context.collection);
    fill(
      this.#body,
      h("p", { class: "token-name" }, h("strong", {}, scene.pieces[token]?.text), note(` #${token}${raw !== scene.pieces[token]?.text ? ` \u00b7 ${visible(raw)}` : ""}`)),
      h("dl", { class: "stats" }, pair("mean", value("mean")), pair("std", value("std")), pair("min", value("min")), pair("max", value("max")), pair("range", value("range")), scene.side?.measure ? null : pair("lift", number((scene.plain("mean")[token] as number) * scene.visibleKeys(token)))),
      h("dl", { class: "stats single" }, pair("highest", best ? visible(best.name) : "\u2013", true), pair(hovered ? visible(scene.nameOf(hovered)) : "this vector", own ? number(own[token]) : "\u2013", true)),
      tools && h("button", { class: "link", onclick: () => void tools.openOccurrences(this.#context, raw) }, "this token in all documents"),
    );
  }
}

