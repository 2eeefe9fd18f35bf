// Text from worlds and models, shown as text whatever is in it. Nothing in this page ever sets innerHTML.

// make("p.note", {title: "x", onclick: f}, child, "text"). In strings everything invisible is made visible.
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children) {
    if (typeof child === "string") appendVisible(element, child);
    else if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

// Characters that would show nothing, or reorder what is around them: controls, formats, half characters.
const ODD = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

function oddCharacter(character) {
  const code = character.codePointAt(0);
  const name = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return make("span.odd", { title: name }, code < 0x20 ? String.fromCodePoint(0x2400 + code) : name);
}

function appendVisible(target, text) {
  let end = 0;
  for (const match of text.matchAll(ODD)) {
    target.append(text.slice(end, match.index), oddCharacter(match[0]));
    end = match.index + match[0].length;
  }
  target.append(text.slice(end));
}

// Appends text to an element, with the search terms marked.
export function appendText(element, text, terms = []) {
  if (terms.length) {
    const escaped = terms.map((term) => term.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"));
    let end = 0;
    for (const match of text.matchAll(new RegExp(escaped.join("|"), "giu"))) {
      appendVisible(element, text.slice(end, match.index));
      appendVisible(element.appendChild(make("mark")), match[0]);
      end = match.index + match[0].length;
    }
    text = text.slice(end);
  }
  appendVisible(element, text);
  return element;
}

const SHOWN = 8000;

// A block of text; a very long one is cut, with a button that shows the rest.
export function textBlock(what, text, terms = []) {
  const block = appendText(make(what, { dir: "auto" }), text.slice(0, SHOWN), terms);
  if (text.length > SHOWN) {
    const more = make("button.more", { type: "button" }, `Show all ${text.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => {
      block.replaceChildren();
      appendText(block, text, terms);
    });
    block.append("… ", more);
  }
  return block;
}

export function formatNumber(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : String(+value.toPrecision(digits));
  return text.replace("-", "−");
}

export const signed = (value, digits = 2) => (value > 0 ? "+" : "") + formatNumber(value, digits);

export const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;

// Calls build(element) once the element comes near the screen.
const builders = new WeakMap();
const nearby = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) buildNow(entry.target);
    }
  },
  { rootMargin: "600px", scrollMargin: "600px" }, // the second for what scrolls inside the page
);
export function whenNear(element, build) {
  builders.set(element, build);
  nearby.observe(element);
  return element;
}
export function buildNow(element) {
  nearby.unobserve(element);
  builders.get(element)?.(element);
  builders.delete(element);
}
