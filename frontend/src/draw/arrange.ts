/** Where series, matrix, token names and minimap stand in their one figure. */

import type { Palette } from "../model/color";
import type { Scene } from "../model/scene";
import { type MatrixData, matrixData, matrixLayout, type MatrixLayout, namesHeight } from "./matrix";
import { foreign, type ValueAxis, valueAxis } from "./series";
import { type TokenAxis, tokenAxis } from "./xaxis";

export const LEFT = 58;
const RIGHT = 8;
/** Room for the tree of the clusters. */
export const TREE = 42;
export const MINIMAP = 26;
/** Height that the series keeps where the matrix could take it. */
export const LEAST = 84;
/** Pixels that a row of the matrix gets before the cards beside it get empty space, up to a limit. */
export const ROW = 2;
export const MOST = 420;

export interface SeriesLayout {
  /** What it was made for. */
  readonly scene: Scene;
  readonly width: number;
  readonly height: number;
  readonly axis: TokenAxis;
  readonly values: ValueAxis;
  readonly matrix: MatrixLayout;
  readonly data: MatrixData;
  readonly seriesHeight: number;
  readonly matrixTop: number;
  readonly namesTop: number;
  readonly minimapTop: number | null;
}

/** `last` is the layout before, whose matrix is kept where it would come out the same. */
export function arrangeSeries(scene: Scene, palette: Palette, width: number, height: number, last: SeriesLayout | null, picture: boolean): SeriesLayout {
  const { window } = scene.state;
  const to = Math.min(window?.[1] ?? scene.tokens, scene.tokens);
  const from = Math.min(window?.[0] ?? 0, Math.max(0, to - 1));
  const axis = tokenAxis(from, to, LEFT, width - LEFT - RIGHT - (clusterTree(scene) ? TREE : 0));
  const names = namesHeight(scene, axis);
  const overview = !picture && (window !== null || axis.step < 8);
  const body = height - names - (overview ? MINIMAP + 6 : 0) - 18;
  const matrix = matrixLayout(scene, Math.floor(Math.max(body * 0.4, Math.min(body - LEAST, Math.max(body * 0.64, scene.shown.length * ROW)))));
  const seriesHeight = body - matrix.height - 6;
  const same = last?.scene === scene && last.axis.from === from && last.axis.to === to && last.axis.width === axis.width && last.matrix.height === matrix.height;
  const data = same ? last.data : matrixData(scene, matrix, axis);
  const matrixTop = 8 + seriesHeight + 14;
  const values = valueAxis(scene, scene.pins(palette).filter((pin) => !foreign(scene, pin.key)), 8, seriesHeight);
  return { scene, width, height, axis, values, matrix, data, seriesHeight, matrixTop, namesTop: matrixTop + matrix.height + 4, minimapTop: overview ? height - MINIMAP : null };
}

/** The clusters, where the rows stand in their order. */
export function clusterTree(scene: Scene): NonNullable<NonNullable<Scene["side"]>["cluster"]> | null {
  return scene.state.arrange === "cluster" ? (scene.side?.cluster ?? null) : null;
}
