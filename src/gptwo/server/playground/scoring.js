// The probabilities of what a person wrote: asked of the server when they are to be seen, once the typing rests.

import { json } from "./api.js";
import { readLogprobs, unitsOf } from "./tokens.js";

const REST = 350; // milliseconds without a change
const ALTERNATIVES = 8;

/** Units of the scored text for the places where nothing is known yet. */
export function filled(state, scored) {
  const units = [...state.units];
  let at = 0;
  const added = [];
  for (const unit of scored) {
    while (at < units.length && units[at].end <= unit.start) at += 1;
    if (at === units.length || unit.end <= units[at].start) added.push(unit);
  }
  return { ...state, units: [...units, ...added].sort((one, other) => one.start - other.start) };
}

export class Scorer {
  #timer = null;
  #abort = null;
  #done = null; // the text that was scored last, so that nothing is asked twice

  /** parts: {doc, model, idle, refused, settled}: idle() says whether this is a good moment, refused(sentence) that there is none. */
  constructor(parts) {
    Object.assign(this, parts);
  }

  /** Whether probabilities are on their way. */
  get waiting() {
    return this.#timer !== null || this.#abort !== null;
  }

  /** The document may have changed. */
  wake(on) {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (!on || this.doc.text === "" || !this.idle() || this.doc.text === this.#done || !this.#lacks()) return;
    this.#timer = setTimeout(() => this.#score(), REST);
  }

  #lacks() {
    let end = 0;
    for (const unit of this.doc.state.units) {
      if (unit.start > end) return true;
      end = unit.end;
    }
    return end < this.doc.text.length;
  }

  async #score() {
    this.#timer = null;
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    const text = this.doc.text;
    try {
      const body = { model: this.model.id, input: text, logprobs: ALTERNATIVES };
      const { data } = await json("v1/score", body, abort.signal);
      if (this.doc.text !== text || !this.idle()) return;
      this.#done = text;
      const tokens = readLogprobs(data[0], data[0].token_ids);
      this.doc.set(filled(this.doc.state, unitsOf(tokens, text)));
    } catch (error) {
      // Colours are a help: where they cannot be had now, the text is shown without, and tried again after a change.
      if (error.kind === "refused") this.refused(error.message);
    } finally {
      if (this.#abort === abort) this.#abort = null;
      this.settled();
    }
  }
}
