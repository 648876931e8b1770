"use strict";
// Sorting, filtering and the dialog. Without this script every detail is a <details> further down.

const dialog = document.querySelector("dialog");
let borrowed = null; // What the dialog shows, and where it belongs.

function open(id) {
  const article = document.getElementById(id);
  if (!article || dialog.open) return;
  borrowed = { article, home: article.parentElement };
  dialog.querySelector("h3").textContent = article.dataset.title;
  dialog.querySelector(".inside").append(article);
  dialog.showModal();
  dialog.scrollTop = 0;
}

dialog.addEventListener("close", () => {
  borrowed.home.append(borrowed.article);
  borrowed = null;
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // The backdrop.
});

function value(cell) {
  if ("value" in cell.dataset) return Number(cell.dataset.value);
  return cell.classList.contains("left") ? cell.textContent.toLowerCase() : null;
}

function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === null || a === "") return 1; // What is not known comes last, whichever way.
  if (b === null || b === "") return -1;
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[column];
  const body = table.tBodies[0];
  const small = head.classList.contains("left") || head.classList.contains("center");
  const first = small ? "ascending" : "descending";
  const other = small ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const one of heads) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => [value(row.cells[column]), row]);
  keyed.sort((a, b) => compare(a[0], b[0], sign));
  body.append(...keyed.map((pair) => pair[1]));
}

function sortable(table) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  }
}

function filterable(board, table) {
  const controls = board.querySelector(".controls");
  const [choice, text, count] = ["select", "input", "output"].map((tag) => controls.querySelector(tag));
  const rows = [...table.tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const chosen = (row) =>
    !choice.value || (choice.value === "best" ? !("more" in row.dataset) : row.dataset.kind === choice.value);
  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = chosen(row) && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  text.addEventListener("input", () => {
    if (choice.value === "best") choice.value = ""; // Whoever searches, searches all rows.
    show();
  });
  choice.addEventListener("change", show);
  controls.hidden = false;
  show();
}

for (const table of document.querySelectorAll("table.sortable")) sortable(table);
for (const table of document.querySelectorAll("table.main")) {
  const board = table.closest(".board");
  if (board) filterable(board, table);
  table.tBodies[0].addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(event.target.closest("tr").dataset.row);
  });
}

// A link to a row opens it.
if (document.getElementById(location.hash.slice(1))?.matches("article")) open(location.hash.slice(1));
