// A reply's tokens, coloured by what they were credited with.

import { appendText, formatNumber, make, percent, signed } from "./text.js";

export const CHANNELS = { skill: "skill advantage", outcome: "outcome advantage", sum: "sum of both", off: "no colour" };

function valueOf(tokens, channel, i) {
  if (channel === "off") return null;
  if (channel !== "sum") return tokens[channel]?.[i] ?? null;
  const [outcome, skill] = [tokens.outcome?.[i], tokens.skill?.[i]];
  return outcome == null || skill == null ? null : outcome + skill;
}

// The reply as one focusable row of tokens; arrow keys move within it.
export function tokenRow(tokens, terms) {
  const row = make("div.tokens", { role: "group", "aria-label": `Reply, ${tokens.texts.length} tokens` });
  tokens.texts.forEach((text, i) => {
    const token = make("span.token", { tabindex: i ? -1 : 0, role: "note" });
    // A line end is shown where it is, and breaks the line after its token.
    appendText(token.appendChild(make("span.piece")), text.replaceAll("\n", "↵") || "∅", terms);
    token.append(make("span.value", { "aria-hidden": "true" }));
    token.describe = () => describe(tokens, i);
    row.append(token);
    if (text.includes("\n") && i + 1 < tokens.texts.length) row.append(make("br"));
  });
  row.tokens = tokens;
  return row;
}

function describe(tokens, i) {
  const lines = [];
  for (const channel of ["skill", "outcome", "sum"]) {
    const value = valueOf(tokens, channel, i);
    if (value !== null) lines.push(`${CHANNELS[channel]} ${signed(value, 4)}`);
  }
  const logProb = tokens.log_probs?.[i];
  if (logProb != null) lines.push(`probability ${percent(Math.exp(logProb))} (log ${formatNumber(logProb, 4)})`);
  return { text: tokens.texts[i], lines: lines.length ? lines : ["no advantage recorded"] };
}

// Two digits at the size of the scale, as short as can be: "+.08".
function brief(value, scale) {
  const digits = Math.max(0, Math.min(8, 1 - Math.floor(Math.log10(scale))));
  const text = Math.abs(value).toFixed(digits).replace(/^0\./, ".");
  if (/^[.0]*$/.test(text)) return value ? "≈0" : "0";
  return (value > 0 ? "+" : "−") + text;
}

// Colours every token row below `root` by a channel; a run's scale says where the colour is strongest.
export function colourTokens(root, channel, scale) {
  for (const row of root.querySelectorAll(".tokens")) {
    row.querySelectorAll(".token").forEach((token, i) => {
      const value = valueOf(row.tokens, channel, i);
      const strength = value === null ? 0 : Math.min(1, Math.abs(value) / (scale || 1));
      token.classList.toggle("up", value > 0);
      token.classList.toggle("down", value < 0);
      token.style.setProperty("--strength", `${(strength * 100).toFixed(0)}%`);
      token.lastChild.textContent = value === null ? "" : brief(value, scale || 1);
      const { text, lines } = token.describe();
      token.setAttribute("aria-label", `${JSON.stringify(text)}: ${lines.join(", ")}`);
    });
  }
}

export function legend(channel, scale) {
  if (channel === "off") return make("div.legend");
  if (!scale) return make("div.legend", {}, make("span.note", {}, "No token here has one."));
  return make(
    "div.legend",
    { role: "img", "aria-label": `Colour scale from ${signed(-scale)} (orange) over 0 to ${signed(scale)} (blue)` },
    make("span", {}, `≤ ${signed(-scale)}`),
    make("span.ramp"),
    make("span", {}, `≥ ${signed(scale)}`),
  );
}

// One tip for all tokens, on hover and on focus.
export function watchTokens(root, tip) {
  const show = (event) => {
    const token = event.target.closest?.(".token");
    if (!token) return void (tip.hidden = true);
    const { text, lines } = token.describe();
    tip.replaceChildren(make("code", {}, JSON.stringify(text)), ...lines.map((line) => make("div", {}, line)));
    tip.hidden = false;
    const box = token.getBoundingClientRect();
    const left = Math.min(box.left, innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 6}px`;
  };
  const hide = () => (tip.hidden = true);
  root.addEventListener("pointerover", show);
  root.addEventListener("focusin", show);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("focusout", hide);
  root.addEventListener("scroll", hide, { passive: true });
  root.addEventListener("keydown", (event) => {
    const token = event.target.closest?.(".token");
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!token || !move) return;
    const all = [...token.parentElement.querySelectorAll(".token")];
    const next = all[all.indexOf(token) + move];
    event.preventDefault();
    event.stopPropagation();
    if (!next) return;
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
