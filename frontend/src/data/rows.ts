/** Where the vectors of a token set stand in the heat map, and by which key the reader's edits find them again. */

import { cleanColor } from "../model/color";
import type { BaseRow, Layer } from "./types";

export interface RowPlan {
  readonly rows: readonly BaseRow[];
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
}

export interface NamedVector {
  readonly name: string | number | null;
  readonly color: string | null;
  readonly visible: boolean;
  /** "L0\u00b7H3" where the file says where the vector stands. */
  readonly place?: string | null;
}

export const GRID_NAME = /^L(\d{1,4})\u00b7H(\d{1,4})$/;
const WRAP = 16;

export function gridRows(layers: readonly Layer[], heads: readonly number[]): RowPlan {
  const rows: BaseRow[] = [];
  layers.forEach((layer, gridRow) =>
    heads.forEach((head, gridColumn) => {
      const name = `L${layer.index}\u00b7H${head}`;
      rows.push({ key: name, name, color: null, visible: true, gridRow, gridColumn });
    }),
  );
  return { rows, rowLabels: layers.map((layer) => `L${layer.index}`), columnLabels: heads.map(String) };
}

/** Vectors with names only: names that say layer and head make a grid again, others stand in lines of sixteen. */
export function namedRows(vectors: readonly NamedVector[], set: number): RowPlan {
  const names = vectors.map((vector, place) => (vector.name === null || vector.name === "" ? String(place) : String(vector.name)));
  const seen = new Map<string, number>();
  const keys = names.map((name) => {
    const count = seen.get(name) ?? 0;
    seen.set(name, count + 1);
    return `s${set}:${name}${count ? `#${count}` : ""}`;
  });
  const grid = vectors.map((vector, place) => vector.place ?? (names[place] as string));
  const places = grid.map((name) => GRID_NAME.exec(name));
  const placed = places.length > 0 && places.every((match) => match !== null) && new Set(grid).size === grid.length;
  const layers = placed ? [...new Set(places.map((match) => Number(match?.[1])))].sort((a, b) => a - b) : [];
  const heads = placed ? [...new Set(places.map((match) => Number(match?.[2])))].sort((a, b) => a - b) : [];
  const rows = vectors.map((vector, place): BaseRow => {
    const match = places[place];
    return {
      key: placed ? (grid[place] as string) : (keys[place] as string),
      name: names[place] as string,
      color: cleanColor(vector.color),
      visible: vector.visible,
      gridRow: placed ? layers.indexOf(Number(match?.[1])) : Math.floor(place / WRAP),
      gridColumn: placed ? heads.indexOf(Number(match?.[2])) : place % WRAP,
    };
  });
  if (placed) return { rows, rowLabels: layers.map((layer) => `L${layer}`), columnLabels: heads.map(String) };
  const lines = Math.ceil(vectors.length / WRAP);
  return {
    rows,
    rowLabels: Array.from({ length: lines }, (_, line) => (lines === 1 ? "" : String(line * WRAP))),
    columnLabels: Array.from({ length: Math.min(WRAP, vectors.length) }, (_, column) => (lines === 1 ? (names[column] as string) : `+${column}`)),
  };
}
