/** The numbers behind the figures as real tables: for screen readers, and for whoever wants to read off a value. */

import { fill, h, note } from "../dom";
import { AGGREGATE_NAMES, AGGREGATES, STATISTICS } from "../model/aggregate";
import { number } from "../model/format";
import { visible } from "../model/tokens";
import type { Context } from "./context";
import { openDialog } from "./dialog";

const PAGE = 100;

function table(caption: string, head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  return h(
    "table",
    { class: "plain" },
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: i && text !== "token" ? "value" : null }, text)))),
    h("tbody", {}, rows.map(([first, ...rest]) => h("tr", {}, h("th", { scope: "row" }, first), rest.map((text, i) => h("td", { class: head[i + 1] === "token" ? "name" : "value" }, text))))),
  );
}

export function openTables(context: Context): void {
  const { scene, palette } = context;
  if (!scene) return;
  const holder = h("div");
  let start = 0;
  let vectors = false;
  const draw = (): void => {
    const count = vectors ? scene.rows.length : scene.tokens;
    const end = Math.min(count, start + PAGE);
    const turn = (by: number) => () => {
      start = Math.min(Math.max(0, start + by), Math.max(0, count - 1));
      draw();
    };
    const pager = h(
      "p",
      { class: "pager" },
      h("button", { onclick: () => ((vectors = !vectors), (start = 0), draw()) }, vectors ? "show tokens" : "show vectors"),
      h("button", { disabled: start === 0, onclick: turn(-PAGE) }, "previous"),
      h("button", { disabled: end >= count, onclick: turn(PAGE) }, "next"),
      note(`${start} to ${end - 1} of ${count}`),
    );
    fill(holder, pager, vectors ? vectorTable() : tokenTable(end));
  };
  const tokenTable = (end: number): HTMLElement => {
    const pins = scene.pins(palette);
    const head = ["#", "token", ...AGGREGATES.map((name) => AGGREGATE_NAMES[name]), ...pins.map((pin) => visible(pin.name))];
    const rows = Array.from({ length: end - start }, (_, i) => start + i).map((token) => [
      String(token),
      scene.pieces[token]?.text ?? "",
      ...AGGREGATES.map((name) => number(scene.aggregate(name)[token])),
      ...pins.map((pin) => number(pin.values[token])),
    ]);
    return table(`Every token, on the scale ${scene.scale}`, head, rows);
  };
  const vectorTable = (): HTMLElement => {
    const rows = scene.rows.slice(start, start + PAGE).map((row) => [visible(row.name), ...STATISTICS.map((name) => number(scene.statistic(name, row)))]);
    return table("Every vector over this document", ["vector", ...STATISTICS], rows);
  };
  draw();
  openDialog(context.host, "The numbers", holder, true);
}
