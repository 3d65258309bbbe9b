/** Steps that can be taken back: each is an address, so that undo, Back and a link are one thing. */

import { fromHash, steady, toHash } from "./hash";
import type { Key, Store } from "./state";

const DELAY_MS = 200;
/** What changes many times in a row is one step. */
const FLOWING: ReadonlySet<Key> = new Set(["window", "filters", "token"]);
const FLOW_MS = 1500;
const KEPT = 200;

export interface Place {
  /** A new step, or the present one written anew. */
  write(hash: string, step: boolean): void;
}

export class Trail {
  readonly #steps: string[] = [];
  #at = -1;
  #timer = 0;
  #last: { keys: string; time: number } = { keys: "", time: 0 };
  readonly #changed = new Set<Key>();

  constructor(
    private readonly store: Store,
    private readonly place: Place | null,
  ) {
    store.subscribe((keys) => {
      for (const key of keys) this.#changed.add(key);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#note(), DELAY_MS);
    });
  }

  #note(): void {
    const hash = toHash(this.store.state);
    const kept = [...this.#changed].filter((key) => !key.startsWith("hover"));
    this.#changed.clear();
    if (hash === this.#steps[this.#at]) return;
    const keys = kept.join();
    const now = Date.now();
    const flows = kept.every((key) => FLOWING.has(key)) && keys === this.#last.keys && now - this.#last.time < FLOW_MS;
    this.#last = { keys, time: now };
    const step = this.#at >= 0 && !flows;
    this.#steps.length = this.#at + 1;
    if (step || this.#at < 0) this.#steps.push(hash);
    else this.#steps[this.#at] = hash;
    if (this.#steps.length > KEPT) this.#steps.shift();
    this.#at = this.#steps.length - 1;
    this.place?.write(hash, step);
  }

  /** Goes a step back (-1) or forward (1); says whether there was one. */
  go(by: -1 | 1): boolean {
    clearTimeout(this.#timer);
    this.#note();
    const hash = this.#steps[this.#at + by];
    if (hash === undefined) return false;
    this.#at += by;
    this.place?.write(hash, false);
    this.store.set({ ...steady(), ...fromHash(hash) });
    return true;
  }

  /** The reader went to an address by the browser's own buttons. */
  moved(hash: string): void {
    const found = this.#steps.lastIndexOf(hash.replace(/^#/, ""));
    if (found >= 0) this.#at = found;
    this.store.set({ ...steady(), ...fromHash(hash) });
  }
}
