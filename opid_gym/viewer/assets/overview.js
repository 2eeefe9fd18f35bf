// The overview: what ran, its curves, success by task type.

import { lineChart, rateBar, rateFigure, saveSvg } from "./charts.js";
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

// Runs by the world that was played, with a heading that says what its tasks were.
function byWorld(runs) {
  const groups = new Map();
  for (const run of runs) {
    const name = [run.env, run.source].filter(Boolean).join(": ");
    groups.set(name, [...(groups.get(name) ?? []), run]);
  }
  return [...groups].map(([name, members]) => ({ name, runs: members }));
}

const returnOf = (run) => ["results", "recorded episodes", "after", "evaluation"]
  .map((source) => run.success[source]?.at(-1).return).find((value) => value !== null && value !== undefined);

const lastOf = (run, key) => run.metrics.findLast((row) => typeof row[key] === "number")?.[key];

function runTable(index, colours, show) {
  const rate = (value) => (value === undefined ? "–" : percent(value));
  const counts = index.rows.reduce((all, row) => ((all[row.run] = (all[row.run] ?? 0) + 1), all), {});
  index.runs.forEach((run, i) => (run.rows = counts[i] ?? 0));
  const overall = (run, ...sources) => sources.map((source) => run.success[source]?.at(-1).estimate).find((value) => value !== undefined);
  const columns = [
    ["Algorithm", (run) => run.recipe.algorithm ?? "–"],
    ["Seed", (run) => formatNumber(run.recipe.seed)],
    ["Iterations", (run) => formatNumber(lastOf(run, "iteration"))],
    ["Episodes", (run) => formatNumber(lastOf(run, "episodes") ?? run.success.results?.at(-1).episodes ?? run.rows)],
    ["Steps", (run) => formatNumber(lastOf(run, "env_steps"))],
    ["Success", (run) => rate(lastOf(run, "success") ?? overall(run, "results", "recorded episodes"))],
    ["Return", (run) => formatNumber(lastOf(run, "return") ?? returnOf(run))],
    ["Held back", (run) => rate(overall(run, "after", "evaluation") ?? lastOf(run, "eval/success"))],
  ].filter(([, value]) => index.runs.some((run) => value(run) !== "–"));
  const row = (run) => {
    const open = make("button.link", { type: "button", onclick: () => show({ view: "trajectories", in: run.name }) },
      `${run.rows} trajector${run.rows === 1 ? "y" : "ies"}`);
    return make("tr", {},
      make("th", { scope: "row" }, make(`span.key.key-${colours.get(run)}`), run.agent || run.name, settings(run)),
      ...columns.map(([, value]) => make("td", {}, value(run))), make("td", {}, run.rows ? open : "–"));
  };
  const rows = byWorld(index.runs).flatMap(({ name, runs }) => [
    ...(name ? [make("tr.world", {}, make("th", { scope: "rowgroup", colspan: columns.length + 2 }, name))] : []), ...runs.map(row)]);
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

// One table for each world: a row for each agent or run, a column for each task type.
function successTable(index, show) {
  const groups = byWorld(index.runs).map(({ name, runs }) => ({
    name,
    rows: runs.flatMap((run) => Object.entries(run.success).map(([source, rates]) => ({
      run, rates, label: run.agent || (index.runs.length > 1 ? run.name : ""), source: run.agent ? "" : source,
    }))).sort((a, b) => (a.run.agent && b.run.agent ? b.rates.at(-1).estimate - a.rates.at(-1).estimate : 0)),
  })).filter(({ rows }) => rows.length);
  if (!groups.length) return null;
  const save = make("button.save", { type: "button", title: "Success of all tasks, as a figure for a paper",
    onclick: () => saveSvg(rateFigure(groups.map(({ name, rows }) => ({
      name, rows: rows.map(({ label, source, rates }) => ({ label: [label, source].filter(Boolean).join(", "), ...rates.at(-1) })),
    }))), "success") }, "Save as SVG");
  return make("section.panel", { "aria-label": "Success by task type" }, save, make("h2", {}, "Success by task type"),
    make("p.note", {}, "Estimate, its 95 % interval over tasks in percent, and the number of episodes."),
    ...groups.flatMap(({ name, rows }) => worldTable(name, rows, index, show)));
}

function worldTable(name, rows, index, show) {
  const types = [...new Set(rows.flatMap(({ rates }) => rates.map((rate) => rate.type)))];
  types.sort((a, b) => (b === "all") - (a === "all") || a.localeCompare(b));
  const filter = index.runs.length > 1 ? {} : { in: index.runs[0].name };
  const heads = types.map((type) => make("th", { scope: "col" }, type === "all" ? "all"
    : make("button.link", { type: "button", onclick: () => show({ view: "trajectories", ...filter, type }) }, type || "(none)")));
  const body = rows.map(({ label, source, rates }) => make("tr", {},
    make("th", { scope: "row" }, label || source, label && source ? make("small", {}, ` ${source}`) : null),
    ...types.map((type) => {
      const found = rates.find((rate) => rate.type === type);
      return make("td", {}, found ? rateBar(found) : "–");
    })));
  return [
    name ? make("h3", {}, name) : null,
    make("div.scroll", { tabindex: 0, role: "region", "aria-label": `Success by task type, a table${name ? `: ${name}` : ""}` },
      make("table.figures.rates", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Agent or run"), ...heads)),
        make("tbody", {}, ...body))),
  ].filter(Boolean);
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
