/** What every view is given. */

import type { Collection } from "../data/types";
import type { Palette } from "../model/color";
import type { Scene } from "../model/scene";
import type { Key, State, Store } from "../model/state";

export interface Context {
  /** The element that holds the page: theme, keys and dialogs belong to it. */
  readonly host: HTMLElement;
  /** A file, not a cell of a notebook. */
  readonly file: boolean;
  readonly store: Store;
  collection: Collection;
  /** Null until the first document is read, or where it has no vectors. */
  scene: Scene | null;
  palette: Palette;
  /** Tells screen readers. */
  say(text: string): void;
  /** Tells everybody, until it is closed. */
  notice(text: string, kind: "error" | "info"): void;
  download(name: string, blob: Blob): void;
  openFile(file: File): void;
}

export class Change {
  constructor(
    private readonly keys: ReadonlySet<Key>,
    /** The scene, the theme or the size is new: draw everything. */
    readonly full: boolean,
    /** Another collection is open. */
    readonly data: boolean,
  ) {}

  has(...keys: readonly Key[]): boolean {
    return this.full || keys.some((key) => this.keys.has(key));
  }

  /** Sizes may be others than before. */
  get measure(): boolean {
    return this.data || (this.full && this.keys.size === 0);
  }

  /** One of the keys changed, or the page is painted anew (theme, size): not each time the scene is. */
  lists(...keys: readonly Key[]): boolean {
    return this.measure || keys.some((key) => this.keys.has(key));
  }
}

export interface View {
  readonly element: HTMLElement;
  update(change: Change): void;
}

/** A drag goes on where it leaves the figure, and ends where the button is let go. */
export function capture(target: Element, event: PointerEvent): void {
  try {
    target.setPointerCapture(event.pointerId);
  } catch {
    return; // a pointer that a script made up
  }
}

/** The token that counts now: under the pointer, else the pinned one. */
export function activeToken(state: State): number | null {
  return state.hoverToken ?? state.token;
}
