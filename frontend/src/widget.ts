/** The page as an anywidget: data from the model, the selection back to it. */

import { readEmbedded } from "./data/embedded";
import { h } from "./dom";
import { Trail } from "./model/trail";
import type { State } from "./model/state";
import { App } from "./views/app";
import "./views/kit";

declare const ATTVIZ_CSS: string;

interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
}

function selection(state: State): Record<string, unknown> {
  const hidden = Object.entries(state.edits).filter(([, edit]) => edit.hidden || edit.removed).map(([key]) => key);
  return { document: state.document, token: state.token, pinned: [...state.pins], isolated: state.focus ? [...state.focus] : null, hidden };
}

function render({ model, el }: { model: Model; el: HTMLElement }): void {
  const root = el.attachShadow({ mode: "open" });
  const host = h("div", { class: "attviz attviz-widget", tabindex: "-1" });
  root.append(h("style", {}, ATTVIZ_CSS, String(model.get("_style") ?? "")), host);
  const chunks = model.get("_chunks") as readonly string[];
  const parts = model.get("_parts") as Readonly<Record<string, string>> | undefined;
  try {
    const collection = readEmbedded(String(model.get("_head")), (index) => String(chunks[index]), (name) => parts?.[name] ?? null);
    const app = new App(host, collection, { start: {}, keys: host, step: (by) => trail.go(by), file: false });
    const trail = new Trail(app.store, null);
    let last = "";
    const tell = (): void => {
      const now = selection(app.store.state);
      const text = JSON.stringify(now);
      if (text === last) return;
      last = text;
      model.set("selection", now);
      model.save_changes();
    };
    app.store.subscribe(tell);
    tell();
  } catch (error) {
    host.replaceChildren(h("p", { class: "boot", role: "alert" }, `The page cannot start: ${String(error)}`));
  }
}

export default { render };
