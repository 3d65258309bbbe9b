/**
 * Views that come in a second script, embedded only when a page's data needs them (src/corpus, src/pairs).
 *
 * The second script runs first and calls `extend`; the page makes a tab for each extension whose name the collection lists.
 * Its view is made when its tab is opened for the first time, is told of changes while it is open, and of everything when it
 * is opened. What it must remember goes into `state.extra` under keys that begin with its name ("pairs.head"): the address keeps it.
 */

import type { Collection } from "../data/types";
import type { Context, View } from "./context";

export interface Ranked {
  readonly word: string;
  readonly count: number;
  readonly value: number;
}

/** What the page itself calls where the script with the views of several documents is there. */
export interface Tools {
  openHeadCard(context: Context, key: string): Promise<void>;
  openOccurrences(context: Context, word: string): Promise<void>;
  ranking(collection: Collection, by: "value" | "lift", least: number, special: boolean): Promise<readonly Ranked[]>;
}

export interface Extension {
  /** Prefix of its parts (`collection.part("pairs", index)`), and its tab in the address if `tab` is not given. */
  readonly name: string;
  readonly tab?: string;
  /** On its tab. */
  readonly title: string;
  make(context: Context): View;
  /** Whether it has something to show; else the collection must list its name. */
  suits?(collection: Collection): boolean;
  readonly tools?: Tools;
}

const place = globalThis as unknown as { attvizExtensions?: Extension[] };

/** Called by the second script, once. */
export function extend(extension: Extension): void {
  const known = (place.attvizExtensions ??= []);
  const at = known.findIndex((one) => one.name === extension.name);
  if (at < 0) known.push(extension);
  else known[at] = extension; // a notebook runs the same script once for each widget
}

/** Those that have something to show of a collection. */
export function extensionsOf(collection: Collection): readonly Extension[] {
  return (place.attvizExtensions ?? []).filter((one) => one.suits?.(collection) ?? collection.extensions.includes(one.name));
}

export function tabOf(extension: Extension): string {
  return extension.tab ?? extension.name;
}

export function toolsOf(collection: Collection): Tools | null {
  return extensionsOf(collection).find((one) => one.tools)?.tools ?? null;
}
