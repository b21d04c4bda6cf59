"use strict";

// Tables: every heading becomes a button that sorts by its column, up and then down.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, heads, place));
    head.append(button);
  });
}

function sort(table, heads, place) {
  const down = heads[place].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, value: value(row.cells[place]) }));
  rows.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
    return (down ? -1 : 1) * order(a.value, b.value);
  });
  body.append(...rows.map((entry) => entry.row));
}

// A number, a text, or null for what is not there: that stands last, whichever way one sorts.
function value(cell) {
  const number = Number.parseFloat(cell.dataset.value ?? "");
  if (!Number.isNaN(number)) return number;
  const text = cell.textContent.trim();
  return text === "–" || text === "nan" ? null : text;
}

function order(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

// The filter: a run is shown when it has every word.
const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("#runs tbody tr")];
filter.closest("p").hidden = false;
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) row.hidden = !words.every((word) => row.dataset.words.includes(word));
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("shown").value = words.length ? `${shown} of ${rows.length} runs` : "";
});

// Commands: a button that copies.
for (const button of document.querySelectorAll("button.copy")) {
  const code = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
