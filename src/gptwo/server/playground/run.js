// One text being written: what came so far, token by token and letter by letter, and how fast.

import { readLogprobs, UnitBuilder, within } from "./tokens.js";

export class Run {
  /** at: where in the document's text it begins. */
  constructor(at) {
    this.at = at;
    this.text = "";
    this.tokens = 0;
    this.finish = null;
    this.first = null;
    this.last = null;
    this.started = performance.now();
    this.units = [];
    this.builder = new UnitBuilder(at);
  }

  /** Take one choice of a chunk, or of a whole answer. */
  add(choice) {
    const tokens = readLogprobs(choice.logprobs, choice.token_ids ?? []);
    const count = choice.token_ids?.length ?? tokens.length;
    if (count > 0) {
      this.last = performance.now();
      this.first ??= this.last;
    }
    this.tokens += count;
    this.text += choice.text ?? "";
    for (const token of tokens) this.units.push(...this.builder.push(token));
    this.finish = choice.finish_reason ?? this.finish;
  }

  /** A character whose last bytes never came can't be kept: the model would read something else. */
  end() {
    if (this.builder.pending.length > 0 && this.text.endsWith("\ufffd")) {
      this.text = this.text.slice(0, this.builder.offset - this.at);
    }
  }

  /** The units that lie in the text so far; `before` is the document's text up to here. */
  unitsAfter(before) {
    return within(this.units, before + this.text);
  }
}

/** How fast some texts came together: seconds from the request to the first token and to the last, and tokens/s in all. */
export function speedOf(runs) {
  const begun = runs.filter((run) => run.first !== null);
  if (begun.length === 0) return { tokens: 0, first: 0, seconds: 0, perSecond: null };
  const tokens = begun.reduce((sum, run) => sum + run.tokens, 0);
  const first = Math.min(...begun.map((run) => run.first - run.started)) / 1000;
  const seconds = Math.max(...begun.map((run) => run.last - run.started)) / 1000;
  return { tokens, first, seconds, perSecond: tokens > 1 && seconds > 0 ? tokens / seconds : null };
}
