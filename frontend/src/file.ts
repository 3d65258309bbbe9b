/** What a page in a file reads: its data from script elements, its state from the address. */

import { readEmbedded } from "./data/embedded";
import { type Collection, DataFault } from "./data/types";
import { h } from "./dom";

/** Adler-32 of the UTF-16 code units, as attviz.viewer.html writes it beside each block of data. */
function checksum(text: string): string {
  let [a, b] = [1, 0];
  for (let start = 0; start < text.length; start += 1800) {
    const end = Math.min(start + 1800, text.length); // so many that b stays below 2 to the 31
    for (let i = start; i < end; i++) {
      const unit = text.charCodeAt(i);
      a += unit & 255;
      b += a;
      a += unit >> 8;
      b += a;
    }
    a %= 65521;
    b %= 65521;
  }
  return (b * 65536 + a).toString(16).padStart(8, "0");
}

function part(id: string): string | null {
  const block = document.getElementById(`attviz-${id}`);
  if (!block) return null;
  const text = block.textContent;
  if (block.dataset.sum && block.dataset.sum !== checksum(text)) throw new DataFault(`This file is damaged: attviz-${id} is not as it was written. Make the page again.`);
  return text;
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
  const told = new Set<string>();
  const tell = (event: Event, fault: unknown): void => {
    if (!(fault instanceof DataFault)) return; // a bug of ours belongs in the console
    event.preventDefault();
    if (!told.has(fault.message)) host.prepend(h("p", { class: "boot", role: "alert" }, fault.message));
    told.add(fault.message);
  };
  window.addEventListener("error", (event) => tell(event, event.error));
  window.addEventListener("unhandledrejection", (event) => tell(event, event.reason));
  try {
    start(host, readEmbedded(text("head"), (index) => text(`doc-${index}`), part));
  } catch (error) {
    host.replaceChildren(h("p", { class: "boot", role: "alert" }, error instanceof DataFault ? error.message : `The page cannot start: ${String(error)}`));
  }
}
