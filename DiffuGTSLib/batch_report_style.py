"""How the report of a batch looks, and the little that moves in it."""

from __future__ import annotations

STYLE = """
:root { --ink: #1d2530; --soft: #5c6878; --line: #d9dfe7; --card: #fff; --page: #f4f6f9;
  --found: #b4540a; --none: #3c5a80; --failed: #b3261e; --quiet: #6b7686; --accent: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 24px; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 18px; overflow-wrap: anywhere; }
h3 { margin: 12px 0 6px; font-size: 15px; font-weight: 600; }
a { color: var(--accent); }
.kind { margin: 0; color: var(--soft); }
.note { margin: 0 0 6px; color: var(--soft); }
.use { margin: 4px 0 12px; color: var(--failed); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; grid-column: 2; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tile { min-width: 112px; padding: 10px 14px; background: var(--card); color: var(--soft);
  border: 1px solid var(--line); border-radius: 8px; }
.tile b { display: block; color: var(--ink); font-size: 22px; font-variant-numeric: tabular-nums; }
.tile.found b { color: var(--found); } .tile.none b { color: var(--none); }
.tile.failed b { color: var(--failed); }
nav { margin: 8px 0; } nav a, nav b { margin-left: 6px; }
.tools { display: flex; gap: 10px; margin: 0 0 10px; }
.tools input { flex: 1; } .tools input, .tools select { padding: 7px 10px; font: inherit;
  color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.cases { width: 100%; background: var(--card); border: 1px solid var(--line); }
th { text-align: right; font-weight: 600; color: var(--soft); }
td { text-align: right; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); }
.cases th:first-child, .cases td:first-child, .cases th:nth-child(2), .cases td:nth-child(2)
  { text-align: left; }
.cases td:first-child { overflow-wrap: anywhere; } .cases th { cursor: pointer; }
.cases th:hover { color: var(--accent); }
.badge { padding: 1px 8px; border-radius: 9px; font-size: 12px; font-weight: 600;
  white-space: nowrap; color: #fff; background: var(--quiet); vertical-align: 2px; }
.badge.found { background: var(--found); } .badge.none { background: var(--none); }
.badge.failed { background: var(--failed); }
.legend { color: var(--soft); font-size: 13px; margin: 14px 0; }
article { margin: 14px 0; padding: 14px 16px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; scroll-margin-top: 8px;
  break-inside: avoid; }
.facts { margin: 2px 0 0; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.why { margin-left: 8px; color: var(--soft); font-size: 13px; }
.problem { margin: 8px 0 0; color: var(--failed); }
.problem i, .problem.skipped { color: var(--soft); }
figure { margin: 0 0 10px; } figure img { display: block; width: 100%; background: #000;
  border-radius: 4px; }
figcaption { display: grid; grid-template-columns: repeat(5, 1fr); color: var(--soft);
  font-size: 13px; text-align: center; }
.lesions th, .lesions td { padding: 3px 14px; font-size: 14px; }
[hidden] { display: none !important; }
@media print { .tools { display: none; } body { background: #fff; } }
"""

SCRIPT = """
const search = document.getElementById("search"), kind = document.getElementById("status");
const marked = document.querySelectorAll("[data-kind]");
function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const one of marked)
    one.hidden = Boolean(kind.value && one.dataset.kind !== kind.value)
      || !words.every(word => one.dataset.words.includes(word));
}
search.addEventListener("input", show);
kind.addEventListener("change", show);
const rows = document.querySelector(".cases tbody");
document.querySelectorAll(".cases th").forEach((heading, column) => {
  let sign = column > 1 ? -1 : 1;
  heading.title = "Sort";
  heading.addEventListener("click", () => {
    const text = row => row.cells[column].textContent;
    rows.append(...[...rows.rows].sort(
      (one, other) => sign * text(one).localeCompare(text(other), undefined, {numeric: true})));
    sign = -sign;
  });
});
"""
