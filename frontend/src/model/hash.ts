/** The state in the address: a link shows what its sender saw, and Back takes back one step. */

import { cleanColor, MAX_PINS } from "./color";
import { CHOICES, type Filters, NO_FILTERS, oneOf, type RowEdit, START, type State } from "./state";

const MAX_EDITS = 6000;
const CHOSEN = ["strokes", "scale", "statistic", "scope", "aggregate", "axis", "theme", "arrange", "special", "range", "rowList", "topScope", "topBy"] as const;
const TEXTS = ["tint", "tab", "against"] as const;

export function toHash(state: State): string {
  const parts = new URLSearchParams();
  const put = (name: string, value: string | number | null, start: string | number | null = null): void => {
    if (value !== null && value !== start) parts.set(name, String(value));
  };
  put("d", state.document, START.document);
  put("set", state.set, START.set);
  put("t", state.token);
  for (const name of [...TEXTS, ...CHOSEN]) put(name, state[name], START[name]);
  for (const key of state.pins) parts.append("pin", key);
  for (const key of state.focus ?? []) parts.append("focus", key);
  for (const key of state.order.slice(0, 64)) parts.append("order", key);
  for (const [place, edit] of Object.entries(state.sets)) {
    const mark = edit.removed ? "r" : edit.hidden === undefined ? "" : edit.hidden ? "h" : "s";
    if (mark) parts.append("sets", place + mark);
  }
  if (state.window) parts.set("w", state.window.join("-"));
  if (state.folded) parts.set("folded", state.folded.join(" "));
  putFilters(state, put);
  for (const [key, value] of Object.entries(state.extra)) parts.append("x", `${key}=${value}`);
  const edits = JSON.stringify(state.edits);
  if (edits !== "{}" && edits.length <= MAX_EDITS) parts.set("rows", edits);
  return parts.toString();
}

function putFilters({ filters, sort }: State, put: (name: string, value: string | number | null, start?: string | number) => void): void {
  put("q", filters.query, "");
  put("outcome", filters.outcome, "all");
  put("label", filters.label);
  put("class", filters.prediction);
  for (const name of ["tokens", "loss"] as const) put(name, filters[name].map((end) => end ?? "").join("~"), "~");
  put("sort", `${sort[0]}${sort[1] < 0 ? "-" : ""}`, START.sort[0]);
}

function whole(text: string | null): number | null {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
}

/** What an address says, as far as it makes sense; it may come from anybody. */
export function fromHash(hash: string): Partial<State> {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  return [...parts.keys()].length ? { ...steady(), ...read(parts) } : {};
}

/** Everything that the address keeps, as it is at the start. */
export function steady(): Partial<State> {
  const { hoverToken: _, hoverRow: __, ...kept } = START;
  return kept;
}

/** Only what these fields say: how a sentence or a link changes the page. */
export function patch(fields: Readonly<Record<string, string | number | readonly string[]>>): Partial<State> {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) for (const one of Array.isArray(value) ? (value as string[]) : [value]) parts.append(name, String(one));
  return read(parts);
}

function read(parts: URLSearchParams): Partial<State> {
  const found: Record<string, unknown> = {};
  const take = (name: string, key: keyof State, value: (text: string) => unknown): void => {
    if (parts.has(name)) found[key] = value(parts.get(name) as string);
  };
  take("d", "document", (text) => whole(text) ?? 0);
  take("set", "set", (text) => whole(text) ?? 0);
  take("t", "token", whole);
  for (const name of TEXTS) take(name, name, (text) => text.slice(0, 400));
  for (const name of CHOSEN) take(name, name, (text) => oneOf(CHOICES[name] as readonly string[], text, START[name]));
  take("pin", "pins", () => [...new Set(parts.getAll("pin"))].slice(0, MAX_PINS));
  take("focus", "focus", () => parts.getAll("focus"));
  take("order", "order", () => parts.getAll("order"));
  take("folded", "folded", (text) => text.split(" ").filter(Boolean).slice(0, 20));
  take("rows", "edits", readEdits);
  take("w", "window", (text) => {
    const view = /^(\d{1,9})-(\d{1,9})$/.exec(text);
    return view && Number(view[1]) < Number(view[2]) ? [Number(view[1]), Number(view[2])] : null;
  });
  take("sort", "sort", (text) => [oneOf(CHOICES.sortKey, text.replace("-", ""), "index"), text.endsWith("-") ? -1 : 1]);
  take("sets", "sets", () => Object.fromEntries(parts.getAll("sets").flatMap((text) => (/^\d{1,4}[rhs]$/.test(text) ? [[text.slice(0, -1), text.endsWith("r") ? { removed: true } : { hidden: text.endsWith("h") }]] : []))));
  take("x", "extra", () => Object.fromEntries(parts.getAll("x").slice(0, 64).flatMap((text) => (/^[a-z]+\.[a-z]+=/i.test(text) ? [[text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1, 400)]] : []))));
  if (["q", "outcome", "label", "class", "tokens", "loss"].some((name) => parts.has(name))) found["filters"] = readFilters(parts);
  return found as Partial<State>;
}

function readFilters(parts: URLSearchParams): Filters {
  const ends = (name: string): [number | null, number | null] => {
    const numbers = (parts.get(name) ?? "~").split("~").map((text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : null));
    return [numbers[0] ?? null, numbers[1] ?? null];
  };
  return {
    ...NO_FILTERS,
    query: (parts.get("q") ?? "").slice(0, 200),
    outcome: oneOf(CHOICES.outcome, parts.get("outcome"), "all"),
    label: whole(parts.get("label")),
    prediction: whole(parts.get("class")),
    tokens: ends("tokens"),
    loss: ends("loss"),
  };
}

function readEdits(text: string): Record<string, RowEdit> {
  const result: Record<string, RowEdit> = Object.create(null) as Record<string, RowEdit>;
  let parsed: unknown = null;
  try {
    parsed = JSON.parse(text);
  } catch {
    return result;
  }
  if (typeof parsed !== "object" || parsed === null) return result;
  for (const [key, value] of Object.entries(parsed)) {
    if (typeof value !== "object" || value === null) continue;
    const { name, color, hidden, removed, note } = value as Record<string, unknown>;
    const clean = typeof color === "string" ? cleanColor(color) : null;
    result[key] = {
      ...(typeof name === "string" ? { name: name.slice(0, 200) } : {}),
      ...(typeof note === "string" ? { note: note.slice(0, 2000) } : {}),
      ...(clean ? { color: clean } : {}),
      ...(typeof hidden === "boolean" ? { hidden } : {}),
      ...(removed === true ? { removed } : {}),
    };
  }
  return result;
}
