/** The aggregate as a line, band and extremes around it, the other vectors as dots, pinned rows in their colours. */

import { isEntropy } from "../model/aggregate";
import type { Palette } from "../model/color";
import { tick } from "../model/format";
import { quantileSorted } from "../model/quantile";
import type { Pin, Row, Scene } from "../model/scene";
import { aggregateOf } from "../model/state";
import type { Surface } from "./surface";
import { decimate, type TokenAxis } from "./xaxis";

export interface ValueAxis {
  readonly floor: number;
  readonly ceiling: number;
  readonly logarithmic: boolean;
  readonly ticks: readonly number[];
  /** What the axis counts. */
  readonly title: string;
  y(value: number): number;
}

/** In a column of a pixel: more would only make a grey block, over the band and under the lines. */
const MAX_DOTS = 24;

/** Pixels that the label of a tick takes. */
const TICK = 15;

/** What the axis must know of an array of values; kept, as pins and aggregates ask for it again and again. */
interface Extent {
  readonly low: number;
  readonly high: number;
}

const extents = new WeakMap<Float32Array, Extent>();

function extent(values: Float32Array): Extent {
  let known = extents.get(values);
  if (!known) {
    let [low, high] = [0, 0];
    for (let i = 0; i < values.length; i++) {
      const value = values[i] as number;
      if (value > high && value < Infinity) high = value;
      if (value < low && value > -Infinity) low = value;
    }
    extents.set(values, (known = { low, high }));
  }
  return known;
}

const lows = new WeakMap<Float32Array, number>();

/** The 2 % quantile of the positive values. */
function lowPositive(values: Float32Array): number {
  let low = lows.get(values);
  if (low === undefined) {
    const positive = values.filter((value) => value > 0).sort();
    low = positive.length ? quantileSorted(positive, 0.02) : 1e-4;
    lows.set(values, low);
  }
  return low;
}

/** The nearest of 1, 2, 5 times a power of ten. */
function stepOf(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return power * ([1, 2, 5].find((factor) => factor * power >= rough * 0.75) ?? 10);
}

/** An entropy is no attention weight: the axis has one unit, and what has another is not drawn on it. */
export function foreign(scene: Scene, key: string): boolean {
  return isEntropy(aggregateOf(key) ?? "") !== isEntropy(scene.state.aggregate);
}

export function axisTitle(scene: Scene): string {
  const { aggregate } = scene.state;
  if (isEntropy(aggregate)) return aggregate === "shannon" ? "entropy (nats)" : "entropy";
  return scene.side?.measure?.axis ?? (scene.scale === "lift" ? "attention, lift" : "attention to itself");
}

/** Log: floor at the decade under the 2 % quantile. Linear: from 0 (or below, where there are such values) to the largest. */
export function valueAxis(scene: Scene, pins: readonly Pin[], top: number, height: number): ValueAxis {
  const entropy = isEntropy(scene.state.aggregate);
  const highest = entropy ? scene.aggregate(scene.state.aggregate) : scene.aggregate("max");
  const all = [highest, ...(entropy ? [] : [scene.aggregate("min"), scene.aggregate(scene.state.aggregate)]), ...pins.map((pin) => pin.values)].map(extent);
  const title = axisTitle(scene);
  const low = Math.min(...all.map((one) => one.low));
  const high = Math.max(...all.map((one) => one.high)) || 1;
  if (scene.state.axis === "linear" || scene.side?.measure?.scales[0] === "raw") {
    const steps = Math.max(1, Math.min(5, Math.floor(height / TICK)));
    const step = stepOf((high - low) / steps);
    const [from, to] = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
    const marks = Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => Number((from + i * step).toPrecision(12)));
    return { floor: -Infinity, ceiling: to, logarithmic: false, ticks: marks, title, y: (value) => top + height * (1 - (value - from) / (to - from)) };
  }
  const sample = scene.shown.length && !entropy ? scene.sample() : highest;
  const floor = 10 ** Math.floor(Math.log10(Math.max(1e-12, Math.min(lowPositive(sample), high / 10))));
  const ceiling = high > 0.3 && high <= 1 ? 1 : high;
  const span = Math.log(ceiling / floor);
  const decades = Math.round(Math.log10(ceiling / floor));
  const every = Math.max(1, Math.ceil(decades / Math.max(1, Math.min(5, Math.floor(height / TICK)))));
  const marks = Array.from({ length: Math.floor(decades / every) + 1 }, (_, i) => floor * 10 ** (i * every)).filter((value) => value <= ceiling * 1.001);
  const room = height - 8; // below it stand the values under the floor
  return { floor, ceiling, logarithmic: true, ticks: marks, title, y: (value) => (value !== value ? NaN : value < floor ? top + height : top + room * (1 - Math.log(value / floor) / span)) };
}

