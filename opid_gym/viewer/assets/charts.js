// Two charts in SVG: lines over iterations, and a rate with its interval.

import { formatNumber, make, percent } from "./text.js";

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) ticks.push(+tick.toFixed(12));
  return ticks;
}

function range(values, pad) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

const HEIGHT = 170;
const EDGE = { top: 10, right: 12, bottom: 22, left: 46 };

// series: [{name, colour, points: [[x, y], ...]}]. onpick(x, series) is called when a point is chosen.
export function lineChart({ title, series, isRate, onpick }) {
  const readout = make("span.readout", { "aria-live": "polite" });
  const save = make("button.save", { type: "button", title: `Save the chart of ${title} as SVG`,
    onclick: () => saveSvg(withStyles(figure.querySelector("svg")), title) }, "SVG");
  const figure = make("figure.chart", {}, make("figcaption", {}, make("span", {}, title), readout, save));
  const format = isRate ? percent : formatNumber;
  const xs = [...new Set(series.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const last = series.map((line) => `${line.name} ends at ${format(line.points.at(-1)[1])}`).join(", ");
  const [xLow, xHigh] = xs.length > 1 ? [xs[0], xs.at(-1)] : [xs[0] - 1, xs[0] + 1];
  const ys = series.flatMap((line) => line.points.map(([, y]) => y));
  const [yLow, yHigh] = isRate ? [0, 1] : range(ys, 0.08);

  function draw(width) {
    const x = (value) => EDGE.left + ((value - xLow) / (xHigh - xLow)) * (width - EDGE.left - EDGE.right);
    const y = (value) => HEIGHT - EDGE.bottom - ((value - yLow) / (yHigh - yLow)) * (HEIGHT - EDGE.top - EDGE.bottom);
    const picture = svg("svg", {
      width, height: HEIGHT, role: "img", tabindex: 0,
      "aria-label": `${title}, ${xs.length} iterations: ${last}. Arrow keys read the values.`,
    });
    for (const tick of niceTicks(yLow, yHigh, 4)) {
      picture.append(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }));
      const label = svg("text", { class: "tick", x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" });
      label.textContent = isRate ? `${Math.round(tick * 100)} %` : formatNumber(tick);
      picture.append(label);
    }
    for (const tick of niceTicks(xLow, xHigh, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
      const label = svg("text", { class: "tick", x: x(tick), y: HEIGHT - 6, "text-anchor": "middle" });
      label.textContent = formatNumber(tick);
      picture.append(label);
    }
    for (const line of series) {
      const path = line.points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
      picture.append(svg("path", { class: `line line-${line.colour}`, d: path }));
      if (line.points.length < 30) {
        for (const [a, b] of line.points) {
          picture.append(svg("circle", { class: `dot dot-${line.colour}`, cx: x(a), cy: y(b), r: 2.5 }));
        }
      }
    }
    const cursor = picture.appendChild(svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
    let at = xs.length;
    const read = (index) => {
      at = Math.max(0, Math.min(xs.length - 1, index));
      cursor.setAttribute("x1", x(xs[at]));
      cursor.setAttribute("x2", x(xs[at]));
      cursor.classList.add("on");
      const values = series.flatMap((line) => {
        const point = line.points.find(([a]) => a === xs[at]);
        return point ? [series.length > 1 ? `${line.name} ${format(point[1])}` : format(point[1])] : [];
      });
      readout.textContent = `${values.join(" · ")} at ${xs[at]}`;
    };
    const clear = () => {
      at = xs.length;
      cursor.classList.remove("on");
      readout.textContent = "";
    };
    picture.addEventListener("pointermove", (event) => {
      const value = xLow + ((event.offsetX - EDGE.left) / (width - EDGE.left - EDGE.right)) * (xHigh - xLow);
      const next = xs.findIndex((a) => a >= value);
      read(next > 0 && value - xs[next - 1] < xs[next] - value ? next - 1 : next < 0 ? xs.length - 1 : next);
    });
    picture.addEventListener("pointerleave", clear);
    picture.addEventListener("blur", clear);
    picture.addEventListener("click", () => xs[at] !== undefined && onpick?.(xs[at]));
    picture.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move) read(at + move);
      else if (event.key === "Enter" && xs[at] !== undefined) onpick?.(xs[at]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    figure.querySelector("svg")?.remove();
    figure.append(picture);
  }

  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.floor(figure.clientWidth);
    if (width && width !== drawn) draw((drawn = width));
  }).observe(figure);
  return figure;
}

// -- Figures for a paper -------------------------------------------------------------------------------------

// Hands an SVG element to the reader as a file.
export function saveSvg(picture, name) {
  picture.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const address = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(picture)], { type: "image/svg+xml" }));
  const link = make("a", { href: address, download: `${name.replace(/[^\w.-]+/g, "-")}.svg` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "font-family", "font-size"];

// A copy that looks the same without the page's style sheet.
function withStyles(picture) {
  const copy = picture.cloneNode(true);
  const copies = [...copy.querySelectorAll("*")];
  [...picture.querySelectorAll("*")].forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of STYLES) copies[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.querySelectorAll(".cursor").forEach((cursor) => cursor.remove());
  return copy;
}

// Success with 95 % intervals in black on white. groups: [{name, rows: [{label, estimate, low, high}]}].
export function rateFigure(groups) {
  const [left, width, line] = [190, 560, 22];
  const x = (value) => left + value * (width - left - 90);
  const picture = svg("svg", { width, "font-family": "Helvetica, Arial, sans-serif", "font-size": 12, fill: "#000" });
  const text = (content, at, y, more = {}) => {
    const element = svg("text", { x: at, y, ...more });
    element.textContent = content;
    picture.append(element);
  };
  let y = 18;
  for (const { name, rows } of groups) {
    if (name) text(name, 8, y, { "font-weight": "bold" });
    y += name ? line : 0;
    for (const { label, estimate, low, high } of rows) {
      text(label.length > 28 ? `${label.slice(0, 27)}…` : label, left - 10, y, { "text-anchor": "end" });
      picture.append(
        svg("line", { x1: x(0), x2: x(1), y1: y - 4, y2: y - 4, stroke: "#ddd" }),
        svg("line", { x1: x(low), x2: x(high), y1: y - 4, y2: y - 4, stroke: "#000", "stroke-width": 1.5 }),
        svg("circle", { cx: x(estimate), cy: y - 4, r: 3.5, fill: "#0072B2" }));
      text(`${(100 * estimate).toFixed(1)} %`, width - 8, y, { "text-anchor": "end" });
      y += line;
    }
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) text(`${100 * tick} %`, x(tick), y, { "text-anchor": "middle", fill: "#555", "font-size": 10 });
    y += 1.6 * line;
  }
  picture.setAttribute("height", y);
  picture.setAttribute("viewBox", `0 0 ${width} ${y}`);
  return picture;
}

// A rate in [0, 1] with its 95 % interval, in words and as a bar.
export function rateBar({ estimate, low, high, episodes }) {
  const width = 96;
  const x = (value) => 3 + value * (width - 6);
  const bar = svg("svg", { class: "rate", width, height: 14, "aria-hidden": "true" },
    svg("line", { class: "rail", x1: x(0), x2: x(1), y1: 7, y2: 7 }),
    svg("line", { class: "span", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
    svg("circle", { class: "estimate", cx: x(estimate), cy: 7, r: 3.5 }));
  return make("div.rate-cell", {}, bar,
    make("span.rate-text", {}, make("b", {}, percent(estimate)),
      make("small", {}, ` ${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)} · ${episodes}`)));
}
