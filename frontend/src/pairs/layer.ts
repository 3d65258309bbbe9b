/** One attention layer: from query and key to the rows of weights that a view asks for. */

import { decode } from "../data/codec";
import { DataFault } from "../data/types";
import { exponential, fromBase64, fromHalves } from "./bytes";
import type { LayerMeta } from "./types";

/** Reads one block after the other; a file that is too short or too long is damaged. */
class Reader {
  private at = 0;

  constructor(
    private readonly bytes: Uint8Array<ArrayBuffer>,
    private readonly what: string,
  ) {}

  private take(size: number): number {
    const start = this.at;
    this.at += size;
    if (this.at > this.bytes.length) throw new DataFault(`The pairs of ${this.what} are cut short; make the page again.`);
    return start;
  }

  f32(length: number): Float32Array {
    return new Float32Array(this.bytes.buffer, this.take(4 * length), length);
  }

  bits16(length: number): Uint16Array {
    return new Uint16Array(this.bytes.buffer, this.take(2 * length), length);
  }

  f16(length: number): Float32Array {
    return fromHalves(this.bits16(length));
  }

  bits(length: number): Uint8Array {
    const start = this.take(length);
    return this.bytes.subarray(start, start + length);
  }

  end(): void {
    if (this.at !== this.bytes.length) throw new DataFault(`The pairs of ${this.what} hold more than was announced; make the page again.`);
  }
}

/** Numbers as they came, and as floats once they are wanted. */
class Numbers {
  private decoded: Float32Array | null;

  constructor(private readonly coded: Float32Array | Uint16Array) {
    this.decoded = coded instanceof Float32Array ? coded : null;
  }

  get all(): Float32Array {
    return (this.decoded ??= fromHalves(this.coded as Uint16Array));
  }

  part(from: number, to: number): Float32Array {
    return this.decoded?.subarray(from, to) ?? fromHalves((this.coded as Uint16Array).subarray(from, to));
  }
}

export abstract class Layer {
  readonly qLen: number;
  readonly kvLen: number;

  constructor(readonly meta: LayerMeta) {
    [this.qLen, this.kvLen] = meta.size;
  }

  /** Weights of one query on every key. */
  abstract row(head: number, query: number, out: Float32Array): void;

  /** Weights of several queries, one row after the other in `out`. */
  rows(head: number, queries: readonly number[], out: Float32Array): void {
    queries.forEach((query, place) => this.row(head, query, out.subarray(place * this.kvLen, (place + 1) * this.kvLen)));
  }
}

class WeightsLayer extends Layer {
  constructor(
    meta: LayerMeta,
    private readonly values: Float32Array,
  ) {
    super(meta);
  }

  row(head: number, query: number, out: Float32Array): void {
    const start = (head * this.qLen + query) * this.kvLen;
    out.set(this.values.subarray(start, start + this.kvLen));
  }
}

export class QueryKeyLayer extends Layer {
  readonly dim: number;
  readonly scale: number;
  private readonly kv: readonly number[];
  /** Of each key head; it adds the same to every score of a row, so weights go without it. */
  readonly mean: Float32Array;
  /** Whole queries and keys are decoded when they are first asked for: a small picture needs few queries. */
  private readonly queries: Numbers;
  private readonly keys: Numbers;
  private readonly line: Float32Array | null = null;
  private readonly full: Float32Array | null = null;
  private readonly hidden: Uint8Array | null = null;
  private readonly low: number;
  private readonly high: number;

  constructor(meta: LayerMeta, bytes: Uint8Array<ArrayBuffer>) {
    super(meta);
    const { qLen, kvLen } = this;
    this.dim = meta.dim ?? 0;
    this.scale = meta.scale ?? 1;
    this.kv = meta.kv ?? meta.heads.map((_, i) => i);
    this.low = meta.band?.[0] ?? -Infinity;
    this.high = meta.band?.[1] ?? Infinity;
    const kvHeads = Math.max(...this.kv) + 1;
    const reader = new Reader(bytes, meta.name);
    const numbers = (length: number): Numbers => new Numbers(meta.form === "f32" ? reader.f32(length) : reader.bits16(length));
    this.mean = reader.f32(kvHeads * this.dim);
    if (meta.bias?.[0] === "line") this.line = reader.f32(meta.bias[1] * (qLen + kvLen - 1));
    this.queries = numbers(meta.heads.length * qLen * this.dim);
    this.keys = numbers(kvHeads * kvLen * this.dim);
    if (meta.bias?.[0] === "full") this.full = reader.f16(meta.bias[1] * qLen * kvLen);
    if (meta.hidden) this.hidden = reader.bits(meta.hidden * qLen * Math.ceil(kvLen / 8));
    reader.end();
  }

  get query(): Float32Array {
    return this.queries.all;
  }

  get key(): Float32Array {
    return this.keys.all;
  }

  get biased(): boolean {
    return this.line !== null || this.full !== null;
  }

