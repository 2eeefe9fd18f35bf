// One trajectory, step by step.

import { loadBody, pause } from "./data.js";
import { outcomeMark } from "./list.js";
import { appendText, buildNow, formatNumber, make, signed, textBlock, whenNear } from "./text.js";
import { CHANNELS, colourTokens, legend, tokenRow } from "./tokens.js";

const STEPS_AT_ONCE = 60;

export class TrajectoryView {
  // `go` changes the page's state.
  constructor(element, index, go) {
    Object.assign(this, { element, index, go, row: null, cards: [] });
  }

  async show(row, { step, channel, numbers, terms }) {
    if (row !== this.row || terms.join("\n") !== this.terms) {
      this.row = row;
      this.terms = terms.join("\n");
      this.cards = [];
      const body = await loadBody(row);
      if (row !== this.row) return;
      this.render(row, body, terms);
      this.channel = null;
      if (step === null) this.element.scrollTop = 0;
    }
    this.paint(channel, numbers);
    this.focusStep(step);
  }

  close() {
    this.row = null;
    this.element.replaceChildren(make("p.empty", {}, "Choose a trajectory: click one, or press j."));
  }

  render(row, body, terms) {
    const run = this.index.runs[row.run];
    const steps = make("ol.steps");
    const hasTokens = body.steps.some((step) => step.tokens);
    this.toolbar = hasTokens ? make("div.toolbar") : null;
    this.element.replaceChildren(...[
      make("button.back.link", { type: "button", onclick: () => this.go({ row: null, step: null }) }, "← All trajectories"),
      make("header", {}, make("h2", {}, outcomeMark(row), appendText(make("span"), row.task, terms)), this.facts(row, run, body)),
      this.siblings(row),
      body.episode_skill ? skillNote("Episode skill", body.episode_skill, terms) : null,
      body.workflow.length ? skillNote("What mattered", body.workflow.join(" → "), terms) : null,
      body.episode_summary ? appendText(make("p.note"), body.episode_summary, terms) : null,
      this.toolbar,
      hasTokens ? null : make("p.note", {}, this.whyNoTokens(row)),
      steps,
    ].filter(Boolean));
    this.cards = body.steps.map((step, i) => this.card(step, i, terms));
    this.append(steps, this.cards, body.last, row, terms);
  }

  // A long trajectory arrives in parts, so that its beginning is there at once.
  async append(steps, cards, last, row, terms) {
    for (let i = 0; i < cards.length; i += STEPS_AT_ONCE) {
      if (i) await pause();
      if (cards !== this.cards) return;
      steps.append(...cards.slice(i, i + STEPS_AT_ONCE));
    }
    if (last) steps.after(make("div.last", {}, make("h3", {}, "At the end"), textBlock("div.text", last, terms)));
  }

