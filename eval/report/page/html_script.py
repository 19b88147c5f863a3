"""The script of the pages that ``html`` makes. Pages work without it; it reaches no network."""
# ruff: noqa: E501

CHARTS = """const all = (node, selector) => [...node.querySelectorAll(selector)];

// Curves: the legend shows the values at the step under the pointer, or under the arrow keys.
function curvesAt(svg, x) {
  const figure = svg.closest("figure"), values = all(figure, ".legend small");
  all(svg, ".here").forEach(node => node.remove());
  let step = null, nearest = Infinity, place = x;
  all(svg, "polyline").forEach((line, n) => {
    const points = [...line.points], xs = line.dataset.x.split(" "), ys = line.dataset.y.split(" ");
    let i = 0;
    points.forEach((point, k) => { if (Math.abs(point.x - x) < Math.abs(points[i].x - x)) i = k; });
    values[n].dataset.last ??= values[n].textContent;
    values[n].textContent = ys[i];
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    for (const [name, value] of [["class", "here"], ["cx", points[i].x], ["cy", points[i].y], ["r", 4]])
      dot.setAttribute(name, value);
    dot.style.fill = getComputedStyle(line).stroke;
    svg.append(dot);
    if (Math.abs(points[i].x - x) < nearest) [nearest, step, place] = [Math.abs(points[i].x - x), xs[i], points[i].x];
  });
  if (step === null) return;
  const rule = document.createElementNS(svg.namespaceURI, "path");
  rule.setAttribute("class", "here");
  rule.setAttribute("d", `M${place} 14V254`);
  svg.append(rule);
  svg.dataset.at = place;
  const note = figure.querySelector(".at");
  if (note) note.textContent = note.dataset.label + " " + step;
}
function curvesLast(svg) {
  const figure = svg.closest("figure");
  all(svg, ".here").forEach(node => node.remove());
  all(figure, ".legend small").forEach(node => { node.textContent = node.dataset.last ?? node.textContent; });
  const note = figure.querySelector(".at");
  if (note) note.textContent = "";
  delete svg.dataset.at;
}
const chartOf = event => event.target.closest ? event.target.closest(".chart svg") : null;
for (const name of ["pointermove", "pointerdown"]) document.addEventListener(name, event => {
  const svg = chartOf(event);
  if (!svg) return;
  const box = svg.getBoundingClientRect();
  curvesAt(svg, (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width);
});
document.addEventListener("pointerout", event => {
  const svg = chartOf(event);
  if (svg && !svg.contains(event.relatedTarget)) curvesLast(svg);
});
document.addEventListener("focusout", event => { const svg = chartOf(event); if (svg) curvesLast(svg); });
document.addEventListener("keydown", event => {
  const svg = chartOf(event), way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!svg || !way) return;
  const places = [...new Set(all(svg, "polyline").flatMap(line => [...line.points].map(p => p.x)))].sort((a, b) => a - b);
  const at = Number(svg.dataset.at ?? (way > 0 ? -1 : Infinity));
  const next = way > 0 ? places.find(x => x > at + .01) : places.findLast(x => x < at - .01);
  if (next !== undefined) curvesAt(svg, next);
  event.preventDefault();
});
"""
"""Values of curves on hover and by keys."""

REST = """
// Copying: a button beside each text that is made to be copied.
for (const node of all(document, ".copy")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(node.textContent); }
    catch {
      getSelection().selectAllChildren(node);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  node.closest(".markdown") ? node.before(button) : node.after(button);
}

// Tokens: the pointer on one frames its place in the picture.
for (const strip of all(document, ".tokens")) {
  const pictures = all(strip.parentElement, ".document .px");
  const clear = () => all(strip.parentElement, ".spot").forEach(node => node.remove());
  strip.addEventListener("pointerout", clear);
  strip.addEventListener("pointerover", event => {
    clear();
    const { block, place } = event.target.dataset, cells = all(strip, `[data-block="${block}"]`);
    const picture = pictures[block];
    if (!picture || !place || !place.includes(",")) return;
    const of = node => node.dataset.place.split(",").map(Number), [row, column] = of(event.target);
    const rows = 1 + Math.max(...cells.map(node => of(node)[0])), columns = 1 + Math.max(...cells.map(node => of(node)[1]));
    const spot = document.createElement("i");
    spot.className = "spot";
    Object.assign(spot.style, { left: 100 * column / columns + "%", top: 100 * row / rows + "%",
      width: 100 / columns + "%", height: 100 / rows + "%" });
    picture.parentElement.append(spot);
  });
}

// Sections: a link to a folded one unfolds it.
function unfold() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const folded = target && target.querySelector("details");
  if (folded) { folded.open = true; target.scrollIntoView(); }
}
addEventListener("hashchange", unfold);
unfold();
"""
"""Buttons to copy, the place of a token, and links to folded sections."""

SCRIPT = f'\n"use strict";\n{CHARTS}{REST}'
"""All of it."""