  sees(head: number, query: number, key: number): boolean {
    const ahead = key - query;
    if (ahead < this.low || ahead > this.high) return false;
    if (!this.hidden) return true;
    const stride = Math.ceil(this.kvLen / 8);
    const own = this.meta.hidden === 1 ? 0 : head;
    return !(((this.hidden[(own * this.qLen + query) * stride + (key >> 3)] as number) >> (key & 7)) & 1);
  }

  bias(head: number, query: number, key: number): number {
    const own = this.meta.bias?.[1] === 1 ? 0 : head;
    if (this.line) return this.line[own * (this.qLen + this.kvLen - 1) + key - query + this.qLen - 1] as number;
    return this.full ? (this.full[(own * this.qLen + query) * this.kvLen + key] as number) : 0;
  }

  queryAt(head: number, query: number): number {
    return (head * this.qLen + query) * this.dim;
  }

  keyAt(head: number, key: number): number {
    return ((this.kv[head] as number) * this.kvLen + key) * this.dim;
  }

  /** Value of the key as the model had it. */
  keyValue(head: number, key: number, dim: number): number {
    return (this.key[this.keyAt(head, key) + dim] as number) + (this.mean[(this.kv[head] as number) * this.dim + dim] as number);
  }

  row(head: number, query: number, out: Float32Array): void {
    this.rows(head, [query], out);
  }

  override rows(head: number, queries: readonly number[], out: Float32Array): void {
    for (let at = 0; at < queries.length; at += 4) {
      const some = queries.slice(at, at + 4);
      this.products(head, some, out.subarray(at * this.kvLen));
      some.forEach((query, place) => this.softmax(head, query, out.subarray((at + place) * this.kvLen, (at + place + 1) * this.kvLen)));
    }
  }

  /** Four queries with two keys at a time: each number is fetched once for several products, five times as fast as one by one. */
  private products(head: number, queries: readonly number[], out: Float32Array): void {
    const { key, dim, kvLen } = this;
    const count = queries.length;
    // Side by side, so that one step along them is one step in memory.
    const query = new Float32Array(4 * dim);
    queries.forEach((one, i) => {
      const at = this.queryAt(head, one);
      query.set(this.queries.part(at, at + dim), i * dim);
    });
    const [a, b, c, e] = [0, dim, 2 * dim, 3 * dim];
    for (let j = 0; j < kvLen; j += 2) {
      const one = this.keyAt(head, j);
      const other = j + 1 < kvLen ? one + dim : one;
      let [s0, s1, s2, s3, t0, t1, t2, t3] = [0, 0, 0, 0, 0, 0, 0, 0];
      for (let d = 0; d < dim; d++) {
        const v = key[one + d] as number;
        const w = key[other + d] as number;
        const x = query[a + d] as number;
        const y = query[b + d] as number;
        const z = query[c + d] as number;
        const u = query[e + d] as number;
        s0 += x * v;
        s1 += y * v;
        s2 += z * v;
        s3 += u * v;
        t0 += x * w;
        t1 += y * w;
        t2 += z * w;
        t3 += u * w;
      }
      out[j] = s0;
      if (count > 1) out[kvLen + j] = s1;
      if (count > 2) out[2 * kvLen + j] = s2;
      if (count > 3) out[3 * kvLen + j] = s3;
      if (j + 1 === kvLen) break;
      out[j + 1] = t0;
      if (count > 1) out[kvLen + j + 1] = t1;
      if (count > 2) out[2 * kvLen + j + 1] = t2;
      if (count > 3) out[3 * kvLen + j + 1] = t3;
    }
  }

  private softmax(head: number, query: number, out: Float32Array): void {
    const { kvLen, scale } = this;
    const first = Math.max(0, query + this.low);
    const last = Math.min(kvLen - 1, query + this.high);
    const plain = !this.hidden && !this.biased;
    let most = -Infinity;
    for (let j = first; j <= last; j++) {
      const score = plain || this.sees(head, query, j) ? (out[j] as number) * scale + (plain ? 0 : this.bias(head, query, j)) : -Infinity;
      out[j] = score;
      if (score > most) most = score;
    }
    let sum = 0;
    for (let j = 0; j < kvLen; j++) {
      const weight = j < first || j > last || most === -Infinity ? 0 : exponential((out[j] as number) - most);
      out[j] = weight;
      sum += weight;
    }
    if (sum > 0) for (let j = first; j <= last; j++) out[j] = (out[j] as number) / sum;
  }
}

export async function readLayer(meta: LayerMeta, data: unknown): Promise<Layer> {
  if (typeof data !== "string") throw new DataFault(`The pairs of ${meta.name} are missing; make the page again.`);
  const [qLen, kvLen] = meta.size;
  if (meta.form === "weights") return new WeightsLayer(meta, await decode(data, "u16", meta.heads.length * qLen * kvLen));
  return new QueryKeyLayer(meta, fromBase64(data));
}
