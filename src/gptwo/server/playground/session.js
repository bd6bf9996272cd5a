// A session as a file: the text, what is known of its tokens, the parameters, and the continuations so far.

const FORMAT = "gptwo playground session";
const VERSION = 1;

/** What a broken file is refused with: one sentence. */
export class SessionError extends Error {}

export function write({ state, parameters, history, model }) {
  return JSON.stringify({
    format: FORMAT,
    version: VERSION,
    model,
    saved: new Date().toISOString(),
    text: state.text,
    made: state.made,
    tokens: state.units.map(({ start, end, tokens }) => [start, end, tokens.map(({ id, text, logprob, top }) => [id, text, logprob, top])]),
    parameters,
    continuations: history,
  });
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Read a session; `name` is the file's, for the sentence. Throws SessionError. */
export function read(text, name) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new SessionError(`${name} is no session: it is not JSON, or not all of it.`);
  }
  if (!isObject(data) || data.format !== FORMAT) throw new SessionError(`${name} is no session of this playground.`);
  if (data.version !== VERSION) throw new SessionError(`${name} is a session of another version (${data.version}) than this page reads (${VERSION}).`);
  const broken = (what) => new SessionError(`${name} is a damaged session: its ${what} cannot be read.`);
  if (typeof data.text !== "string") throw broken("text");
  if (!isObject(data.parameters)) throw broken("parameters");
  const made = spans(data.made, data.text.length);
  if (made === null) throw broken("spans");
  const units = tokensOf(data.tokens, data.text);
  if (units === null) throw broken("tokens");
  if (!Array.isArray(data.continuations) || !data.continuations.every(isContinuation)) throw broken("history");
  return {
    state: { text: data.text, units, made },
    parameters: data.parameters,
    history: data.continuations,
    model: typeof data.model === "string" ? data.model : "",
  };
}

/** Spans or units are in order, do not overlap, and lie in the text. */
function inOrder(pairs, length) {
  let last = 0;
  for (const [start, end] of pairs) {
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < last || end < start || end > length) return false;
    last = end;
  }
  return true;
}

function spans(value, length) {
  const good = Array.isArray(value) && value.every((span) => Array.isArray(span) && span.length === 2) && inOrder(value, length);
  return good ? value : null;
}

function tokensOf(value, text) {
  if (!Array.isArray(value)) return null;
  const units = [];
  for (const item of value) {
    if (!Array.isArray(item) || !Array.isArray(item[2]) || !item[2].every(isToken)) return null;
    const [start, end, tokens] = item;
    units.push({
      start,
      end,
      text: text.slice(start, end),
      tokens: tokens.map(([id, own, logprob, top]) => ({ id, text: own, logprob, top })),
    });
  }
  return inOrder(units.map(({ start, end }) => [start, end]), text.length) ? units : null;
}

function isToken(token) {
  if (!Array.isArray(token) || token.length !== 4) return false;
  const [id, text, logprob, top] = token;
  return (
    (id === null || Number.isInteger(id)) &&
    typeof text === "string" &&
    (logprob === null || isNumber(logprob)) &&
    Array.isArray(top) &&
    top.every((pair) => Array.isArray(pair) && typeof pair[0] === "string" && isNumber(pair[1]))
  );
}

function isContinuation(entry) {
  return (
    isObject(entry) &&
    isObject(entry.body) &&
    typeof entry.body.prompt === "string" &&
    typeof entry.before === "string" &&
    typeof entry.after === "string" &&
    typeof entry.text === "string" &&
    Number.isInteger(entry.index) &&
    isNumber(entry.tokens)
  );
}

/** Hand a text to the person as a file. */
export function download(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
