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

// A long table has all its rows beside it, packed; the first are in the table.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(
    new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Of a packed row: what sorts it by a column, and its element.
function asRow([style, ...cells], heads) {
  const text = (cell) => (Array.isArray(cell) ? cell[0] : cell);
  return {
    key: (column) => [].concat(cells[column]).at(-1),
    element() {
      const row = document.createElement("tr");
      row.className = style;
      for (const [column, cell] of cells.entries()) {
        const at = row.insertCell();
        if (column === 0) at.dataset.value = cell[1];
        at.className = heads[column].className;
        at.textContent = text(cell);
      }
      link(row);
      return row;
    },
  };
}

// Test errors of a point lead to its runs.
function link(row) {
  const cell = row.querySelector("td.runs");
  if (!cell?.textContent) return;
  const made = document.createElement("a");
  made.href = "#runs";
  made.append(...cell.childNodes);
  cell.append(made);
}

function inTable(row) {
  link(row);
  const key = (column) =>
    row.cells[column].dataset.value ?? row.cells[column].textContent;
  return {key, element: () => row};
}

function setUp(table, names) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const size = body.rows.length;
  const pager = document.querySelector(`nav[data-of="${table.id}"]`);
  let rows = [...body.rows].map(inTable);
  const long = pager && window.DecompressionStream;
  let texts = [...body.rows].map((row) => row.cells[0].textContent);
  let all = null;
  let page = 0;
  let only = null;

  function ready() {
    if (!long) return null;
    // Points begin with their names, and runs are in a list a point.
    all ??= Promise.all([
      unpack(pager.querySelector("script").textContent), names?.(),
    ]).then(([found, known]) => {
      if (!known) texts = found.map(([, name]) => name);
      rows = found.flatMap((given, at) => (known
        ? given.map(([style, ...cells]) => [style, [known[at], at], ...cells])
        : [given.with(1, [given[1], at])])).map((cells) => asRow(cells, heads));
    });
    return all;
  }

  function show(wanted) {
    const found = only === null
      ? rows : rows.filter((row) => Number(row.key(0)) === only);
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    page = Math.min(Math.max(wanted || 0, 0), last);
    const first = page * size;
    const shown = found.slice(first, first + size);
    body.replaceChildren(...shown.map((row) => row.element()));
    if (!long) return;
    const number = (value) => value.toLocaleString("en");
    pager.querySelector("span").textContent =
      `${number(first + 1)} to ${number(first + shown.length)} ` +
      `of ${number(found.length)}`;
    pager.querySelector("input").value = page + 1;
    const [previous, next] = pager.querySelectorAll("button");
    previous.disabled = page === 0;
    next.disabled = page === last;
  }

  async function sort(header) {
    await ready();
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => compare(a.key(column), b.key(column), down));
    show(0);
  }

  for (const header of heads) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  const set = {
    async choose(place) {
      await ready();
      only = place;
      show(0);
    },
    async names() {
      await ready();
      return texts;
    },
  };
  if (!long) return set;
  const turn = async (wanted) => {
    await ready();
    show(wanted());
  };
  const [previous, next] = pager.querySelectorAll("button");
  const input = pager.querySelector("input");
  previous.addEventListener("click", () => turn(() => page - 1));
  next.addEventListener("click", () => turn(() => page + 1));
  input.addEventListener("change", () => turn(() => input.valueAsNumber - 1));
  for (const part of pager.querySelectorAll("[hidden]")) part.hidden = false;
  return set;
}

const [points, exported, ran] = ["table", "exports", "runs-table"].map(
  (name) => document.getElementById(name));
const {names} = setUp(points);
if (exported) setUp(exported);
const {choose} = setUp(ran, names);
const chosen = document.getElementById("chosen");

function chooseRuns(place, name) {
  choose(place);
  chosen.hidden = place === null;
  chosen.querySelector("strong").textContent = name;
}

chosen.querySelector("button").addEventListener("click", () => chooseRuns(null, ""));
points.addEventListener("click", (event) => {
  if (!event.target.closest("a")) return;
  chosen.closest("details").open = true;
  const [cell] = event.target.closest("tr").cells;
  chooseRuns(Number(cell.dataset.value), cell.textContent);
});

// Where a tall picture can be cut: between its panels, [top, bottom] of each part.
function parts(svg, most) {
  const found = [];
  const boxes = [...svg.querySelectorAll(":scope > g > g")].slice(1)
    .map((panel) => panel.getBBox()).sort((a, b) => a.y - b.y);
  let free = 0;
  for (const box of boxes) {
    if (box.y >= free) found.push(free);
    free = Math.max(free, box.y + box.height);
  }
  const {height} = svg.viewBox.baseVal;
  const tops = [0];
  found.slice(1).concat(height).reduce((before, at) => {
    if (at - tops.at(-1) > most && before > tops.at(-1)) tops.push(before);
    return at;
  }, 0);
  return tops.map((top, at) => [top, (tops[at + 1] ?? height) - top]);
}

// On paper the table comes first, all is open, and tall pictures stand in parts.
const undo = [];
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    part.open = true;
    undo.push(() => { part.open = false; });
  }
  const table = document.getElementById("table-part");
  const {nextSibling, parentNode} = table;
  document.querySelector("main > section").before(table);
  undo.push(() => parentNode.insertBefore(table, nextSibling));
  for (const svg of document.querySelectorAll("figure svg")) {
    const {width, height} = svg.viewBox.baseVal;
    const found = parts(svg, 1.8 * width);
    const figure = svg.closest("figure");
    undo.push(() => figure.removeAttribute("class"));
    if (width > 400) figure.className = "wide";
    if (height < 2 * width || found.length < 2) continue;
    const copies = found.map(([top, high]) => {
      const copy = svg.cloneNode(true);
      copy.setAttribute("viewBox", `0 ${top} ${width} ${high}`);
      return copy;
    });
    figure.className = "wide cut";
    svg.replaceWith(...copies);
    undo.push(() => {
      copies[0].replaceWith(svg);
      for (const copy of copies) copy.remove();
    });
  }
});
window.addEventListener("afterprint", () => {
  while (undo.length) undo.pop()();
});

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
