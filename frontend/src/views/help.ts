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
  ["a value", "is the attention a token gives itself in one layer and head (a vector): the diagonal of the attention matrix. L0\u00b7H0 is the first layer's first head."],
  ["special", "[CLS], [SEP], padding and their like: out by default, in every number; the switch is at the top."],
  ["colours", "come from the values of this text, or of all; never from the window. Slanted lines: no value."],
  ["heat map", "click pins, a drag or a double-click isolates: only those vectors are drawn and counted, until Escape."],
  ["hide", "stops drawing a vector; it still counts. Remove takes it out of everything."],
  ["aggregates", "are made of vectors, never of other aggregates. std divides by n \u2212 1. Entropy: Table 2 of the AttViz paper, the binned one of its page, or Shannon's."],
  ["lift", "multiplies by the number of keys the token could see: 1 is uniform attention."],
  ["wheel", "with Ctrl zooms series and matrix; a drag chooses a part."],
];

export function openHelp(host: HTMLElement): void {
  openDialog(host, "Help", [
    h("dl", { class: "keys" }, KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])),
    h("dl", { class: "words" }, WORDS.map(([word, text]) => [h("dt", {}, word), h("dd", {}, text)])),
    h("p", { class: "note" }, "The address keeps what you see. Nothing on this page is sent anywhere."),
  ]);
}
