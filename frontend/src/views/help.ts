/** What the page can do, in one dialog. */

import { h } from "../dom";
import { openDialog } from "./dialog";

const KEYS: readonly (readonly [string, string])[] = [
  ["\u2190 \u2192", "previous, next token (in the heat map: cell)"],
  ["\u2191 \u2193", "previous, next document (in the heat map: cell)"],
  ["Enter", "pin the token (in the heat map: the vector)"],
  ["Space", "in the heat map: isolate the vector"],
  ["+ \u2212 0", "zoom series and matrix in, out, all"],
  ["i", "about the vector under the pointer: profile, places, note"],
  ["Ctrl Z", "undo; Ctrl Shift Z redo; Back and Forward too"],
  ["/", "search the documents"],
  ["t", "the numbers as tables"],
  ["e", "export pictures, CSV, JSON"],
  ["o", "open an AttViz JSON file (or drop it on the page)"],
  ["d", "theme: system, light, dark"],
  ["?", "this help"],
  ["Esc", "close, unpin, show all"],
];

const WORDS: readonly (readonly [string, string])[] = [
  ["vector", "the values of one layer and head. L0\u00b7H0 is the first head of the first layer."],
  ["special", "[CLS], [SEP], padding and the like: out of every number until you switch them in at the top."],
  ["colours", "fit the values of this text, or of all texts, and never depend on the window. Hatched: no value."],
  ["heat map", "a click pins, a drag or double-click isolates: only those vectors are drawn and counted until Escape."],
  ["hide", "stops drawing a vector, which still counts. Remove takes it out of everything."],
  ["aggregates", "are made of vectors, never of other aggregates. std divides by n \u2212 1. Entropy is that of Table 2 in the AttViz paper, the binned one of its page, or Shannon's."],
  ["lift", "multiplies a value by the number of keys the token could see: 1 is uniform attention."],
  ["wheel", "with Ctrl zooms series and matrix; drag to choose a part."],
];

/** `lead` says what a value is. */
export function openHelp(host: HTMLElement, lead = ""): void {
  openDialog(host, "Help", [
    h("dl", { class: "keys" }, KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])),
    h("p", {}, lead),
    h("dl", { class: "words" }, WORDS.map(([word, text]) => [h("dt", {}, word), h("dd", {}, text)])),
    h("p", { class: "note" }, "The address keeps your view. Nothing on this page is sent anywhere."),
  ]);
}
