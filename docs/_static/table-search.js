// A search box above each long table: type a family's name and only its rows stay.
addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table")) {
    const rows = [...table.querySelectorAll("tbody tr")];
    if (rows.length < 30) continue;
    const box = document.createElement("input");
    box.type = "search";
    box.className = "table-search";
    box.placeholder = `Search ${rows.length} rows`;
    box.setAttribute("aria-label", "Search this table");
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
    (table.closest(".table-wrapper") ?? table).before(box);
  }
});
