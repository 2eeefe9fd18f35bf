// The page: its state is its address, so every view of it can be linked to.

import { loadIndex, search, searchTerms } from "./data.js";
import { TrajectoryList } from "./list.js";
import { overview } from "./overview.js";
import { make } from "./text.js";
import { CHANNELS, watchTokens } from "./tokens.js";
import { TrajectoryView } from "./trajectory.js";

const KEYS = [
  ["j / k", "next / previous trajectory"],
  ["↓ / ↑", "the same, in the list"],
  ["l / h or → / ←", "next / previous step"],
  ["/", "search"],
  ["c", "next colouring of the tokens"],
  ["n", "numbers below the tokens"],
  ["o", "overview, and back"],
  ["t", "light, dark, or as the system"],
  ["Esc", "leave the search or the trajectory"],
  ["?", "this help"],
];
const NO_FILTER = { q: "", outcome: "", type: "", iteration: "", in: "" };
const START = { view: "", ...NO_FILTER, row: null, step: null, channel: "skill", numbers: true };
const FILTERS = ["outcome", "type", "iteration", "in"];
const $ = (id) => document.getElementById(id);
const clamp = (at, count) => Math.max(0, Math.min(count - 1, at));

const index = await loadIndex();
const list = new TrajectoryList($("list"), index.runs, (row) => go({ row, step: null }));
const view = new TrajectoryView($("detail"), index, go);
let state = readAddress();
let shownFilter = null;

// -- State and address --------------------------------------------------------------------------------------

// A run by its name in an address: as it is, or as the file or folder it came from is called.
function runNamed(name) {
  const bare = name.replace(/\.jsonl?$/, "");
  const named = (test) => index.runs.filter((run) => test(run.name));
  for (const found of [named((known) => known === name), named((known) => known === bare),
    named((known) => known.endsWith(`/${bare}`) || bare.endsWith(`/${known}`))]) {
    if (found.length === 1) return found[0].name;
  }
  return name;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = { ...START };
  for (const name of ["view", "q", ...FILTERS]) found[name] = given.get(name) ?? "";
  if (given.get("colour") in CHANNELS) found.channel = given.get("colour");
  found.numbers = given.get("numbers") !== "0";
  if (given.has("trajectory")) {
    const key = given.get("trajectory");
    const name = given.has("run") ? runNamed(given.get("run")) : index.runs[0].name;
    found.row = index.rows.find((row) => index.runs[row.run].name === name && row.key === Number(key)) ?? null;
    if (!found.row) found.missing = `There is no trajectory ${key} of run ${name} in this page.`;
    else if (given.has("step")) found.step = clamp(Number(given.get("step")) - 1 || 0, found.row.length);
  } else if (given.has("run")) found.in = runNamed(given.get("run"));
  if (!found.view) found.view = given.has("trajectory") || given.has("run") ? "trajectories" : "overview";
  return found;
}

function addressOf({ view, q, row, step, channel, numbers, ...rest }) {
  const given = new URLSearchParams();
  if (row) {
    given.set("run", index.runs[row.run].name);
    given.set("trajectory", row.key);
    if (step !== null) given.set("step", step + 1);
  }
  if (view === "overview" || !row) given.set("view", view);
  if (q) given.set("q", q);
  for (const name of FILTERS) if (rest[name]) given.set(name, rest[name]);
  if (channel !== START.channel) given.set("colour", channel);
  if (!numbers) given.set("numbers", "0");
  return `#${given}`;
}

// Changes the state, the address and what is shown. Going somewhere makes a new entry in the history, typing does not.
function go(change) {
  if (change.view === "trajectories" && state.view === "overview") change = { ...NO_FILTER, row: null, step: null, ...change };
  if (change.row) change = { view: "trajectories", ...change };
  const goesSomewhere = ["view", "row", "step"].some((name) => name in change && change[name] !== state[name]);
  state = { ...state, missing: null, ...change };
  history[goesSomewhere ? "pushState" : "replaceState"](null, "", addressOf(state));
  render();
}

// -- Showing ------------------------------------------------------------------------------------------------

function render() {
  const { view: name, row, missing } = state;
  $("overview").hidden = name === "trajectories";
  $("trajectories").hidden = name !== "trajectories";
  for (const other of ["overview", "trajectories"]) {
    $(`to-${other}`).setAttribute("aria-current", String((name === "trajectories") === (other === "trajectories")));
  }
  $("trajectories").classList.toggle("reading", row !== null);
  if (name !== "trajectories") return;
  for (const filter of FILTERS) $(`filter-${filter}`).value = state[filter];
  if ($("query").value !== state.q) $("query").value = state.q;
  const filter = JSON.stringify([state.q, ...FILTERS.map((key) => state[key])]);
  if (filter !== shownFilter) applyFilter((shownFilter = filter));
  list.choose(row);
  if (row) view.show(row, { step: state.step, channel: state.channel, numbers: state.numbers, terms: searchTerms(state.q) });
  else view.close();
  if (missing) $("detail").replaceChildren(make("p.empty", {}, missing));
}

