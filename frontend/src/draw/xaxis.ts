/** Tokens along x, shared by series and matrix so that one cursor runs through both. */

export interface TokenAxis {
  readonly from: number;
  readonly to: number;
  readonly left: number;
  readonly width: number;
  readonly step: number;
  /** Middle of a token's column. */
  x(token: number): number;
  /** Token under x, or null outside. */
  token(x: number): number | null;
}

export function tokenAxis(from: number, to: number, left: number, width: number): TokenAxis {
  const step = width / Math.max(1, to - from);
  return {
    from,
    to,
    left,
    width,
    step,
    x: (token) => left + (token - from + 0.5) * step,
    token: (x) => {
      const found = from + Math.floor((x - left) / step);
      return found >= from && found < to && x >= left && x <= left + width ? found : null;
    },
  };
}

/** Cuts tokens into columns no narrower than a pixel; `first[i]` to `first[i + 1]` is column i. */
export function columns(axis: TokenAxis, pixels: number): Int32Array {
  const count = Math.max(1, Math.min(axis.to - axis.from, Math.floor(pixels)));
  const first = new Int32Array(count + 1);
  for (let i = 0; i <= count; i++) first[i] = axis.from + Math.floor((i * (axis.to - axis.from)) / count);
  return first;
}

export interface Decimated {
  readonly xs: Float64Array;
  readonly values: Float64Array;
}

/** The smallest and the largest value of each column, in their order of place: peaks survive any zoom. */
export function decimate(values: Float32Array, axis: TokenAxis): Decimated {
  const count = axis.to - axis.from;
  if (count <= axis.width) {
    const xs = new Float64Array(count);
    const kept = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      xs[i] = axis.x(axis.from + i);
      kept[i] = values[axis.from + i] as number;
    }
    return { xs, values: kept };
  }
  const first = columns(axis, axis.width);
  const xs = new Float64Array(2 * (first.length - 1));
  const kept = new Float64Array(xs.length);
  for (let column = 0; column + 1 < first.length; column++) {
    let low = first[column] as number;
    let high = low;
    for (let token = low; token < (first[column + 1] as number); token++) {
      const value = values[token] as number;
      if (value < (values[low] as number) || Number.isNaN(values[low])) low = token;
      if (value > (values[high] as number) || Number.isNaN(values[high])) high = token;
    }
    const [one, two] = low < high ? [low, high] : [high, low];
    xs[2 * column] = axis.x(one);
    kept[2 * column] = values[one] as number;
    xs[2 * column + 1] = axis.x(two);
    kept[2 * column + 1] = values[two] as number;
  }
  return { xs, values: kept };
}
