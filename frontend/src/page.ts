/** The page as a file: data from its script elements, state in its address. */

import { readEmbedded } from "./data/embedded";
import { DataFault } from "./data/types";
import { h, on } from "./dom";
import { fromHash } from "./model/hash";
import { Trail } from "./model/trail";
import { App } from "./views/app";
import "./views/kit";

function part(id: string): string | null {
  return document.getElementById(`attviz-${id}`)?.textContent ?? null;
}

function text(id: string): string {
  const found = part(id);
  if (found === null) throw new DataFault(`This file is incomplete: attviz-${id} is missing. Make the page again.`);
  return found;
}

function address(): string {
  try {
    // A page that was saved with its view carries it; an address says more.
    return decodeURIComponent(location.hash) === "" ? (part("state") ?? "") : location.hash;
  } catch {
    return "";
  }
}

function start(): void {
  const host = document.getElementById("attviz-root");
  if (!host) return;
  host.classList.add("attviz", "attviz-file");
  try {
    const collection = readEmbedded(text("head"), (index) => text(`doc-${index}`), part);
    const app = new App(host, collection, { start: fromHash(address()), keys: document, step: (by) => trail.go(by), file: true });
    const trail = new Trail(app.store, { write: remember });
    on(window, "popstate", () => trail.moved(address()));
  } catch (error) {
    host.replaceChildren(h("p", { class: "boot", role: "alert" }, error instanceof DataFault ? error.message : `The page cannot start: ${String(error)}`));
  }
}

/** Inside a notebook's frame there may be no address to write. */
function remember(hash: string, step: boolean): void {
  try {
    const url = hash ? `#${hash}` : location.pathname + location.search;
    if (step) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  } catch {
    return;
  }
}

start();
