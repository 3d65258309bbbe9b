/** Colours: what may come in, the two themes, the ramps. */

const HEX = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i;

/** #rrggbb, or null where the text is no plain hex colour (the original wrote random ones with fewer digits: padded here). */
export function cleanColor(text: string | null): string | null {
  if (text === null) return null;
  if (HEX.test(text)) {
    const digits = text.slice(1).toLowerCase();
    return `#${digits.length === 3 ? [...digits].map((digit) => digit + digit).join("") : digits}`;
  }
  return /^#[0-9a-f]{1,5}$/i.test(text) ? `#${text.slice(1).toLowerCase().padStart(6, "0")}` : null;
}

export interface Palette {
  readonly dark: boolean;
  readonly background: string;
  readonly card: string;
  readonly ink: string;
  readonly ink2: string;
  readonly ink3: string;
  readonly line: string;
  readonly edge: string;
  readonly grid: string;
  readonly accent: string;
  readonly accentSoft: string;
  readonly band: string;
  readonly dots: string;
  readonly extreme: string;
  readonly bar: string;
  readonly barMax: string;
  readonly mark: string;
  readonly ok: string;
  readonly bad: string;
  readonly tint: string;
  readonly pins: readonly string[];
  readonly classes: readonly string[];
}

export const LIGHT: Palette = {
  dark: false,
  background: "#f4f5f7",
  card: "#ffffff",
  ink: "#16181d",
  ink2: "#444b57",
  ink3: "#5d6573",
  line: "#e1e4ea",
  edge: "#878f9c",
  grid: "#eceef2",
  accent: "#0b5cad",
  accentSoft: "#e7f0fa",
  band: "#e9edf4",
  dots: "#98a1b1",
  extreme: "#c9283e",
  bar: "#7e94b8",
  barMax: "#dde4ef",
  mark: "#ffe08a",
  ok: "#17754a",
  bad: "#b4232c",
  tint: "#ffc629",
  pins: ["#0072b2", "#c95400", "#00855f", "#b24c86", "#9a6a00", "#1a7fbb", "#7a7200", "#16181d"],
  classes: ["#3f6fbf", "#b97a10", "#3f9573", "#a65a92", "#2f8fa8", "#b3503f", "#7a7a2e", "#6c5fb5", "#8a6f52", "#5d6573"],
};

export const DARK: Palette = {
  dark: true,
  background: "#0e1116",
  card: "#161a21",
  ink: "#eceef2",
  ink2: "#b7bdc8",
  ink3: "#959da9",
  line: "#262c36",
  edge: "#6a7483",
  grid: "#20262f",
  accent: "#74b5f7",
  accentSoft: "#172a40",
  band: "#242d39",
  dots: "#5f6979",
  extreme: "#ff6f7f",
  bar: "#6e86ab",
  barMax: "#262f3d",
  mark: "#6b5312",
  ok: "#4cc38a",
  bad: "#ff8088",
  tint: "#7d5806",
  pins: ["#4aa3df", "#ff8a4c", "#2cc295", "#e58fc0", "#e6a82a", "#8fd0f5", "#e8dc55", "#eceef2"],
  classes: ["#6f9ce3", "#e0a33c", "#5cb594", "#cf86bd", "#5fb8d0", "#e08572", "#b5b55a", "#a397e6", "#bd9f7f", "#959da9"],
};

/** Dash patterns of the pinned rows: hue is never the only difference. */
export const DASHES: readonly (readonly number[])[] = [[], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [1, 2.5], [12, 3], [6, 2, 1, 2, 1, 2]];

export const MAX_PINS = DASHES.length;

export type Ramp = "sequential" | "diverging" | "night";

/** For differences: no difference is the colour of the card. */
export function diverging(palette: Palette): Ramp {
  return palette.dark ? "night" : "diverging";
}

/**
 * Colours at even distances; between them the ramp is linear. Viridis (matplotlib, CC0), at most 4 of 255 off its table; ColorBrewer's RdBu,
 * turned around; our own from blue by the dark card to red.
 */
const STOPS: Readonly<Record<Ramp, string>> = {
  sequential:
    "440154470d6048196b482474472e7c4538824142863e4b893a548c365d8d32658e2e6d8e2b758e287d8e25858e228c8d20948c1e9c8920a38625ab822db27d39ba7648c16e58c7656acd5b7ed34f92d742a8db34bedf26d4e21be9e41afde725",
  diverging: "0530612065ab4393c390c4ddd1e5f0f7f7f7fddbc7f3a481d6604db1182b67001f",
  night: "b3dcff74b5f74484c22a547f202a3763323aa8474bed6f6affc2b8",
};

function stop(stops: string, at: number): string {
  return `#${stops.slice(6 * at, 6 * at + 6)}`;
}

const ramps = new Map<Ramp, { css: string[]; rgba: Uint32Array }>();

function rampTable(ramp: Ramp): { css: string[]; rgba: Uint32Array } {
  const known = ramps.get(ramp);
  if (known) return known;
  const css: string[] = [];
  const bytes = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (STOPS[ramp].length / 6 - 1);
    const below = Math.min(Math.floor(place), STOPS[ramp].length / 6 - 2);
    css.push(blend(stop(STOPS[ramp], below), stop(STOPS[ramp], below + 1), place - below));
    bytes.set([...channels(css[i] as string), 255], i * 4);
  }
  const table = { css, rgba: new Uint32Array(bytes.buffer) };
  ramps.set(ramp, table);
  return table;
}

/** Red, green, blue of "#rrggbb". */
export function channels(color: string): [number, number, number] {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)) as [number, number, number];
}

export function rampColor(unit: number, ramp: Ramp = "sequential"): string {
  return rampTable(ramp).css[Math.round(Math.min(1, Math.max(0, unit)) * 255)] as string;
}

export function rampPixels(ramp: Ramp = "sequential"): Uint32Array {
  return rampTable(ramp).rgba;
}

/** The colour `share` of the way from one to the other. */
export function blend(from: string, to: string, share: number): string {
  const a = channels(from);
  const b = channels(to);
  const mixed = a.map((value, i) => Math.round(value + ((b[i] as number) - value) * Math.min(1, Math.max(0, share))));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}
