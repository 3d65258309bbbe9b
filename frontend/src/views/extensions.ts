/**
 * Views that come in a second script, embedded only when a page's data needs them (src/corpus, src/images, src/pairs).
 *
 * The second script runs first and calls `extend`; the page makes a tab for each extension whose name the collection lists.
 * Its view is made when its tab is opened for the first time, is told of changes while it is open, and of everything when it
 * is opened. What it must remember goes into `state.extra` under keys that begin with its name ("pairs.head"): the address keeps it.
 */

import type { Collection } from "../data/types";
import type { Surface } from "../draw/surface";
import type { Change, Context, View } from "./context";

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

/** What stands in place of the text where the tokens are patches of an image. */
export interface Picture {
  readonly element: HTMLElement;
  update(change: Change): void;
  draw(surface: Surface, left: number, top: number, width: number): void;
  pictureHeight(width: number): number;
}

export interface Extension {
  /** Prefix of its parts (`collection.part("pairs", index)`), and its tab in the address if `tab` is not given. */
  readonly name: string;
  readonly tab?: string;
  /** On its tab, if it has one. */
  readonly title?: string;
  make?(context: Context): View;
  picture?(context: Context): Picture;
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

/** Those that have a tab to show of a collection. */
export function extensionsOf(collection: Collection): readonly Extension[] {
  return (place.attvizExtensions ?? []).filter((one) => one.make && (one.suits?.(collection) ?? collection.extensions.includes(one.name)));
}

/** Null where the page has no images. */
export function pictureOf(context: Context): Picture | null {
  return place.attvizExtensions?.find((one) => one.picture)?.picture?.(context) ?? null;
}

export function tabOf(extension: Extension): string {
  return extension.tab ?? extension.name;
}

export function toolsOf(collection: Collection): Tools | null {
  return extensionsOf(collection).find((one) => one.tools)?.tools ?? null;
}