/** The dots show all vectors, or one in so many. */
export function dotStride(scene: Scene, axis: TokenAxis): number {
  return Math.max(1, Math.ceil(scene.shown.length / (MAX_DOTS * Math.max(1, axis.step))));
}

/** All vectors together: grid, band from the smallest to the largest, dots. A pin or another aggregate leaves it alone. */
export function drawVectors(surface: Surface, scene: Scene, axis: TokenAxis, values: ValueAxis, top: number, height: number, palette: Palette): void {
  for (const value of values.ticks) {
    const y = Math.round(values.y(value)) + 0.5;
    surface.rect(axis.left, y - 0.5, axis.width, 1, palette.grid);
    const label = values.logarithmic && value === values.floor ? `\u2264${tick(value)}` : tick(value);
    surface.text(axis.left - 8, y + 3.5, label, { fill: palette.ink3, size: 10.5, anchor: "end" });
  }
  surface.text(11, top + height / 2, values.title, { fill: palette.ink3, size: 10.5, anchor: "middle", upward: true });
  if (isEntropy(scene.state.aggregate)) return;
  const high = decimate(scene.aggregate("max"), axis);
  const low = decimate(scene.aggregate("min"), axis);
  drawBand(surface, high.xs, low.values.map(values.y), high.values.map(values.y), palette.band);
  drawDots(surface, scene, axis, values, palette);
  drawExtremes(surface, [high.xs, low.xs], [high.values, low.values], values, top + height, palette);
}

/** The band breaks where values are missing. */
function drawBand(surface: Surface, xs: Float64Array, low: Float64Array, high: Float64Array, fill: string): void {
  let from = 0;
  for (let i = 0; i <= xs.length; i++) {
    const gap = i === xs.length || Number.isNaN(low[i]) || Number.isNaN(high[i]);
    if (!gap) continue;
    if (i > from) surface.band(xs.subarray(from, i), low.subarray(from, i), high.subarray(from, i), fill);
    from = i + 1;
  }
}

/** Pinned rows and the aggregate, over the vectors. */
export function drawLines(surface: Surface, scene: Scene, pins: readonly Pin[], axis: TokenAxis, values: ValueAxis, palette: Palette): void {
  for (const pin of pins) {
    if (pin.hidden || foreign(scene, pin.key)) continue;
    const part = decimate(pin.values, axis);
    surface.line(part.xs, part.values.map(values.y), pin.color, 1.5, pin.dash);
  }
  const line = decimate(scene.aggregate(scene.state.aggregate), axis);
  const path = line.values.map(values.y);
  surface.line(line.xs, path, palette.card, 5);
  surface.line(line.xs, path, palette.ink, 2.25);
  if (line.xs.length === 1) surface.dots(line.xs, path, 3, palette.ink);
}

function drawDots(surface: Surface, scene: Scene, axis: TokenAxis, values: ValueAxis, palette: Palette): void {
  const skip = Math.max(1, Math.floor((axis.to - axis.from) / axis.width));
  const stride = dotStride(scene, axis);
  const room = Math.ceil(scene.shown.length / stride) * Math.ceil((axis.to - axis.from) / skip);
  const xs = new Float32Array(room);
  const ys = new Float32Array(room);
  let count = 0;
  for (let i = 0; i < scene.shown.length; i += stride) {
    const row = (scene.shown[i] as Row).values;
    for (let token = axis.from; token < axis.to; token += skip) {
      const value = (row[token] as number) * (scene.scale === "lift" ? scene.visibleKeys(token) : 1);
      if (!(value >= values.floor)) continue;
      xs[count] = axis.x(token);
      ys[count++] = values.y(value);
    }
  }
  surface.dots(xs.subarray(0, count), ys.subarray(0, count), 0.75, palette.dots);
}

function drawExtremes(surface: Surface, xs: readonly Float64Array[], series: readonly Float64Array[], values: ValueAxis, bottom: number, palette: Palette): void {
  const at: number[] = [];
  const ys: number[] = [];
  const under: number[] = [];
  series.forEach((part, which) =>
    part.forEach((value, i) => {
      const x = xs[which]?.[i] as number;
      if (value !== value) return;
      if (value < values.floor) {
        under.push(x);
      } else {
        at.push(x);
        ys.push(values.y(value));
      }
    }),
  );
  surface.dots(at, ys, at.length > 800 ? 0.8 : 1.7, palette.extreme);
  surface.carets(spaced(under), bottom - 1, palette.extreme);
}

/** Carets closer than their own width say no more than one. */
function spaced(xs: readonly number[]): number[] {
  let last = -Infinity;
  return [...xs].sort((a, b) => a - b).filter((x) => {
    if (x - last < 5) return false;
    last = x;
    return true;
  });
}
