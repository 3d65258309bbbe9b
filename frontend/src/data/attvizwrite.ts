/** The page's state as AttViz JSON: names, colours, order and visibility as the reader left them, values to the last bit of float32. */

import type { Palette } from "../model/color";
import { Scene } from "../model/scene";
import { aggregateOf, type State } from "../model/state";
import { single } from "./csv";
import { GRID_NAME } from "./rows";
import type { Collection, PageDocument, TokenSet } from "./types";

interface VectorJson {
  name: string;
  /** Where the vector stands, whatever it was renamed to. */
  layer?: number;
  head?: number;
  note?: string;
  /** Tokens without a value: the format has no other way to say so than a 0. */
  missing?: number[];
  color?: string;
  visible: boolean;
  vectors: number[];
}

function vectors(scene: Scene, palette: Palette): { key: string; json: VectorJson }[] {
  const pins = new Map(scene.pins(palette).map((pin) => [pin.key, pin]));
  const plain = (values: Float32Array): number[] => Array.from(values, (value) => (Number.isNaN(value) ? 0 : single(value)));
  const rows = scene.rows.map((row) => {
    const color = row.color ?? pins.get(row.key)?.color;
    const place = GRID_NAME.exec(row.base.key);
    const missing = Array.from(row.values.keys()).filter((token) => Number.isNaN(row.values[token]));
    const note = scene.state.edits[row.key]?.note;
    return {
      key: row.key,
      json: {
        name: row.name,
        ...(place ? { layer: Number(place[1]), head: Number(place[2]) } : {}),
        ...(color ? { color } : {}),
        visible: !row.hidden,
        ...(note ? { note } : {}),
        ...(missing.length ? { missing } : {}),
        vectors: plain(row.values),
      },
    };
  });
  const aggregates = [...pins.values()].flatMap((pin) => {
    const name = aggregateOf(pin.key);
    // Values of the format lie in [0, 1]: of the aggregates only Shannon's entropy can leave that.
    return name && !scene.plain(name).some((value) => value > 1) ? [{ key: pin.key, json: { name: pin.name, color: pin.color, visible: !pin.hidden, vectors: plain(scene.plain(name)) } }] : [];
  });
  return [...rows, ...aggregates];
}

function setJson(document: PageDocument, set: TokenSet, place: number, text: string, state: State, palette: Palette): { json: object; keys: string[] } {
  const scene = new Scene(document, set, text, { ...state, set: place, sets: { [place]: { hidden: false } }, scale: "raw", focus: null, special: "in" });
  const rows = vectors(scene, palette);
  return {
    json: { name: set.name, visible: !(state.sets[place]?.hidden ?? !set.visible), tokens: set.tokens, special: set.special.flatMap((special, i) => (special ? [i] : [])), attention_vectors: rows.map((row) => row.json) },
    keys: rows.map((row) => row.key),
  };
}

async function documentJson(collection: Collection, index: number, state: State, palette: Palette): Promise<object> {
  const document = await collection.load(index);
  const row = collection.rows[index];
  const places = document.sets.map((_, place) => place).filter((place) => !state.sets[place]?.removed);
  const sets = places.map((place) => setJson(document, document.sets[place] as TokenSet, place, row?.text ?? "", state, palette));
  const block = Math.max(0, places.indexOf(state.set));
  const tinted = sets[block]?.keys.indexOf(state.tint) ?? -1;
  const activations = (row?.probabilities ?? []).flatMap((value, i) => (value === null ? [] : [{ name: collection.classes[i] ?? `class ${i}`, value }]));
  return {
    ...(row?.name ? { name: row.name } : {}),
    text: row?.text ?? "",
    ...(row && row.label !== null ? { label: collection.classes[row.label] ?? `class ${row.label}` } : {}),
    output_activations: activations,
    ...(tinted >= 0 ? { hilight: { block, vectors: tinted } } : {}),
    sets: sets.map((set) => set.json),
  };
}

/** Parts of the file, for a Blob: one string of everything would be too long for large analyses. */
export async function attvizJson(collection: Collection, indices: readonly number[], state: State, palette: Palette): Promise<string[]> {
  const parts: string[] = ["[\n"];
  for (const [i, index] of indices.entries()) {
    parts.push(JSON.stringify(await documentJson(collection, index, state, palette)), i + 1 < indices.length ? ",\n" : "\n");
  }
  parts.push("]\n");
  return parts;
}
