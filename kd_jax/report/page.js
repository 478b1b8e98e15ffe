"use strict";

// A header sorts its column: numbers as numbers, what is missing last.
function compare(a, b, down) {
  const empty = (cell) => cell === "";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const [x, y] = [Number(a), Number(b)];
  const order = Number.isNaN(x) || Number.isNaN(y)
    ? (a < b ? -1 : Number(a > b)) : x - y;
  return down ? -order : order;
}

function sort(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) {
    other.removeAttribute("aria-sort");
  }
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.value;
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), down)));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

// The title of a point shows at once, and to those who use no mouse.
const tip = document.getElementById("tip");

function show(point, x, y) {
  tip.textContent = point.getAttribute("aria-label").replaceAll("; ", "\n");
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const right = document.documentElement.clientWidth - box.width - 8;
  tip.style.left = `${Math.max(8, Math.min(x + 14, right))}px`;
  tip.style.top = `${y - box.height - 12 < 8 ? y + 18 : y - box.height - 12}px`;
}

function hide() {
  tip.hidden = true;
}

for (const point of document.querySelectorAll("svg .point")) {
  const title = point.querySelector("title");
  point.setAttribute("aria-label", title.textContent);
  point.setAttribute("role", "img");
  point.setAttribute("tabindex", "0");
  title.remove();
  point.addEventListener("pointermove", (event) => {
    show(point, event.clientX, event.clientY);
  });
  point.addEventListener("pointerleave", hide);
  point.addEventListener("focus", () => {
    const box = (point.querySelector(".mark") || point).getBoundingClientRect();
    show(point, box.left + box.width / 2, box.top);
  });
  point.addEventListener("blur", hide);
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
});
document.addEventListener("scroll", hide, {capture: true, passive: true});
