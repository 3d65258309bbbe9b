/** Aggregates over vectors, token by token. Missing values (NaN) are left out. Formulas as in attviz.metrics. */

export const AGGREGATES = ["mean", "std", "max", "min", "range", "entropy", "binned", "shannon"] as const;
export type Aggregate = (typeof AGGREGATES)[number];

export const AGGREGATE_NAMES: Readonly<Record<Aggregate, string>> = {
  mean: "mean",
  std: "std",
  max: "max",
  min: "min",
  range: "range",
  entropy: "entropy (Table 2)",
  binned: "entropy (binned)",
  shannon: "entropy (Shannon)",
};

export function isAggregate(name: string): name is Aggregate {
  return (AGGREGATES as readonly string[]).includes(name);
}

/** Entropies have no unit of attention: lift does not apply to them. */
export function isEntropy(name: string): boolean {
  return name === "entropy" || name === "binned" || name === "shannon";
}

/** Aggregate of the given vectors (each one value a token) at every token. */
export function aggregate(name: Aggregate, vectors: readonly Float32Array[], tokens: number): Float32Array {
  if (name === "max" || name === "min") return extreme(vectors, tokens, name === "max");
  if (name === "range") {
    const low = extreme(vectors, tokens, false);
    return extreme(vectors, tokens, true).map((value, i) => value - (low[i] as number));
  }
  if (name === "mean" || name === "std") return moments(name, vectors, tokens);
  const column = new Float64Array(vectors.length);
  const result = new Float32Array(tokens);
  const formula = name === "entropy" ? tableEntropy : name === "binned" ? binnedEntropy : shannonEntropy;
  for (let token = 0; token < tokens; token++) {
    let count = 0;
    for (const vector of vectors) {
      const value = vector[token] as number;
      if (value === value) column[count++] = value;
    }
    result[token] = count ? formula(column.subarray(0, count)) : NaN;
  }
  return result;
}

function extreme(vectors: readonly Float32Array[], tokens: number, highest: boolean): Float32Array {
  const none = highest ? -Infinity : Infinity;
  const result = new Float32Array(tokens).fill(none);
  for (const vector of vectors) {
    for (let token = 0; token < tokens; token++) {
      const value = vector[token] as number;
      if (highest ? value > (result[token] as number) : value < (result[token] as number)) result[token] = value; // never a missing one
    }
  }
  return result.map((value) => (value === none ? NaN : value));
}

function moments(name: "mean" | "std", vectors: readonly Float32Array[], tokens: number): Float32Array {
  const sum = new Float64Array(tokens);
  const count = new Int32Array(tokens).fill(vectors.length);
  for (const vector of vectors) for (let token = 0; token < tokens; token++) (sum[token] as number) += vector[token] as number;
  // Tokens that lack a value are summed again without it: they are few.
  sum.forEach((total, token) => {
    if (total === total) return;
    const there = vectors.map((vector) => vector[token] as number).filter((value) => value === value);
    count[token] = there.length;
    sum[token] = there.reduce((one, other) => one + other, 0);
  });
  const mean = sum.map((total, token) => total / (count[token] as number));
  if (name === "mean") return Float32Array.from(mean);
  const squares = new Float64Array(tokens);
  for (const vector of vectors) {
    for (let token = 0; token < tokens; token++) {
      const gap = (vector[token] as number) - (mean[token] as number);
      if (gap === gap) squares[token] = (squares[token] as number) + gap * gap;
    }
  }
  return Float32Array.from(squares, (total, token) => ((count[token] as number) > 1 ? Math.sqrt(total / ((count[token] as number) - 1)) : NaN));
}

function tableEntropy(values: Float64Array): number {
  let sum = 0;
  for (const value of values) if (value > 0) sum -= value * Math.log(value);
  return sum / new Set(values).size;
}

function binnedEntropy(values: Float64Array): number {
  const bins = new Map<number, number>();
  for (const value of values) {
    const bin = Math.floor(100 * value);
    bins.set(bin, (bins.get(bin) ?? 0) + 1);
  }
  let sum = 0;
  for (const count of bins.values()) sum -= (count / values.length) * Math.log(count / values.length);
  return sum / bins.size;
}

function shannonEntropy(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  if (!(total > 0)) return NaN;
  let sum = 0;
  for (const value of values) if (value > 0) sum -= (value / total) * Math.log(value / total);
  return sum;
}

export const STATISTICS = ["mean", "std", "max", "min", "range"] as const;
export type Statistic = (typeof STATISTICS)[number];

/** One statistic of one vector over its tokens. */
export function statistic(name: Statistic, values: Float32Array): number {
  let sum = 0;
  let count = 0;
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (value !== value) continue;
    sum += value;
    count++;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!count) return NaN;
  if (name === "mean") return sum / count;
  if (name === "max") return high;
  if (name === "min") return low;
  if (name === "range") return high - low;
  const mean = sum / count;
  let squares = 0;
  for (const value of values) if (value === value) squares += (value - mean) ** 2;
  return count > 1 ? Math.sqrt(squares / (count - 1)) : NaN;
}
