// The page's data: an index that is read at once, and one body for each trajectory, unpacked when it is needed.

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

export async function loadIndex() {
  const index = await unpack("index");
  index.rows.forEach((row, number) => (row.number = number));
  return index;
}

const KEPT_BODIES = 64;
const bodies = new Map();

// The steps and texts of a row.
export async function loadBody(row) {
  const body = bodies.get(row.number) ?? (await unpack(`body-${row.number}`));
  bodies.delete(row.number);
  bodies.set(row.number, body);
  if (bodies.size > KEPT_BODIES) bodies.delete(bodies.keys().next().value);
  return body;
}

// -- Search -------------------------------------------------------------------------------------------------

const haystacks = [];

// "two words" and "\"a phrase\"" -> lower-case terms; all of them must occur.
export function searchTerms(query) {
  return Array.from(query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g), (match) => match[1] ?? match[2]);
}

// Prompts repeat the history: of each only the lines are kept that the one before it did not begin with.
function newText(prompt, before) {
  let same = 0;
  while (same < prompt.length && prompt[same] === before[same]) same++;
  return prompt.slice(prompt.lastIndexOf("\n", same - 1) + 1);
}

function haystackOf(row, body) {
  const parts = [row.task, row.task_id, row.type, body.episode_summary ?? "", body.episode_skill ?? "", body.last];
  let before = "";
  for (const step of body.steps) {
    parts.push(step.observation, step.action, step.reply ?? "", ...Object.values(step.skills ?? {}));
    if (step.hindsight) parts.push(step.hindsight.better ?? "", step.hindsight.reason ?? "", ...(step.hindsight.reached ?? []));
    if (step.prompt) parts.push(newText(step.prompt, before));
    before = step.prompt ?? before;
  }
  return parts.join("\n").toLowerCase();
}

export const pause = () => new Promise((resolve) => setTimeout(resolve));

// Calls found(row) for each of the rows that have every term, without holding up the page. `wanted()` false ends it.
export async function search(rows, terms, found, wanted) {
  let sliceEnd = performance.now() + 12;
  for (const row of rows) {
    if (haystacks[row.number] === undefined) {
      const body = bodies.get(row.number) ?? (await unpack(`body-${row.number}`));
      haystacks[row.number] = haystackOf(row, body);
    }
    if (performance.now() > sliceEnd) {
      await pause();
      sliceEnd = performance.now() + 12;
    }
    if (!wanted()) return;
    if (terms.every((term) => haystacks[row.number].includes(term))) found(row);
  }
}
