/** Bytes of the page into numbers. */

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const fast = (Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  if (fast) return fast.call(Uint8Array, text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

let table: Float32Array | null = null;

/** Every half-precision number by its bits. */
function halves(): Float32Array {
  if (table) return table;
  table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : exponent < 31 ? (1024 + fraction) * 2 ** (exponent - 25) : fraction ? NaN : Infinity;
    table[bits] = bits & 32768 ? -size : size;
  }
  return table;
}

export function fromHalves(buffer: ArrayBuffer, start: number, length: number): Float32Array {
  const bits = new Uint16Array(buffer, start, length);
  const values = new Float32Array(length);
  const known = halves();
  for (let i = 0; i < length; i++) values[i] = known[bits[i] as number] as number; // twice as fast as by Float16Array
  return values;
}
