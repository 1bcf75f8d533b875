// Shows the values of an epoch, in all plots inside `root` at once, at the pointer or by the arrow keys.
"use strict";

function followCurves(root) {
  const SVG = "http://www.w3.org/2000/svg";
  const readout = root.querySelector(".readout");
  const charts = Array.from(root.querySelectorAll("svg[data-curve]"), chart);
  let shown = null;

  function chart(svg) {
    const data = JSON.parse(svg.dataset.curve);
    const marks = svg.appendChild(document.createElementNS(SVG, "g"));
    // A slider is what assistive technology knows as a value that arrow keys change.
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "slider");
    svg.setAttribute("aria-valuemin", data.columns[0][0]);
    svg.setAttribute("aria-valuemax", data.columns.at(-1)[0]);
    svg.addEventListener("pointermove", (event) => show(nearest(svg, data, event)));
    svg.addEventListener("pointerdown", (event) => show(nearest(svg, data, event)));
    svg.addEventListener("pointerleave", () => document.activeElement !== svg && show(null));
    svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(shown ?? data.columns.length - 1));
    svg.addEventListener("blur", () => show(null));
    svg.addEventListener("keydown", (event) => move(data, event));
    return { svg, data, marks };
  }

  function nearest(svg, data, event) {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const distance = (column) => Math.abs(data.columns[column][1] - x);
    return data.columns.reduce((best, _, column) => (distance(column) < distance(best) ? column : best), 0);
  }

  function move(data, event) {
    const last = data.columns.length - 1;
    const from = shown ?? last;
    const to = { ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.min(Math.max(to, 0), last));
  }

  function show(column) {
    if (column === shown) return;
    shown = column;
    const parts = charts.map((chart) => mark(chart, column));
    readout.replaceChildren();
    if (column === null) return;
    readout.appendChild(document.createElement("b")).textContent = `Epoch ${charts[0].data.columns[column][0]}`;
    readout.append(`\u2002 ${parts.join("\u2002·\u2002")}`);
  }

  // Marks a column of a chart, and returns its values in words.
  function mark({ svg, data, marks }, column) {
    marks.replaceChildren();
    if (column === null) return "";
    const [epoch, x] = data.columns[column];
    const [top, bottom] = data.plot;
    draw(marks, "line", { class: "cursor", x1: x, y1: top, x2: x, y2: bottom });
    const values = [];
    for (const series of data.series) {
      const at = series.epochs.indexOf(epoch);
      if (at < 0) continue;
      values.push(`${series.name} ${series.text[at]}`);
      if (series.y[at] !== null) draw(marks, "circle", { class: `at ${series.name}-fill`, cx: x, cy: series.y[at], r: 4.5 });
    }
    const words = `${data.title.toLowerCase()}: ${values.join(", ")}`;
    svg.setAttribute("aria-valuenow", epoch);
    svg.setAttribute("aria-valuetext", `epoch ${epoch}, ${words}`);
    return words;
  }

  function draw(parent, name, attributes) {
    const element = parent.appendChild(document.createElementNS(SVG, name));
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  }
}