  facts(row, run, body) {
    const facts = [
      ["run", run.name],
      ["trajectory", row.key],
      ["iteration", row.iteration],
      ["task type", row.type],
      ["steps", row.length],
      ["return", row.return == null ? null : formatNumber(row.return)],
      ["environment", body.env_id],
      ["task id", row.task_id],
      ...Object.entries(body.metadata),
    ];
    return make("dl.facts", {}, ...facts.filter(([, value]) => value != null && value !== "").map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  }

  group(row) {
    return this.index.rows.filter((other) =>
      other.run === row.run && other.iteration === row.iteration && other.group === row.group && other.task_id === row.task_id);
  }

  whyNoTokens(row) {
    const none = "No token here has an advantage: ";
    if (row.iteration == null) return `${none}only training gives advantages, and this episode was played without it.`;
    const group = this.group(row);
    if (group.every((other) => other.return === row.return)) {
      return `${none}all ${group.length} rollouts of this task shown here have the same return, so the group was not trained.`;
    }
    return `${none}its group was not trained, or the algorithm trains nothing.`;
  }

  siblings(row) {
    const group = this.group(row);
    if (group.length < 2) return null;
    return make("nav.siblings", { "aria-label": "Rollouts of the same task" }, make("span.note", {}, "Rollouts of this task "),
      ...group.map((other) => make("button", {
        type: "button", "aria-current": other === row ? "true" : null, title: `${other.length} steps`,
        onclick: () => this.go({ row: other, step: null }),
      }, outcomeMark(other), make("span", {}, String(other.key)))));
  }

  card(step, i, terms) {
    const card = make("li.step", { id: `step-${i}`, tabindex: -1, "aria-label": `Step ${i + 1}` });
    const head = make("div.step-head", {},
      make("button.number.link", { type: "button", title: "Link to this step", onclick: () => this.go({ step: i }) }, `${i + 1}`),
      step.reward ? make("span.reward", {}, `reward ${signed(step.reward, 3)}`) : null);
    const content = make("div.step-body");
    card.append(head, content);
    return whenNear(card, () => {
      content.append(...[
        textBlock("div.text.observation", step.observation, terms),
        ...Object.entries(step.skills ?? {}).map(([kind, text]) => skillNote(`${kind} skill`, text, terms)),
        step.tokens ? tokenRow(step.tokens, terms) : step.reply != null ? textBlock("div.text.reply", step.reply, terms) : null,
        make("div.action", {}, make("span.note", {}, "action "), appendText(make("code"), step.action || "(none)", terms),
          step.invalid ? make("span.invalid", {}, `invalid: ${step.invalid}`) : null,
          step.reward ? null : make("span.note", {}, `reward ${formatNumber(step.reward)}`)),
        step.hindsight ? hindsightNote(step.hindsight, terms) : null,
        step.prompt != null ? folded("Prompt", step.prompt.length, () => textBlock("pre.text", step.prompt, terms)) : null,
        step.admissible ? folded("Admissible actions", step.admissible.length, () =>
          make("ul.admissible", {}, ...step.admissible.map((action) => appendText(make("li"), action, terms)))) : null,
      ].filter(Boolean));
      if (this.channel) colourTokens(card, this.channel, this.scale());
    });
  }

  scale() {
    return this.index.runs[this.row.run].scale[this.channel];
  }

  paint(channel, numbers) {
    this.element.classList.toggle("numbers", numbers);
    if (channel === this.channel && this.numbers === numbers) return;
    Object.assign(this, { channel, numbers });
    colourTokens(this.element, channel, this.scale());
    this.toolbar?.replaceChildren(
      make("div.switch", { role: "group", "aria-label": "Colour the tokens by" }, ...Object.entries(CHANNELS).map(([key, name]) =>
        make("button", {
          type: "button", title: name, "aria-pressed": String(key === channel), "data-channel": key, onclick: () => this.go({ channel: key }),
        }, key[0].toUpperCase() + key.slice(1)))),
      legend(channel, this.scale()),
      make("label", {}, make("input", {
        type: "checkbox", id: "numbers", checked: numbers, onchange: (event) => this.go({ numbers: event.target.checked }),
      }), "numbers"));
  }

  focusStep(step) {
    this.element.querySelector(".step.current")?.classList.remove("current");
    const card = this.cards[step];
    if (step === null || !card) return;
    if (!card.isConnected) return void pause().then(() => this.cards[step] === card && this.focusStep(step));
    for (const near of this.cards.slice(Math.max(0, step - 3), step + 4)) buildNow(near);
    card.classList.add("current");
    this.holdInView(card, 8);
  }

  // Steps above take their real height only when they come near, which would push this one away.
  holdInView(card, frames) {
    if (!frames || !card.classList.contains("current")) return;
    card.scrollIntoView({ block: "start" });
    requestAnimationFrame(() => this.holdInView(card, frames - 1));
  }
}

function skillNote(name, text, terms) {
  return make("p.skill", {}, make("span.skill-name", {}, name), appendText(make("span"), text, terms));
}

// What looking back says of a step: what it reached, whether it was wasted, and what would have been better.
function hindsightNote({ better, decisive, wasted, reason, reached }, terms) {
  const marks = [
    decisive ? make("span.badge.decisive", {}, "decisive") : null,
    wasted ? make("span.badge.wasted", {}, "wasted") : null,
    ...(reached ?? []).map((goal) => appendText(make("span.badge.reached"), goal, terms)),
  ].filter(Boolean);
  return make("div.hindsight", { role: "group", "aria-label": "Hindsight" },
    make("span.hindsight-name", {}, "Hindsight"),
    better ? make("span.better", {}, make("span.note", {}, "better "), appendText(make("code"), better, terms)) : null,
    ...marks,
    reason ? appendText(make("span.reason"), reason, terms) : null);
}

function folded(name, size, build) {
  const details = make("details.folded", {}, make("summary", {}, name, make("small", {}, ` ${size.toLocaleString("en")}`)));
  details.addEventListener("toggle", () => details.append(build()), { once: true });
  return details;
}
