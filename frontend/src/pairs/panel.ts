/** What the pair views share: the card that holds them says what is chosen, and is told what is pointed at. */

import type { Surface } from "../draw/surface";
import type { Palette } from "../model/color";
import type { PairsData } from "./data";
import type { Layer } from "./layer";
import type { Choice } from "./options";
import type { Patches } from "./patches";

export interface Panel {
  readonly data: PairsData;
  readonly choice: Choice;
  readonly palette: Palette;
  /** The query that counts now: under the pointer, else pinned. */
  readonly query: number | null;
  /** The key under the pointer. */
  readonly key: number | null;
  /** Whether [CLS], [SEP] and their like are shown among the pairs of all tokens. */
  readonly special: boolean;
  /** The image whose patches the tokens of this layer are. */
  patches(layer: Layer): Patches | null;
  point(query: number | null, key: number | null): void;
  pin(query: number | null): void;
  /** Shows the matrix of a head that is pointed at; null goes back to what is chosen. */
  preview(layer: number | null, head: number): void;
  /** The pictures of the model view are complete. */
  filled(): void;
  /** Opens the head view of one head. */
  isolate(layer: number, head: number): void;
  stepLayer(by: -1 | 1): void;
  /** Writes the line below the views. */
  tell(text: string): void;
  /** Tells screen readers. */
  say(text: string): void;
}

export interface Drawing {
  readonly width: number;
  readonly height: number;
  draw(surface: Surface): void;
}

/** One of the views. */
export interface Part {
  readonly element: HTMLElement;
  open(layer: Layer): void;
  /** The size changed. */
  resize(): void;
  /** The choice, the palette or what is pointed at changed. */
  update(): void;
  /** All of it, for a file; null where there is nothing to draw. */
  drawing(): Promise<Drawing | null>;
  /** A query was pointed at elsewhere. */
  reveal?(query: number): void;
  /** Stops work that is on its way. */
  close(): void;
}
