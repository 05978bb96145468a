"use strict";
document.documentElement.classList.add("scripted");
// Thumbnails are stored once and put into an image when its section is opened.
const thumbs = JSON.parse(document.getElementById("thumbs").textContent);
function fill(root) {
  for (const image of root.querySelectorAll("img[data-thumb]:not([src])")) {
    const closed = image.closest("details:not([open])");
    if (!closed) image.src = thumbs[Number(image.dataset.thumb)];
  }
}
fill(document);
document.addEventListener("toggle", (event) => fill(event.target), true);

// A link to a run opens it.
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link && link.getAttribute("href") === location.hash) reveal();
});
reveal();

// Sorting: a button in every column's head.
function value(row, column, kind) {
  const cell = row.cells[column];
  if (kind !== "number") return cell.textContent.trim();
  return cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
}
function sort(table, head, column) {
  const falling = head.getAttribute("aria-sort") === "ascending";
  const kind = head.dataset.kind;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [value(a, column, kind), value(b, column, kind)];
    if (kind !== "number") return x.localeCompare(y) * (falling ? -1 : 1);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // unknown ones last
    return (x - y) * (falling ? -1 : 1);
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", column === 0 ? "ascending" : "none");
    button.addEventListener("click", () => sort(table, head, column));
  });
}

// Filters hide rows, marks in charts and the runs' sections.
const form = document.getElementById("filters");
function filter() {
  const wanted = [...new FormData(form)].filter(([, choice]) => choice !== "");
  const rows = [...document.querySelectorAll("table.runs tbody tr")];
  let shown = 0;
  for (const row of rows) {
    const hidden = wanted.some(([axis, choice]) => row.dataset[axis] !== choice);
    shown += !hidden;
    for (const part of document.querySelectorAll(`[data-run="${row.dataset.run}"]`)) {
      part.classList.toggle("gone", hidden);
    }
  }
  for (const group of document.querySelectorAll("section.group")) {
    group.classList.toggle("gone", !group.querySelector("table.runs tbody tr:not(.gone)"));
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length} runs shown`;
}
if (form) {
  form.hidden = false;
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter(); // a browser may remember choices
}
