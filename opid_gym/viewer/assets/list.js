// The list of trajectories: only the rows on the screen exist.

import { formatNumber, make } from "./text.js";

const ROW_HEIGHT = 58;
const SPARE = 6;

export class TrajectoryList {
  constructor(element, runs, onchoose) {
    this.element = element;
    this.runs = runs;
    this.onchoose = onchoose;
    this.rows = [];
    this.chosen = null;
    this.space = element.appendChild(make("div.space", { role: "presentation" }));
    element.addEventListener("scroll", () => this.draw(), { passive: true });
    element.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) onchoose(this.rows[option.dataset.at]);
    });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  show(rows) {
    this.rows = rows;
    this.space.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.draw();
  }

  choose(row) {
    this.chosen = row;
    const at = this.rows.indexOf(row);
    if (at >= 0) {
      const top = at * ROW_HEIGHT;
      const { scrollTop, clientHeight } = this.element;
      if (top < scrollTop || top + ROW_HEIGHT > scrollTop + clientHeight) {
        this.element.scrollTop = top - clientHeight / 2 + ROW_HEIGHT / 2;
      }
    }
    this.draw();
  }

  // The row `by` places after the chosen one.
  neighbour(by) {
    const at = this.rows.indexOf(this.chosen);
    return this.rows[Math.max(0, Math.min(this.rows.length - 1, at < 0 ? 0 : at + by))];
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_HEIGHT) - SPARE);
    const count = Math.ceil(this.element.clientHeight / ROW_HEIGHT) + 2 * SPARE;
    const options = this.rows.slice(first, first + count).map((row, i) => this.option(row, first + i));
    this.space.replaceChildren(...options);
    const active = options.find((option) => option.getAttribute("aria-selected") === "true");
    if (active) this.element.setAttribute("aria-activedescendant", active.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  option(row, at) {
    const notes = [
      this.runs.length > 1 ? this.runs[row.run].name : null,
      row.iteration == null ? null : `it. ${row.iteration}`,
      `${row.length} step${row.length === 1 ? "" : "s"}`,
      row.return == null ? null : `return ${formatNumber(row.return)}`,
      row.type,
    ].filter(Boolean);
    const option = make("div.row", {
      id: `row-${row.number}`, role: "option", "data-at": at, "aria-selected": String(row === this.chosen),
      "aria-posinset": at + 1, "aria-setsize": this.rows.length,
    }, outcomeMark(row), make("div", {}, make("div.task", {}, row.task.slice(0, 200)), make("div.notes", {}, notes.join(" · "))));
    option.style.top = `${at * ROW_HEIGHT}px`;
    return option;
  }
}

export function outcomeMark(row) {
  const word = row.success ? "solved" : row.truncated ? "not solved, out of time" : "not solved";
  return make(`span.mark.${row.success ? "won" : "lost"}`, { role: "img", "aria-label": word, title: word }, row.success ? "✓" : "✗");
}
