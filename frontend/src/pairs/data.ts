/** The pairs of the open document: layers are decoded when a view asks for them, and few are kept. */

import { type Collection, DataFault } from "../data/types";
import { type Layer, readLayer } from "./layer";
import { turn } from "./slices";
import { type LayerMeta, type PairsMeta, readMeta } from "./types";

const KEPT = 3;

/** Layers of one kind between the same two sides. */
export interface Group {
  readonly key: string;
  readonly name: string;
  /** Their places in the file. */
  readonly places: readonly number[];
}

export class PairsData {
  readonly groups: readonly Group[];
  private readonly kept = new Map<number, Promise<Layer>>();

  private constructor(
    private readonly collection: Collection,
    readonly document: number,
    readonly meta: PairsMeta,
  ) {
    this.groups = groupsOf(meta);
  }

  /** Null where this document has no pairs. */
  static open(collection: Collection, document: number): PairsData | null {
    const meta = readMeta(collection.part("pairs", document), document);
    return meta?.layers.length ? new PairsData(collection, document, meta) : null;
  }

  layer(place: number): Promise<Layer> {
    const known = this.kept.get(place);
    if (known) {
      this.kept.delete(place);
      this.kept.set(place, known);
      return known;
    }
    if (this.kept.size >= KEPT) this.kept.delete(this.kept.keys().next().value as number);
    // A task of its own: reading a layer of a long text takes milliseconds.
    const made = turn().then(() => readLayer(this.at(place), this.collection.part(`pairs-${this.document}`, place)));
    this.kept.set(place, made);
    return made;
  }

  at(place: number): LayerMeta {
    const meta = this.meta.layers[place];
    if (!meta) throw new DataFault(`There is no layer ${place} in the pairs of document ${this.document}.`);
    return meta;
  }

  groupOf(place: number): Group {
    return this.groups.find((group) => group.places.includes(place)) ?? (this.groups[0] as Group);
  }

  /** "L3": the number of a layer within its group. */
  label(place: number): string {
    return `L${Math.max(0, this.groupOf(place).places.indexOf(place))}`;
  }
}

function groupsOf(meta: PairsMeta): Group[] {
  const found = new Map<string, number[]>();
  meta.layers.forEach((layer, place) => {
    const key = `${layer.cross ? "cross" : "self"}.${layer.q}.${layer.k}`;
    found.set(key, [...(found.get(key) ?? []), place]);
  });
  const decodes = meta.layers.some((layer) => layer.cross);
  return [...found].map(([key, places]) => {
    const layer = meta.layers[places[0] as number] as LayerMeta;
    const name = layer.cross ? "cross-attention" : !decodes ? (found.size === 1 ? "self-attention" : `self-attention, ${layer.size.join(" \u00d7 ")}`) : layer.q === 0 ? "encoder" : "decoder";
    return { key, name, places };
  });
}
