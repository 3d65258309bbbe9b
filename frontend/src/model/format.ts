/** Numbers for people. */

const SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

function power(exponent: number): string {
  return (exponent < 0 ? "\u207b" : "") + [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[Number(digit)]).join("");
}

/** Three digits; powers of ten for the very small. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size >= 1e-3 && size < 1e5) return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
  const [mantissa, exponent] = value.toExponential(1).split("e").map(Number) as [number, number];
  return `${mantissa}\u00b710${power(exponent)}`;
}

/** Two digits, no trailing zeros: ends of a legend. */
export function short(value: number): string {
  const size = Math.abs(value);
  return size < 1e-12 ? "0" : size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(2))) : number(value);
}

/** Axis ticks: short, powers of ten below 0.01. */
export function tick(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.01 && size < 1e5) return String(Number(value.toPrecision(3)));
  const exponent = Math.round(Math.log10(size));
  return Math.abs(size / 10 ** exponent - 1) < 1e-9 ? `10${power(exponent)}` : number(value);
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  return `${value < 0.001 && value > 0 ? "<0.1" : value < 0.1 ? (value * 100).toFixed(1) : (value * 100).toFixed(0)}%`;
}

export function count(amount: number, thing: string): string {
  return `${amount} ${thing}${amount === 1 ? "" : "s"}`;
}
