/** Keys of the whole page. They listen on the host only: a notebook around keeps its own. */

import { on } from "../dom";
import { togglePin } from "../model/actions";
import { activeToken, type Context } from "./context";
import { closeMenu } from "./menu";

export interface Commands {
  readonly search: () => void;
  readonly theme: () => void;
  readonly exports: () => void;
  readonly help: () => void;
  readonly tables: () => void;
  readonly open: () => void;
  readonly token: (by: number) => void;
  readonly document: (by: number) => void;
  readonly zoom: (key: string) => boolean;
  readonly step: (by: -1 | 1) => boolean;
  readonly about: () => void;
}

function typing(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  return target instanceof HTMLElement && (target.matches("input, textarea, [contenteditable]") || (target.matches("select") && event.key !== "Escape"));
}

/** Esc takes back one thing at a time: menu, pinned token, isolation, pins of vectors last. */
function escape({ store }: Context): void {
  const { state } = store;
  if (closeMenu()) return;
  if (state.token !== null || state.hoverToken !== null) store.set({ token: null, hoverToken: null });
  else if (state.focus) store.set({ focus: null });
  else if (state.window) store.set({ window: null });
  else if (state.pins.length) store.set({ pins: [] });
}

export function listenToKeys(target: HTMLElement | Document, context: Context, commands: Commands): void {
  const { store } = context;
  const actions: Readonly<Record<string, () => void>> = {
    "/": commands.search,
    d: commands.theme,
    e: commands.exports,
    "?": commands.help,
    t: commands.tables,
    o: commands.open,
    ArrowLeft: () => commands.token(-1),
    ArrowRight: () => commands.token(1),
    ArrowUp: () => commands.document(-1),
    ArrowDown: () => commands.document(1),
    Escape: () => escape(context),
    i: commands.about,
    p: () => {
      if (store.state.hoverRow) store.set(togglePin(store.state, store.state.hoverRow));
    },
  };
  on(target, "keydown", (raw) => {
    const event = raw as KeyboardEvent;
    if (event.defaultPrevented || event.altKey) return;
    if (event.ctrlKey || event.metaKey) {
      const by = event.key.toLowerCase() === "y" || (event.key.toLowerCase() === "z" && event.shiftKey) ? 1 : event.key === "z" ? -1 : 0;
      if (by && !typing(event) && commands.step(by)) event.preventDefault();
      return;
    }
    if (typing(event)) {
      const field = event.composedPath()[0] as HTMLElement;
      if (event.key === "Escape" && field.matches("[type=search]")) store.set({ filters: { ...store.state.filters, query: "" } });
      if (event.key === "Escape") field.blur();
      return;
    }
    const action = actions[event.key];
    if (action) {
      action();
    } else if (event.key === "Enter" && !onButton(event)) {
      const token = activeToken(store.state);
      if (token === null) return;
      store.set({ token: token === store.state.token ? null : token });
    } else if (!commands.zoom(event.key)) {
      return;
    }
    event.preventDefault();
  });
}

function onButton(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  return target instanceof HTMLElement && target.matches("button, a, summary, select");
}
