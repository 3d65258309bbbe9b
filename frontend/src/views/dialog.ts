/** A modal dialog with a title and a close button. Escape closes it, focus returns where it was. */

import { type Child, h, on } from "../dom";

export function openDialog(host: HTMLElement, title: string, children: Child, wide = false): HTMLDialogElement {
  host.querySelector("dialog")?.remove();
  const close = h("button", { class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, "\u00d7");
  const body = h("div", { class: "dialog-body", tabindex: "0" }, children);
  const dialog = h("dialog", { class: wide ? "wide-dialog" : null, "aria-label": title }, h("header", {}, h("h2", {}, title), h("span", { class: "spacer" }), close), body);
  on(dialog, "close", () => dialog.remove());
  on(dialog, "click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  on(dialog, "keydown", (event) => event.stopPropagation());
  host.append(dialog);
  dialog.showModal();
  return dialog;
}
