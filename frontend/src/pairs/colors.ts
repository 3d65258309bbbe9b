/** A colour for each head: the eight of the page, then hues a golden angle apart, of the same lightness. */

import type { Palette } from "../model/color";

function hex(unit: number): string {
  return Math.round(255 * Math.min(1, Math.max(0, unit))).toString(16).padStart(2, "0");
}

function hsl(hue: number, saturation: number, lightness: number): string {
  const chroma = saturation * Math.min(lightness, 1 - lightness);
  const part = (n: number): string => {
    const k = (n + hue / 30) % 12;
    return hex(lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  };
  return `#${part(0)}${part(8)}${part(4)}`;
}

export function headColor(place: number, palette: Palette): string {
  const own = palette.pins.length - 1; // the last of them is ink
  if (place < own) return palette.pins[place] as string;
  return hsl((20 + (place - own) * 137.508) % 360, place % 2 ? 0.5 : 0.75, palette.dark ? 0.66 : 0.42);
}
