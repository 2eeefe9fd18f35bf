// The overview: what ran, its curves, success by task type.

import { lineChart, rateBar } from "./charts.js";
import { formatNumber, make, percent, textBlock, whenNear } from "./text.js";

const SECTIONS = [
  ["Results", /^(success|return|length|valid_actions|eval\/success)$/],
  ["Success by task type, over iterations", /^(success|eval)\//],
  ["Groups and skills", /^(groups|skills)\//],
  ["Skill signal", /^opid\//],
  ["Updates", /^(train|updates)/],
  ["Seconds", /^seconds\//],
];
const RATES = /^(success|valid_actions|eval\/|groups\/mixed|opid\/(share|routed|opposed|occupancy)|train\/clip_fraction)/;
const COUNTERS = new Set(["iteration", "episodes", "env_steps"]);

export function overview(index, show) {
  const colours = new Map(index.runs.map((run, i) => [run, i % 8]));
  const parts = [];
  if (index.problems.length) parts.push(problemNotice(index.problems));
  parts.push(runTable(index, colours, show), successTable(index, show), curves(index, colours, show));
  return parts.filter(Boolean);
}

function problemNotice(problems) {
  const items = problems.slice(0, 200).map((problem) => make("li", {}, problem));
  const what = problems.length > 1 ? "lines or files" : "line or file";
  return make("details.notice", { open: problems.length <= 5 },
    make("summary", {}, `${problems.length} ${what} could not be read; everything else is here`),
    make("ul", {}, ...items));
}

const lastOf = (run, key) => run.metrics.findLast((row) => typeof row[key] === "number")?.[key];

function runTable(index, colours, show) {
  const rate = (value) => (value === undefined ? "–" : percent(value));
  const counts = index.rows.reduce((all, row) => ((all[row.run] = (all[row.run] ?? 0) + 1), all), {});
  index.runs.forEach((run, i) => (run.rows = counts[i] ?? 0));
  const overall = (run, ...sources) => sources.map((source) => run.success[source]?.at(-1).estimate).find((value) => value !== undefined);
  const columns = [
    ["Learner", (run) => run.recipe.learner ?? "–"],
    ["Seed", (run) => formatNumber(run.recipe.seed)],
    ["Iterations", (run) => formatNumber(lastOf(run, "iteration"))],
    ["Episodes", (run) => formatNumber(lastOf(run, "episodes") ?? run.success.results?.at(-1).episodes ?? run.rows)],
    ["Steps", (run) => formatNumber(lastOf(run, "env_steps"))],
    ["Success", (run) => rate(lastOf(run, "success") ?? overall(run, "results", "recorded episodes"))],
    ["Held back", (run) => rate(overall(run, "after", "evaluation") ?? lastOf(run, "eval/success"))],
  ].filter(([, value]) => index.runs.some((run) => value(run) !== "–"));
  const rows = index.runs.map((run) => {
    const open = make("button.link", { type: "button", onclick: () => show({ view: "trajectories", in: run.name }) },
      `${run.rows} trajector${run.rows === 1 ? "y" : "ies"}`);
    return make("tr", {},
      make("th", { scope: "row" }, make(`span.key.key-${colours.get(run)}`), run.name, settings(run)),
      ...columns.map(([, value]) => make("td", {}, value(run))), make("td", {}, run.rows ? open : "–"));
  });
  return make("section.panel", { "aria-label": "Runs" }, make("h2", {}, index.runs.length > 1 ? "Runs" : "Run"),
    make("div.scroll", { tabindex: 0, role: "region", "aria-label": "Runs, a table" }, make("table.figures", {},
      make("thead", {}, make("tr", {}, ...["Name", ...columns.map(([name]) => name), "Trajectories"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows))));
}

function settings(run) {
  const records = { recipe: run.recipe, versions: run.versions };
  const known = Object.entries(records).filter(([, record]) => Object.keys(record).length);
  if (!known.length) return null;
  return make("details.settings", {}, make("summary", {}, "recipe and versions"),
    ...known.map(([, record]) => Object.assign(textBlock("pre.text", JSON.stringify(record, null, 1)), { tabIndex: 0 })));
}

function successTable(index, show) {
  const columns = index.runs.flatMap((run) => Object.entries(run.success).map(([source, rows]) => ({ run, source, rows })));
  if (!columns.length) return null;
  const types = [...new Set(columns.flatMap(({ rows }) => rows.map((row) => row.type)))];
  types.sort((a, b) => (a === "all") - (b === "all") || a.localeCompare(b));
  const filter = index.runs.length > 1 ? {} : { in: index.runs[0].name };
  const rows = types.map((type) => {
    const name = type === "all" ? make("b", {}, "all")
      : make("button.link", { type: "button", onclick: () => show({ view: "trajectories", ...filter, type }) }, type || "(none)");
    return make("tr", {}, make("th", { scope: "row" }, name), ...columns.map((column) => {
      const found = column.rows.find((row) => row.type === type);
      return make("td", {}, found ? rateBar(found) : "–");
    }));
  });
  const heads = columns.map(({ run, source }) =>
    make("th", { scope: "col" }, ...(index.runs.length > 1 ? [run.name, make("br")] : []), make("small", {}, source)));
  return make("section.panel", { "aria-label": "Success by task type" }, make("h2", {}, "Success by task type"),
    make("p.note", {}, "Estimate, its 95 % interval over tasks in percent, and the number of episodes."),
    make("div.scroll", { tabindex: 0, role: "region", "aria-label": "Success by task type, a table" },
      make("table.figures", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Task type"), ...heads)), make("tbody", {}, ...rows))));
}

function curves(index, colours, show) {
  const runs = index.runs.filter((run) => run.metrics.length);
  if (!runs.length) return null;
  const keys = [...new Set(runs.flatMap((run) => run.metrics.flatMap((row) => Object.keys(row))))];
  const taken = new Set(COUNTERS);
  const panel = make("section.panel", { "aria-label": "Curves" }, make("h2", {}, "Curves"));
  const hidden = new Set();
  const draw = () => {
    panel.querySelectorAll(".curves").forEach((old) => old.remove());
    taken.clear();
    COUNTERS.forEach((key) => taken.add(key));
    for (const [i, [name, pattern]] of [...SECTIONS, ["Further", /./]].entries()) {
      const members = keys.filter((key) => pattern.test(key) && !taken.has(key));
      members.forEach((key) => taken.add(key));
      const charts = members.map((key) => ({ key, series: seriesOf(runs, key, colours, hidden) })).filter(({ series }) => series.length);
      if (charts.length) panel.append(curveGroup(name, charts, i === 0, show));
    }
  };
  if (runs.length > 1) {
    const boxes = runs.map((run) => make("label", {},
      make("input", { type: "checkbox", checked: true, onchange: (event) => {
        if (event.target.checked) hidden.delete(run);
        else hidden.add(run);
        draw();
      } }), make(`span.key.key-${colours.get(run)}`), make("span", {}, run.name)));
    panel.append(make("div.keys", { role: "group", "aria-label": "Runs in the curves" }, ...boxes));
  }
  draw();
  return panel;
}

function seriesOf(runs, key, colours, hidden) {
  return runs.filter((run) => !hidden.has(run)).map((run) => ({
    name: run.name,
    colour: colours.get(run),
    points: run.metrics
      .filter((row) => typeof row[key] === "number" && typeof row.iteration === "number")
      .map((row) => [row.iteration, row[key]]),
  })).filter((line) => line.points.length);
}

function curveGroup(name, charts, open, show) {
  const grid = make("div.grid");
  const group = make("details.curves", { open }, make("summary", {}, name, make("small", {}, ` ${charts.length}`)), grid);
  for (const { key, series } of charts) {
    const place = grid.appendChild(make("div.place"));
    whenNear(place, () => place.replaceChildren(lineChart({
      title: key, series, isRate: RATES.test(key),
      onpick: (iteration) => show({ view: "trajectories", iteration: String(iteration), in: series.length === 1 ? series[0].name : "" }),
    })));
  }
  return group;
}
