/** From values to colour: four scales, each fitted to what is drawn and always told in the legend. */

import { quantileSorted } from "./quantile";
import { short } from "./format";

export const SCALES = ["log", "raw", "robust", "lift"] as const;
export type ScaleName = (typeof SCALES)[number];

export const SCALE_NOTES: Readonly<Record<ScaleName, string>> = {
  log: "logarithmic, 1st to 99th percentile",
  raw: "linear, from smallest to largest",
  robust: "linear, 1st to 99th percentile",
  lift: "value times visible keys (1 is uniform attention), logarithmic, 1st to 99th percentile",
};

export interface Fit {
  readonly low: number;
  readonly high: number;
  readonly logarithmic: boolean;
  /** 0 at low, 1 at high; NaN stays NaN. */
  unit(value: number): number;
  readonly legend: string;
}

/** So many values are enough for a quantile. */
export const SAMPLE = 5000;

function sorted(values: Float32Array | Float64Array): Float64Array {
  const step = Math.max(1, Math.floor(values.length / SAMPLE));
  const kept = new Float64Array(Math.ceil(values.length / step));
  let count = 0;
  for (let i = 0; i < values.length; i += step) {
    const value = values[i] as number;
    if (Number.isFinite(value)) kept[count++] = value;
  }
  return kept.subarray(0, count).sort();
}

function ends(values: Float32Array | Float64Array): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (value < low) low = value;
    if (value > high && value < Infinity) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

/** Fits a scale to values that are already lifted where the scale is lift. */
export function fit(values: Float32Array | Float64Array, scale: ScaleName): Fit {
  const logarithmic = scale === "log" || scale === "lift";
  let [low, high] = logarithmic ? [1e-8, 1] : ends(values);
  if (scale !== "raw") {
    const order = sorted(values);
    const positive = logarithmic ? order.subarray(firstPositive(order)) : order;
    if (positive.length) {
      low = quantileSorted(positive, 0.01);
      high = quantileSorted(positive, 0.99);
    }
  }
  if (!(high > low)) [low, high] = logarithmic ? [low / 2, high * 2] : [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
  return logarithmic ? logFit(low, high, scale === "lift") : linearFit(low, high, scale);
}

/** A scale with ends that are given. */
export function fitBetween(low: number, high: number, scale: ScaleName): Fit {
  const logarithmic = scale === "log" || scale === "lift";
  if (logarithmic) low = Math.max(low, 1e-8);
  if (!(high > low)) high = low * 2 || 1;
  return logarithmic ? logFit(low, high, scale === "lift") : linearFit(low, high, scale);
}

function firstPositive(order: Float64Array): number {
  let at = 0;
  while (at < order.length && (order[at] as number) <= 0) at++;
  return at;
}

function logFit(low: number, high: number, lifted: boolean): Fit {
  const start = Math.log(low);
  const span = Math.log(high) - start;
  return {
    low,
    high,
    logarithmic: true,
    unit: (value) => (value !== value ? NaN : value <= low ? 0 : Math.min(1, (Math.log(value) - start) / span)),
    legend: `${short(low)} \u2013 ${short(high)}, ${lifted ? "lift, log" : "log"}`,
  };
}

function linearFit(low: number, high: number, scale: ScaleName): Fit {
  const span = high - low;
  return {
    low,
    high,
    logarithmic: false,
    unit: (value) => (value !== value ? NaN : Math.min(1, Math.max(0, (value - low) / span))),
    legend: `${short(low)} \u2013 ${short(high)}${scale === "robust" ? ", robust 99%" : ", linear"}`,
  };
}

/** Symmetric around 0, for differences only. */
export function divergingFit(values: Float64Array): Fit {
  const [low, high] = ends(values);
  const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return {
    low: -size,
    high: size,
    logarithmic: false,
    unit: (value) => (value !== value ? NaN : (value + size) / (2 * size)),
    legend: `${short(-size)} \u2013 ${short(size)}, difference`,
  };
}
