/** The page as a file: data from its script elements, state in its address. */

import { on } from "./dom";
import { address, open } from "./file";
import { fromHash } from "./model/hash";
import { Trail } from "./model/trail";
import { App } from "./views/app";
import "./views/kit";

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

open((host, collection) => {
  const app = new App(host, collection, { start: fromHash(address()), keys: document, step: (by) => trail.go(by), file: true });
  const trail = new Trail(app.store, { write: remember });
  on(window, "popstate", () => trail.moved(address()));
});
