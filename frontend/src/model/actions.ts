/** What the reader does, as pure steps from state to state. */

import { AGGREGATES } from "./aggregate";
import { MAX_PINS } from "./color";
import type { RowEdit, SetEdit, State } from "./state";

export function editRow(state: State, key: string, edit: RowEdit): Partial<State> {
  return { edits: { ...state.edits, [key]: { ...state.edits[key], ...edit } } };
}

/** Pins or unpins; beyond the limit the oldest pin goes. */
export function togglePin(state: State, key: string): Partial<State> {
  if (state.pins.includes(key)) return { pins: state.pins.filter((pin) => pin !== key) };
  return { pins: [...state.pins, key].slice(-MAX_PINS) };
}

export function addAggregate(state: State, name: string): Partial<State> {
  const wanted = name === "every" ? AGGREGATES.map((one) => `agg:${one}`) : [`agg:${name}`];
  const room = state.pins.filter((pin) => !wanted.includes(pin));
  return { pins: [...room.slice(0, Math.max(0, MAX_PINS - wanted.length)), ...wanted], rowList: "pinned" };
}

/** Takes a vector out of everything, aggregates too; an aggregate row just goes. */
export function removeRow(state: State, key: string): Partial<State> {
  const pins = state.pins.filter((pin) => pin !== key);
  const tint = state.tint === key ? "agg:mean" : state.tint;
  if (key.startsWith("agg:")) return { pins, tint };
  const focus = state.focus?.filter((one) => one !== key) ?? null;
  return { pins, tint, focus: focus?.length ? focus : null, ...editRow(state, key, { removed: true }) };
}

export function editSet(state: State, place: number, edit: SetEdit): Partial<State> {
  return { sets: { ...state.sets, [place]: { ...state.sets[place], ...edit } } };
}

/** Takes a whole set away and opens the next one that is left, if there is one. */
export function removeSet(state: State, place: number, count: number): Partial<State> {
  const left = Array.from({ length: count }, (_, i) => i).filter((i) => i !== place && !state.sets[i]?.removed);
  const next = left.find((i) => i > place) ?? left[0];
  return { ...editSet(state, place, { removed: true }), ...(next === undefined ? {} : { set: next, token: null, hoverToken: null, window: null }) };
}

export function restoreSets(state: State): Partial<State> {
  return { sets: Object.fromEntries(Object.entries(state.sets).map(([place, { removed: _, ...rest }]) => [place, rest])) };
}

export function restoreRows(state: State): Partial<State> {
  const edits = Object.fromEntries(Object.entries(state.edits).map(([key, { removed: _, ...rest }]) => [key, rest]));
  return { edits };
}

/** Moves a row up (-1) or down (+1): pins among pins, else in the order of all vectors. */
export function moveRow(state: State, key: string, by: -1 | 1, all: readonly string[]): Partial<State> {
  const pinned = state.rowList === "pinned" || key.startsWith("agg:");
  const keys = pinned ? [...state.pins] : [...all];
  const from = keys.indexOf(key);
  const to = from + by;
  if (from < 0 || to < 0 || to >= keys.length) return {};
  keys.splice(to, 0, ...keys.splice(from, 1));
  return pinned ? { pins: keys } : { order: keys, arrange: "own" };
}

/** Puts a row before another, as a drop does. */
export function placeRow(state: State, key: string, before: string, all: readonly string[]): Partial<State> {
  if (key === before) return {};
  const pinned = state.rowList === "pinned";
  const keys = (pinned ? state.pins : all).filter((one) => one !== key);
  const at = keys.indexOf(before);
  if (at < 0) return {};
  const moved = [...keys.slice(0, at), key, ...keys.slice(at)];
  return pinned ? { pins: moved } : { order: moved, arrange: "own" };
}

export function setFocus(state: State, keys: readonly string[]): Partial<State> {
  const same = state.focus !== null && state.focus.length === keys.length && keys.every((key) => state.focus?.includes(key));
  return { focus: same || !keys.length ? null : keys };
}

/** A window of tokens of at least eight, inside the text. */
export function setWindow(from: number, to: number, tokens: number): Partial<State> {
  const size = Math.max(Math.min(8, tokens), Math.round(to - from));
  const start = Math.max(0, Math.min(Math.round(from), tokens - size));
  return { window: size >= tokens ? null : [start, start + size] };
}

/** Zooms by a factor around a token. */
export function zoom(state: State, factor: number, around: number, tokens: number): Partial<State> {
  const [from, to] = state.window ?? [0, tokens];
  const size = (to - from) * factor;
  const share = (around - from) / Math.max(1, to - from);
  return setWindow(around - share * size, around - share * size + size, tokens);
}
