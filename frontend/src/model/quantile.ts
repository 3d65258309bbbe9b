/** Quantile of values in ascending order, linear between neighbours (type 7, as NumPy does). */
export function quantileSorted(values: ArrayLike<number>, share: number): number {
  const place = (values.length - 1) * Math.min(1, Math.max(0, share));
  const below = Math.floor(place);
  const low = values[below] as number;
  const high = values[Math.min(values.length - 1, below + 1)] as number;
  return low + (high - low) * (place - below);
}
