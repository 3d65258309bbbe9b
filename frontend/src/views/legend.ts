/** What the marks of the series mean, and what the pointer is on. */

import { fill, h } from "../dom";
import { AGGREGATE_NAMES, isEntropy } from "../model/aggregate";
import { rampColor } from "../model/color";
import { number } from "../model/format";
import { SCALE_NOTES } from "../model/scale";
import type { Scene } from "../model/scene";
import { visible } from "../model/tokens";

function ramp(): HTMLElement {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((unit) => rampColor(unit)).join(", ");
  return h("span", { class: "ramp", style: { "background-image": `linear-gradient(90deg, ${stops})` } });
}

export const seriesLegend = {
  fill(element: HTMLElement, scene: Scene, stride: number, ramped: string): void {
    const name = AGGREGATE_NAMES[scene.state.aggregate];
    const entropy = isEntropy(scene.state.aggregate);
    const others = stride > 1 ? `other vectors (1 in ${stride})` : "other vectors";
    const title = `Colours of the matrix: ${SCALE_NOTES[scene.scale]}.${scene.scale === "lift" ? " All values are lifted." : ""}`;
    if (element.title === title && element.textContent === `${name}${entropy ? "" : `min\u2013maxextreme${others}`}${ramped}`) return;
    const item = (mark: Node, text: string): HTMLElement => h("span", { class: "legend-item" }, mark, text);
    const mark = (name: string): HTMLElement => h("span", { class: `mark mark-${name}` });
    fill(
      element,
      item(mark("line"), name),
      entropy ? null : [item(mark("band"), "min\u2013max"), item(mark("extreme"), "extreme"), item(mark("dot"), others)],
      item(ramp(), ramped),
    );
    element.title = title;
  },
  tip(scene: Scene, token: number, row: string | null): string {
    const { aggregate } = scene.state;
    const head = `${scene.pieces[token]?.text ?? ""} #${token} \u00b7 ${AGGREGATE_NAMES[aggregate]} ${number(scene.aggregate(aggregate)[token])}`;
    const values = row ? scene.valuesOf(row) : null;
    const set = scene.document.sets.length > 1 ? `${visible(scene.set.name)} \u00b7 ` : "";
    return row && values ? `${head}\n${set}${visible(scene.nameOf(row))} ${number(values[token])}` : head;
  },
};
