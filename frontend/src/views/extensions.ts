/**
 * Views that come in a second script, embedded only when a page's data needs them (src/pairs).
 *
 * The second script runs first and calls `extend`; the page makes a tab for each extension whose name the collection lists.
 * Its view is made when its tab is opened for the first time, is told of changes while it is open, and of everything when it
 * is opened. What it must remember goes into `state.extra` under keys that begin with its name ("pairs.head"): the address keeps it.
 */

import type { Context, View } from "./context";

export interface Extension {
  /** Prefix of its parts (`collection.part("pairs", index)`) and its tab in the address. */
  readonly name: string;
  /** On its tab. */
  readonly title: string;
  make(context: Context): View;
}

const place = globalThis as unknown as { attvizExtensions?: Extension[] };

/** Called by the second script, once. */
export function extend(extension: Extension): void {
  const known = (place.attvizExtensions ??= []);
  const at = known.findIndex((one) => one.name === extension.name);
  if (at < 0) known.push(extension);
  else known[at] = extension; // a notebook runs the same script once for each widget
}

/** Those that a collection has data for. */
export function extensionsOf(names: readonly string[]): readonly Extension[] {
  return (place.attvizExtensions ?? []).filter((one) => names.includes(one.name));
}
