/** The state in the address: a link shows what its sender saw. */

import { cleanColor, MAX_PINS } from "./color";
import { CHOICES, oneOf, type RowEdit, START, type State } from "./state";

const MAX_EDITS = 3000;

export function toHash(state: State): string {
  const parts = new URLSearchParams();
  const put = (name: string, value: string | number | null, start: string | number | null): void => {
    if (value !== null && value !== start) parts.set(name, String(value));
  };
  put("d", state.document, START.document);
  put("set", state.set, START.set);
  put("t", state.token, null);
  for (const name of ["tint", "strokes", "scale", "statistic", "scope", "aggregate", "axis", "theme"] as const) put(name, state[name], START[name]);
  for (const key of state.pins) parts.append("pin", key);
  for (const key of state.focus ?? []) parts.append("focus", key);
  for (const key of state.order.slice(0, 64)) parts.append("order", key);
  for (const [place, edit] of Object.entries(state.sets)) {
    const mark = edit.removed ? "r" : edit.hidden === undefined ? "" : edit.hidden ? "h" : "s";
    if (mark) parts.append("sets", place + mark);
  }
  if (state.window) parts.set("w", state.window.join("-"));
  if (state.filters.query) parts.set("q", state.filters.query);
  put("tab", state.tab, START.tab);
  for (const [key, value] of Object.entries(state.extra)) parts.append("x", `${key}=${value}`);
  const edits = JSON.stringify(state.edits);
  if (edits !== "{}" && edits.length <= MAX_EDITS) parts.set("rows", edits);
  return parts.toString();
}

function whole(text: string | null): number | null {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
}

/** What an address says, as far as it makes sense; it may come from anybody. */
export function fromHash(hash: string): Partial<State> {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  if (![...parts.keys()].length) return {};
  const focus = parts.getAll("focus");
  const view = /^(\d{1,9})-(\d{1,9})$/.exec(parts.get("w") ?? "");
  return {
    document: whole(parts.get("d")) ?? 0,
    set: whole(parts.get("set")) ?? 0,
    token: whole(parts.get("t")),
    tint: parts.get("tint") ?? START.tint,
    strokes: oneOf(CHOICES.strokes, parts.get("strokes"), START.strokes),
    scale: oneOf(CHOICES.scale, parts.get("scale"), START.scale),
    statistic: oneOf(CHOICES.statistic, parts.get("statistic"), START.statistic),
    scope: oneOf(CHOICES.scope, parts.get("scope"), START.scope),
    aggregate: oneOf(CHOICES.aggregate, parts.get("aggregate"), START.aggregate),
    axis: oneOf(CHOICES.axis, parts.get("axis"), START.axis),
    theme: oneOf(CHOICES.theme, parts.get("theme"), START.theme),
    pins: [...new Set(parts.getAll("pin"))].slice(0, MAX_PINS),
    focus: focus.length ? focus : null,
    order: parts.getAll("order"),
    window: view && Number(view[1]) < Number(view[2]) ? [Number(view[1]), Number(view[2])] : null,
    filters: { ...START.filters, query: (parts.get("q") ?? "").slice(0, 200) },
    tab: parts.get("tab") ?? START.tab,
    extra: Object.fromEntries(parts.getAll("x").slice(0, 64).flatMap((text) => (/^[a-z]+\.[a-z]+=/i.test(text) ? [[text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1, 400)]] : []))),
    edits: readEdits(parts.get("rows")),
    sets: Object.fromEntries(parts.getAll("sets").flatMap((text) => (/^\d{1,4}[rhs]$/.test(text) ? [[text.slice(0, -1), text.endsWith("r") ? { removed: true } : { hidden: text.endsWith("h") }]] : []))),
  };
}

function readEdits(text: string | null): Record<string, RowEdit> {
  const result: Record<string, RowEdit> = Object.create(null) as Record<string, RowEdit>;
  let parsed: unknown = null;
  try {
    parsed = JSON.parse(text ?? "null");
  } catch {
    return result;
  }
  if (typeof parsed !== "object" || parsed === null) return result;
  for (const [key, value] of Object.entries(parsed)) {
    if (typeof value !== "object" || value === null) continue;
    const { name, color, hidden, removed } = value as Record<string, unknown>;
    const clean = typeof color === "string" ? cleanColor(color) : null;
    result[key] = {
      ...(typeof name === "string" ? { name: name.slice(0, 200) } : {}),
      ...(clean ? { color: clean } : {}),
      ...(hidden === true ? { hidden } : {}),
      ...(hidden === false ? { hidden } : {}),
      ...(removed === true ? { removed } : {}),
    };
  }
  return result;
}