async function applyFilter(filter) {
  const run = index.runs.findIndex((known) => known.name === state.in);
  const rows = index.rows.filter((row) =>
    (!state.in || row.run === run) && (!state.type || row.type === state.type) &&
    (!state.outcome || row.success === (state.outcome === "solved")) &&
    (!state.iteration || String(row.iteration) === state.iteration));
  const terms = searchTerms(state.q);
  const total = index.rows.length.toLocaleString("en");
  const count = (found, more) => ($("count").textContent = `${found.length.toLocaleString("en")} of ${total} trajectories${more}`);
  if (!terms.length) {
    list.show(rows);
    count(rows, "");
    return;
  }
  const found = [];
  let shown = performance.now();
  await search(rows, terms, (row) => {
    found.push(row);
    if (performance.now() - shown < 80) return;
    shown = performance.now();
    list.show(found);
    count(found, " so far …");
  }, () => filter === shownFilter);
  if (filter !== shownFilter) return;
  list.show(found);
  list.choose(state.row);
  count(found, "");
}

function fillFilters() {
  const sorted = (values) => [...new Set(values)]
    .filter((value) => value != null && value !== "")
    .sort((a, b) => a - b || String(a).localeCompare(String(b)));
  const choices = {
    outcome: [["", "any outcome"], ["solved", "solved"], ["failed", "not solved"]],
    type: [["", "all task types"], ...sorted(index.rows.map((row) => row.type)).map((type) => [type, type])],
    iteration: [["", "all iterations"], ...sorted(index.rows.map((row) => row.iteration)).map((i) => [i, `iteration ${i}`])],
    in: [["", "all runs"], ...index.runs.map((run) => [run.name, run.name])],
  };
  for (const [name, options] of Object.entries(choices)) {
    const select = $(`filter-${name}`);
    select.append(...options.map(([value, label]) => make("option", { value }, label)));
    select.hidden = options.length < 3;
    select.addEventListener("change", () => go({ [name]: select.value }));
  }
}

// -- Theme, help, keys --------------------------------------------------------------------------------------

const THEMES = { system: "◐", light: "☀", dark: "☾" };

function stored(key, value) {
  // Storage may be forbidden, for a page opened as a file for instance.
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return value ?? null;
  }
}

function applyTheme(next) {
  const theme = stored("opid-gym-theme", next) ?? "system";
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = THEMES[theme] ?? THEMES.system;
  $("theme").setAttribute("aria-label", `Theme: ${theme}. Change it`);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  applyTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
}

function toggleHelp() {
  const dialog = $("help");
  if (dialog.open) return dialog.close();
  dialog.replaceChildren(make("h2", { id: "help-title" }, "Keys"),
    make("dl.keys-help", {}, ...KEYS.map(([keys, meaning]) => make("div", {}, make("dt", {}, keys), make("dd", {}, meaning)))),
    make("p.note", {}, "Search finds texts with all the words; \"quotes\" keep words together. A click on a curve shows the "
      + "trajectories of that iteration. The address always links to what you see."),
    make("form", { method: "dialog" }, make("button", {}, "Close")));
  dialog.showModal();
}

function moveTrajectory(by) {
  const row = list.neighbour(by);
  if (row) go({ row, step: null });
}

function moveStep(by) {
  if (state.row?.length) go({ step: clamp(state.step === null ? 0 : state.step + by, state.row.length) });
}

function wire() {
  $("to-overview").addEventListener("click", () => go({ view: "overview" }));
  $("to-trajectories").addEventListener("click", () => go({ view: "trajectories" }));
  $("theme").addEventListener("click", nextTheme);
  $("help-button").addEventListener("click", toggleHelp);
  $("query").addEventListener("input", () => go({ q: $("query").value }));
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => {
    state = readAddress();
    render();
  });
  const keys = {
    j: () => moveTrajectory(1), k: () => moveTrajectory(-1),
    l: () => moveStep(1), h: () => moveStep(-1), ArrowRight: () => moveStep(1), ArrowLeft: () => moveStep(-1),
    c: () => go({ channel: Object.keys(CHANNELS)[(Object.keys(CHANNELS).indexOf(state.channel) + 1) % 4] }),
    n: () => go({ numbers: !state.numbers }),
    o: () => go({ view: state.view === "overview" ? "trajectories" : "overview" }),
    t: nextTheme,
    "?": toggleHelp,
    "/": () => {
      if (state.view !== "trajectories") go({ view: "trajectories" });
      $("query").focus();
      $("query").select();
    },
    Escape: () => go({ row: null, step: null }),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open && event.key !== "?") return;
    if (event.target.matches("input[type=search]")) {
      if (event.key === "Escape" || event.key === "Enter") $("list").focus();
      return;
    }
    if (event.target.matches("select, input")) return;
    const inList = event.target.id === "list" && { ArrowDown: () => moveTrajectory(1), ArrowUp: () => moveTrajectory(-1) }[event.key];
    const action = inList || keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

watchTokens($("detail"), $("tip"));
$("overview").append(...overview(index, go));
fillFilters();
wire();
applyTheme();
render();
$("main").setAttribute("aria-busy", "false");
requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("opid-gym-open")));
