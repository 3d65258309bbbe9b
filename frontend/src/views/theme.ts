/** Light, dark, or what the system (or the notebook around) says. */

import { DARK, LIGHT, type Palette } from "../model/color";
import type { Theme } from "../model/state";

/**
 * Height in the name of the frame in a notebook cell. It may look at nothing outside itself, but the notebook's style makes it a little
 * higher where it knows its own theme: attviz/viewer/html.py.
 */
const FRAME = Number(/^attviz-notebook-(\d+)$/.exec(window.name)?.[1]);
const THEME_KNOWN = `(min-height: ${FRAME + 5}px)`;
const THEME_DARK = `(min-height: ${FRAME + 15}px)`;

/** The notebook's own theme where the page sits inside one: JupyterLab and VS Code say it on the body. */
function notebookDark(): boolean | null {
  if (FRAME) return window.matchMedia(THEME_KNOWN).matches ? window.matchMedia(THEME_DARK).matches : null;
  const body = document.body;
  const jupyter = body.dataset["jpThemeLight"];
  if (jupyter) return jupyter === "false";
  if (body.classList.contains("vscode-dark") || body.classList.contains("vscode-high-contrast")) return true;
  return body.classList.contains("vscode-light") ? false : null;
}

/** Calls back when the system or the notebook around changes its theme. */
export function watchTheme(changed: () => void): void {
  let last = wantsDark("auto");
  const look = (): void => {
    const now = wantsDark("auto");
    if (now === last) return;
    last = now;
    changed();
  };
  for (const query of ["(prefers-color-scheme: dark)", THEME_KNOWN, THEME_DARK]) window.matchMedia(query).addEventListener("change", look);
  new MutationObserver(look).observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light"] });
}

export function wantsDark(theme: Theme): boolean {
  if (theme !== "auto") return theme === "dark";
  return notebookDark() ?? window.matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Writes the palette to the style of the host, where the stylesheet reads it. */
export function applyPalette(host: HTMLElement, dark: boolean): Palette {
  const palette = dark ? DARK : LIGHT;
  const names: Readonly<Record<string, string>> = {
    background: palette.background, card: palette.card, ink: palette.ink, ink2: palette.ink2, ink3: palette.ink3, line: palette.line,
    edge: palette.edge, grid: palette.grid, accent: palette.accent, "accent-soft": palette.accentSoft, band: palette.band, dots: palette.dots,
    extreme: palette.extreme, bar: palette.bar, "bar-max": palette.barMax, mark: palette.mark, ok: palette.ok, bad: palette.bad, tint: palette.tint,
  };
  for (const [name, value] of Object.entries(names)) host.style.setProperty(`--${name}`, value);
  host.style.setProperty("color-scheme", dark ? "dark" : "light");
  host.dataset["theme"] = dark ? "dark" : "light";
  return palette;
}
