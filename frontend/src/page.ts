/** The page as a file: data from its script elements, state in its address. */

import { readEmbedded } from "./data/embedded";
import { DataFault } from "./data/types";
import { h } from "./dom";
import { fromHash, toHash } from "./model/hash";
import { App } from "./views/app";

const HASH_DELAY_MS = 200;

function text(id: string): string {
  const element = document.getElementById(id);
  if (!element) throw new DataFault(`This file is incomplete: ${id} is missing. Make the page again.`);
  return element.textContent ?? "";
}

function address(): string {
  try {
    return decodeURIComponent(location.hash) === "" ? "" : location.hash;
  } catch {
    return "";
  }
}

function start(): void {
  const host = document.getElementById("attviz-root");
  if (!host) return;
  host.classList.add("attviz", "attviz-file");
  try {
    const collection = readEmbedded(
      text("attviz-head"),
      (index) => text(`attviz-doc-${index}`),
      (name) => document.getElementById(`attviz-${name}`)?.textContent ?? null,
    );
    const app = new App(host, collection, { start: fromHash(address()), keys: document });
    let timer = 0;
    app.store.subscribe(() => {
      clearTimeout(timer);
      timer = setTimeout(() => remember(toHash(app.store.state)), HASH_DELAY_MS);
    });
    window.addEventListener("hashchange", () => app.store.set(fromHash(address())));
  } catch (error) {
    host.replaceChildren(h("p", { class: "boot", role: "alert" }, error instanceof DataFault ? error.message : `The page cannot start: ${String(error)}`));
  }
}

/** Inside a notebook's frame there may be no address to write. */
function remember(hash: string): void {
  try {
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  } catch {
    return;
  }
}

start();
