/** What a page in a file reads: its data from script elements, its state from the address. */

import { readEmbedded } from "./data/embedded";
import { type Collection, DataFault } from "./data/types";
import { h } from "./dom";

function part(id: string): string | null {
  return document.getElementById(`attviz-${id}`)?.textContent ?? null;
}

function text(id: string): string {
  const found = part(id);
  if (found === null) throw new DataFault(`This file is incomplete: attviz-${id} is missing. Make the page again.`);
  return found;
}

export function address(): string {
  try {
    // A page that was saved with its view carries it; an address says more.
    return decodeURIComponent(location.hash) === "" ? (part("state") ?? "") : location.hash;
  } catch {
    return "";
  }
}

/** Reads the data and starts; what goes wrong stands in place of the page. */
export function open(start: (host: HTMLElement, collection: Collection) => void): void {
  const host = document.getElementById("attviz-root");
  if (!host) return;
  host.classList.add("attviz", "attviz-file");
  try {
    start(host, readEmbedded(text("head"), (index) => text(`doc-${index}`), part));
  } catch (error) {
    host.replaceChildren(h("p", { class: "boot", role: "alert" }, error instanceof DataFault ? error.message : `The page cannot start: ${String(error)}`));
  }
}
