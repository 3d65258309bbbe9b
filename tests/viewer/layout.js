() => {
  // What a reader would call broken: out of its card, over another, or cut without a word.
  const faults = [];
  const name = (e) => `${e.tagName.toLowerCase()}.${e.className} "${(e.getAttribute("aria-label") || e.textContent || "").trim().slice(0, 30)}"`;
  const seen = (e) => {
    let { left, top, right, bottom, width, height } = e.getBoundingClientRect();
    if (width < 1 || height < 1 || getComputedStyle(e).visibility === "hidden") return null;
    for (let p = e.parentElement; p && p.id !== "attviz-root"; p = p.parentElement) {
      const style = getComputedStyle(p);
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      const box = p.getBoundingClientRect();
      [left, top, right, bottom] = [Math.max(left, box.left), Math.max(top, box.top), Math.min(right, box.right), Math.min(bottom, box.bottom)];
    }
    return right - left < 1 || bottom - top < 1 ? null : { left, top, right, bottom };
  };
  const list = (selector, root = document) => [...root.querySelectorAll(selector)].map((e) => [e, seen(e)]).filter((pair) => pair[1]);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const cards = list(".card, .page-header");
  for (const [card, box] of cards) {
    for (const [e, b] of list("button, select, input, canvas, h2, p, li, td, span, ul, ol, table", card)) {
      if (e.closest(".tip, .spacer-row")) continue;
      if (b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1) faults.push(`outside its card: ${name(e)}`);
    }
  }
  const pairs = (items, kind) => items.forEach(([a, boxA], i) => items.slice(i + 1).forEach(([b, boxB]) => {
    if (a.contains(b) || b.contains(a) || a.closest("thead") || b.closest("thead")) return; // heads of tables stick over their rows
    if (over(boxA, boxB)) faults.push(`${kind} overlap: ${name(a)} / ${name(b)}`);
  }));
  pairs(cards, "cards");
  pairs(list("button, select, input, h2, .note, .figure, .legend-item, .readout"), "controls");
  for (const [e] of list(".attviz *")) {
    if (e.childElementCount > 3 || !e.textContent.trim() || e.scrollWidth <= e.clientWidth + 1 || !/hidden|clip/.test(getComputedStyle(e).overflowX)) continue;
    e.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    if (!e.title && !e.closest("[title]")) faults.push(`cut without a tooltip: ${name(e)}`);
  }
  return [...new Set(faults)];
}
