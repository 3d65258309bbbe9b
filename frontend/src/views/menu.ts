/** A small menu beside a button. */

import { h, on } from "../dom";

export interface MenuItem {
  readonly label: string;
  readonly run: () => void;
}

let close: (() => void) | null = null;

/** Closes the open menu, if any; says whether there was one. */
export function closeMenu(): boolean {
  const open = close;
  open?.();
  return open !== null;
}

export function openMenu(host: HTMLElement, button: HTMLElement, label: string, items: readonly MenuItem[]): void {
  if (button.getAttribute("aria-expanded") === "true") {
    closeMenu();
    return;
  }
  closeMenu();
  const buttons = items.map((item) =>
    h(
      "button",
      {
        role: "menuitem",
        tabindex: "-1",
        onclick: () => {
          closeMenu();
          item.run();
        },
      },
      item.label,
    ),
  );
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label }, buttons);
  const move = (by: number): void => {
    const root = menu.getRootNode() as Document | ShadowRoot;
    const at = buttons.indexOf(root.activeElement as HTMLButtonElement);
    buttons[(at + by + buttons.length) % buttons.length]?.focus();
  };
  on(menu, "keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") move(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Escape" || event.key === "Tab") closeMenu();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const outside = (event: Event): void => {
    if (!event.composedPath().includes(menu) && !event.composedPath().includes(button)) closeMenu();
  };
  host.append(menu);
  button.setAttribute("aria-expanded", "true");
  place(host, button, menu);
  on(document, "pointerdown", outside, true);
  close = () => {
    close = null;
    document.removeEventListener("pointerdown", outside, true);
    menu.remove();
    button.setAttribute("aria-expanded", "false");
    if (button.isConnected) button.focus();
  };
  buttons[0]?.focus();
}

function place(host: HTMLElement, button: HTMLElement, menu: HTMLElement): void {
  const frame = host.getBoundingClientRect();
  const box = button.getBoundingClientRect();
  const left = Math.max(4, Math.min(box.right - menu.offsetWidth, frame.right - menu.offsetWidth - 4));
  const below = box.bottom + menu.offsetHeight < window.innerHeight;
  const top = below ? box.bottom + 2 : Math.max(4, box.top - menu.offsetHeight - 2);
  menu.style.left = `${left - frame.left}px`;
  menu.style.top = `${top - frame.top}px`;
}
