/** Decodes what attviz/viewer/codec.py writes. */

import { DataFault } from "./types";

const KNEE = 0.0658;
const U16_FLOOR = 1e-8;
const U16_LOG_CODES = 34925;
const U16_ONE = 65534;
const U16_MISSING = 65535;
const U8_FLOOR = 1e-6;
const U8_ONE = 254;
const U8_MISSING = 255;

let u16Table: Float32Array | null = null;
let u8Table: Float32Array | null = null;

function u16Values(): Float32Array {
  if (u16Table) return u16Table;
  const table = new Float32Array(65536);
  const rate = Math.log(KNEE / U16_FLOOR) / (U16_LOG_CODES - 1);
  for (let code = 1; code <= U16_LOG_CODES; code++) table[code] = U16_FLOOR * Math.exp((code - 1) * rate);
  for (let code = U16_LOG_CODES + 1; code < U16_ONE; code++) {
    table[code] = KNEE + ((code - U16_LOG_CODES) / (U16_ONE - U16_LOG_CODES)) * (1 - KNEE);
  }
  table[U16_ONE] = 1;
  table[U16_MISSING] = NaN;
  return (u16Table = table);
}

function u8Values(): Float32Array {
  if (u8Table) return u8Table;
  const table = new Float32Array(256);
  for (let code = 1; code < U8_ONE; code++) table[code] = U8_FLOOR * Math.exp(((code - 1) / (U8_ONE - 1)) * -Math.log(U8_FLOOR));
  table[U8_ONE] = 1;
  table[U8_MISSING] = NaN;
  return (u8Table = table);
}

function base64(text: string): Uint8Array<ArrayBuffer> {
  const fast = (Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  if (fast) return fast.call(Uint8Array, text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Whole numbers of 32 bits. */
export async function wholes(text: string): Promise<Uint32Array> {
  return new Uint32Array((await inflate(base64(text))).buffer);
}

export async function decode(text: string, precision: string, expected: number): Promise<Float32Array> {
  const bytes = await inflate(base64(text));
  const size = precision === "u16" ? 2 : precision === "u8" ? 1 : 4;
  if (bytes.length !== expected * size) {
    throw new DataFault(`The data of this document holds ${bytes.length / size} values where ${expected} were announced.`);
  }
  if (precision === "f32") return new Float32Array(bytes.buffer);
  const values = new Float32Array(expected);
  const table = precision === "u16" ? u16Values() : u8Values();
  const codes = precision === "u16" ? new Uint16Array(bytes.buffer) : bytes;
  for (let i = 0; i < expected; i++) values[i] = table[codes[i] as number] as number;
  return values;
}
