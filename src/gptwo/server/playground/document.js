// The text, what is known of its tokens, which parts the model wrote, and the way back.
//
// A state is {text, units, made}: units as tokens.js has them, made as [start, end) spans that the model wrote, both in
// order. States are never changed, so a step back is a state that was kept.

const EMPTY = { text: "", units: [], made: [] };
const MOST_STEPS = 500;

/** The state with text[start:end] replaced. What is known of tokens behind that place no longer holds, and goes. */
export function replaced(state, start, end, insert, { units = [], byModel = false } = {}) {
  const shift = insert.length - (end - start);
  const made = [];
  for (const [from, to] of state.made) {
    if (from < start) made.push([from, Math.min(to, start)]);
    if (to > end) made.push([Math.max(from, end) + shift, to + shift]);
  }
  if (byModel && insert.length > 0) made.push([start, start + insert.length]);
  return {
    text: state.text.slice(0, start) + insert + state.text.slice(end),
    units: [...state.units.filter((unit) => unit.end <= start), ...units],
    made: joined(made),
  };
}

/** Spans in order, those that touch made one. */
function joined(spans) {
  const result = [];
  for (const [from, to] of spans.sort((one, other) => one[0] - other[0])) {
    const last = result.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else if (to > from) result.push([from, to]);
  }
  return result;
}

/** What changed between two texts, as [start, end of the old, inserted]; the cursor stands behind what was inserted. */
export function difference(before, after, cursor) {
  let tail = 0;
  const most = Math.min(before.length, after.length, after.length - cursor);
  while (tail < most && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  let head = 0;
  const limit = Math.min(before.length, after.length) - tail;
  while (head < limit && before[head] === after[head]) head += 1;
  return [head, before.length - tail, after.slice(head, after.length - tail)];
}

export class Doc {
  #back = [];
  #forward = [];
  #typing = null;

  constructor(changed) {
    this.state = EMPTY;
    this.changed = changed;
  }

  get text() {
    return this.state.text;
  }

  get canUndo() {
    return this.#back.length > 0;
  }

  get canRedo() {
    return this.#forward.length > 0;
  }

  /** What a step back would undo: "typing", "continuation", ... */
  get undoName() {
    return this.#back.at(-1)?.name ?? "";
  }

  /** Keep the present state, so that what comes next can be undone in one step. */
  mark(name, cursor) {
    this.#typing = null;
    this.#back.push({ name, state: this.state, cursor });
    if (this.#back.length > MOST_STEPS) this.#back.shift();
    this.#forward = [];
  }

  /** Drop the newest mark: nothing came of it. */
  unmark() {
    this.#back.pop();
    this.changed();
  }

  set(state) {
    this.state = state;
    this.changed();
  }

  /** Make the text another one, keeping what is known of the part that is the same. */
  replace(text) {
    const [start, end, insert] = difference(this.text, text, text.length);
    this.set(replaced(this.state, start, end, insert));
  }

  /** What a person typed. Letters typed one behind the other are one step; a new line begins another. */
  type(text, cursor) {
    const [start, end, insert] = difference(this.text, text, cursor);
    if (start === end && insert === "") return;
    const goesOn = this.#typing !== null && (start === this.#typing || end === this.#typing);
    if (!goesOn || insert.length > 1) this.mark("typing", end);
    this.#typing = insert.includes("\n") ? null : start + insert.length;
    this.set(replaced(this.state, start, end, insert));
  }

  /** One step back; returns where the cursor stood, or null. */
  undo(cursor) {
    return this.#step(this.#back, this.#forward, cursor);
  }

  redo(cursor) {
    return this.#step(this.#forward, this.#back, cursor);
  }

  #step(from, to, cursor) {
    const entry = from.pop();
    if (!entry) return null;
    to.push({ name: entry.name, state: this.state, cursor });
    this.#typing = null;
    this.set(entry.state);
    return Math.min(entry.cursor, this.text.length);
  }
}
