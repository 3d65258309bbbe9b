/** Elements without markup: text only ever becomes a text node, so nothing in the data can become an element. */

export type Child = Node | string | number | null | undefined | false | readonly Child[];
type Value = string | number | boolean | null | undefined | ((event: never) => void) | Record<string, string>;
export type Props = Record<string, Value>;

function append(parent: Node, child: Child): void {
  if (child === null || child === undefined || child === false) return;
  if (Array.isArray(child)) {
    for (const one of child as readonly Child[]) append(parent, one);
  } else {
    parent.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function apply(element: HTMLElement, name: string, value: Value): void {
  if (typeof value === "function") {
    element.addEventListener(name.slice(2), value as EventListener);
  } else if (name.startsWith("on")) {
    throw new Error(`h: ${name} needs a function`); // a string here would be an inline handler
  } else if (typeof value === "object" && value !== null) {
    // The policy of the page blocks style attributes; the style object is free of it.
    for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
  } else if (value === true) {
    element.setAttribute(name, "");
  } else if (value !== false && value !== null && value !== undefined) {
    element.setAttribute(name, String(value));
  }
}

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (element instanceof HTMLButtonElement) element.type = "button"; // never one that sends a form
  for (const [name, value] of Object.entries(props)) apply(element, name, value);
  append(element, children);
  return element;
}

/** A muted remark. */
export const note = (...children: Child[]): HTMLElement => h("span", { class: "note" }, children);

/** Listens; shorter than the method, and typed by the name of the event. */
export function on<K extends keyof HTMLElementEventMap>(target: EventTarget, type: K | keyof WindowEventMap, run: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions | boolean): void {
  target.addEventListener(type, run as EventListener, options);
}

export function fill(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  append(parent, children);
}

/** A labelled drop-down. Options are [value, label]. */
export function select(label: string, options: readonly (readonly [string, string])[], value: string, change: (value: string) => void): HTMLSelectElement {
  const box = h("select", { "aria-label": label, onchange: () => change(box.value) });
  setOptions(box, options, value);
  return box;
}

export function setOptions(box: HTMLSelectElement, options: readonly (readonly [string, string])[], value: string): void {
  const signature = JSON.stringify(options);
  if (box.dataset["options"] !== signature) {
    box.dataset["options"] = signature;
    fill(box, options.map(([key, text]) => h("option", { value: key }, text)));
  }
  box.value = value;
}

/** Writes a text only if it is new: writing makes the browser lay out the page again. */
export function tell(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A row of buttons of which one is pressed. */
export class Segments {
  readonly element: HTMLElement;
  readonly #buttons: HTMLButtonElement[];
  #value = "";

  constructor(label: string, options: readonly (readonly [string, string])[], change: (value: string) => void) {
    this.#buttons = options.map(([value, text]) => h("button", { "data-value": value, onclick: () => change(value) }, text));
    this.element = h("div", { class: "segments", role: "group", "aria-label": label }, this.#buttons);
  }

  set(value: string): void {
    if (this.#value === value) return;
    this.#value = value;
    for (const button of this.#buttons) button.setAttribute("aria-pressed", String(button.dataset["value"] === value));
  }
}

/** A card: title, note, controls to the right, body. */
export function card(name: string, title: string, note: Child, controls: Child, ...body: Child[]): HTMLElement {
  const heading = h("h2", { id: `attviz-title-${name}` }, title);
  const fold = h("button", { class: "icon fold", "data-card": name, "aria-expanded": "true", "aria-label": `Fold ${title}` });
  return h(
    "section",
    { class: `card card-${name}`, "aria-labelledby": `attviz-title-${name}` },
    h("header", {}, fold, heading, note, h("span", { class: "controls" }, controls)),
    ...body,
  );
}
