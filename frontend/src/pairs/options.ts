/** What the reader chose in the pair views. It lives in the state of the page, so that the address keeps it. */

import { oneOf, type State, type Store } from "../model/state";
import type { PairsData } from "./data";

export const VIEWS = ["heads", "model", "neurons"] as const;
export type ViewName = (typeof VIEWS)[number];

export interface Choice {
  readonly view: ViewName;
  /** Place of the layer in the file. */
  readonly layer: number;
  /** Places of the shown heads within the layer, in order. */
  readonly heads: readonly number[];
  /** Pinned query token. */
  readonly query: number | null;
}

function whole(text: string | undefined): number | null {
  return text !== undefined && /^\d{1,6}$/.test(text) ? Number(text) : null;
}

/** The layer a reader comes from: that of the first pinned vector. */
function pinnedLayer(state: State, data: PairsData): number {
  for (const pin of state.pins) {
    const found = /^L(\d+)\u00b7H\d+$/.exec(pin);
    const place = found ? data.groups[0]?.places[Number(found[1])] : undefined;
    if (place !== undefined) return place;
  }
  return data.groups[0]?.places[0] ?? 0;
}

export function readChoice(state: State, data: PairsData): Choice {
  const { extra } = state;
  const asked = whole(extra["pairs.layer"]);
  const layer = asked !== null && asked < data.meta.layers.length ? asked : pinnedLayer(state, data);
  const meta = data.at(layer);
  const all = meta.heads.map((_, place) => place);
  const named = extra["pairs.heads"]?.split(",").map((text) => meta.heads.indexOf(whole(text) ?? -1)) ?? [];
  const heads = all.filter((place) => named.includes(place));
  const query = meta.q === 0 ? state.token : whole(extra["pairs.query"]);
  return {
    view: oneOf(VIEWS, extra["pairs.view"] ?? null, "heads"),
    layer,
    heads: heads.length ? heads : all,
    query: query !== null && query < meta.size[0] ? query : null,
  };
}

/** Writes a choice; heads are kept by their number in the model, none for all. */
export function choose(store: Store, data: PairsData, change: Partial<Choice>): void {
  const { state } = store;
  const now = { ...readChoice(state, data), ...change };
  const meta = data.at(now.layer);
  const extra: Record<string, string> = { ...state.extra, "pairs.view": now.view, "pairs.layer": String(now.layer) };
  const heads = now.heads.filter((place) => place < meta.heads.length);
  if (heads.length && heads.length < meta.heads.length) extra["pairs.heads"] = heads.map((place) => meta.heads[place]).join(",");
  else delete extra["pairs.heads"];
  const query = now.query !== null && now.query < meta.size[0] ? now.query : null;
  if (meta.q !== 0 && query !== null) extra["pairs.query"] = String(query);
  else delete extra["pairs.query"];
  store.set(meta.q === 0 ? { extra, token: query } : { extra });
}
