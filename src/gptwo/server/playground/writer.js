// The writing hand: asks the model to go on, puts what comes into the document, and stops when told to.

import { events, json, ServerError } from "./api.js";
import { fit } from "./context.js";
import { replaced } from "./document.js";
import { plural } from "./format.js";
import { Run, speedOf } from "./run.js";

const MOST_TRIES = 6;
const LONGEST_WAIT = 30; // seconds

/** A seed that a person can read out. */
export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000_000;

export class Writer {
  #abort = null;
  #runs = [];
  #frame = null;
  #last = null;

  /** parts: {doc, surface, parameters, notices, candidates, history, model, changed, keyWanted,
   *  parameterWanted}. */
  constructor(parts) {
    Object.assign(this, parts);
    this.run = null; // the one that goes into the document
    this.unseen = 0;
  }

  /** The figures of what is written, or was written last. */
  get speed() {
    return speedOf(this.#runs);
  }

  /** The seed of what is written, or was written last. */
  get seed() {
    return this.#last?.body.seed ?? this.history.entries[0]?.body.seed ?? null;
  }

  /** What was written belongs to another document. */
  forget() {
    this.#runs = [];
    this.#last = null;
  }

  get running() {
    return this.#abort !== null;
  }

  /** Whether the last continuation is still as it was made. */
  get canAgain() {
    return !this.running && this.#last !== null && this.doc.text === this.#last.result;
  }

  /** The request that going on from a place would send. Throws ServerError; `signal` ends it. */
  async request(at, signal, seed = this.parameters.get("seed")) {
    const parameters = this.parameters.body();
    const model = this.model.id;
    const slides = this.parameters.get("overflow") === "slide";
    const maxTokens = this.parameters.get("max_tokens");
    const before = this.doc.text.slice(0, at);
    const fitted = await fit(before, { model, context: this.model.max_model_len, maxTokens, slides, signal });
    if (fitted.maxTokens !== maxTokens) parameters.max_tokens = fitted.maxTokens;
    return {
      body: { model, prompt: fitted.prompt, ...parameters, seed: seed ?? newSeed() },
      dropped: fitted.dropped,
    };
  }

  /** Go on from the cursor. */
  go() {
    if (this.running) return this.stop();
    if (this.candidates.open) this.dismiss();
    return this.#write(this.surface.cursor, { name: "continuation" });
  }

  /** The last continuation again, with another seed; a step back returns to it. */
  again() {
    if (!this.canAgain) return null;
    const { base, at } = this.#last;
    this.doc.mark("another continuation", this.surface.cursor);
    this.doc.set(base);
    return this.#write(at, { seed: newSeed() });
  }

  /** A continuation of the history, from the text that stood there then. */
  replay(entry) {
    if (this.running) this.stop();
    if (this.candidates.open) this.dismiss();
    this.doc.mark("replay", this.surface.cursor);
    this.doc.replace(entry.before + entry.after);
    const dropped = entry.before.length - entry.body.prompt.length;
    return this.#write(entry.before.length, { request: { body: entry.body, dropped }, index: entry.index });
  }

  /** Put another token in a unit's place, drop what the model wrote behind it, and go on from there. */
  take(unit, text) {
    if (this.running) this.stop();
    const { state } = this.doc;
    const span = state.made.find(([start, end]) => start <= unit.start && unit.start < end);
    this.doc.mark("alternative", this.surface.cursor);
    const known = unit.tokens.length === 1 ? unit.tokens[0].top.find(([other]) => other === text) : null;
    const end = unit.start + text.length;
    const units = known ? [{ start: unit.start, end, text, tokens: [{ ...unit.tokens[0], id: null, text, logprob: known[1] }] }] : [];
    this.doc.set(replaced(state, unit.start, span ? span[1] : unit.end, text, { units, byModel: span !== undefined }));
    this.surface.cursor = end;
    this.surface.focus();
    return this.#write(end, {});
  }

  /** Choose one of the texts side by side. */
  choose(index) {
    const { base, at, body } = this.#last;
    const run = this.#runs[index];
    if (this.running) this.stop();
    this.candidates.hide();
    this.doc.mark("continuation", at);
    this.#put(base, run);
    this.#record(run, base, body, index);
    this.surface.focus();
    this.surface.cursor = at + run.text.length;
    this.surface.reveal(this.surface.cursor);
    this.notices.say(`Text ${index + 1} is in its place.`);
  }

  /** None of the texts side by side. */
  dismiss() {
    if (this.running) this.stop();
    this.candidates.hide();
    this.surface.focus();
    this.changed();
  }

  /** The person writes: what is under way ends, and texts that wait to be chosen go. */
  yield() {
    if (this.candidates.open) this.candidates.hide();
    if (this.running) this.stop();
  }

  /** Stop at once; what has come is kept. */
  stop() {
    if (this.running) this.#abort.abort();
    this.#end("stopped");
  }

  async #write(at, { name = null, seed, request = null, index = null }) {
    const abort = new AbortController();
    this.#abort = abort;
    this.#runs = [];
    this.notices.clear();
    if (this.candidates.open) this.candidates.hide();
    const base = this.doc.state;
    this.changed();
    try {
      const { body, dropped } = request ?? (await this.request(at, abort.signal, seed));
      if (abort.signal.aborted) return;
      const count = body.n ?? 1;
      const several = count > 1 && index === null;
      this.#runs = Array.from({ length: count }, () => new Run(at));
      this.run = this.#runs[index ?? 0];
      this.unseen = dropped;
      this.#last = { base, at, body, several, index: index ?? 0 };
      if (dropped > 0) this.notices.show(`The text is longer than the model's ${this.model.max_model_len} tokens: it no longer sees the first ${plural(dropped, "character")}, which are dotted.`);
      if (several) this.candidates.show(count);
      else if (name !== null) this.doc.mark(name, at);
      this.#last.marked = !several && name !== null;
      this.surface.follows = !several;
      this.notices.say(several ? `Writing ${count} texts.` : "Writing.");
      for await (const chunk of this.#chunks(body, abort.signal)) {
        if (abort.signal.aborted) return;
        for (const choice of chunk.choices ?? []) this.#runs[choice.index]?.add(choice);
        this.#schedule();
      }
      this.#end(null);
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#end("broken");
      this.#explain(error, () => this.#write(at, { name, seed, request, index }));
    }
  }

  /** The chunks of an answer. While the server is busy it is asked again, after as long as it says. */
  async *#chunks(body, signal) {
    const asked = { ...body, logprobs: body.logprobs ?? 0, return_token_ids: true };
    // Of several texts to choose the likeliest from, none can be shown before all are done.
    const streams = (body.best_of ?? 1) <= (body.n ?? 1);
    for (let tries = 1; ; tries += 1) {
      try {
        for (const run of this.#runs) run.started = performance.now();
        if (streams) yield* events("v1/completions", { ...asked, stream: true }, signal);
        else yield await json("v1/completions", asked, signal);
        return;
      } catch (error) {
        const begun = this.#runs.some((run) => run.tokens > 0);
        if (error.kind !== "busy" || begun || tries === MOST_TRIES) throw error;
        await this.#wait(error, signal);
      }
    }
  }

  /** Count down to the next try. */
  async #wait({ message, retryAfter }, signal) {
    for (let left = Math.min(LONGEST_WAIT, Math.max(1, retryAfter)); left > 0; left -= 1) {
      this.notices.show(`${message.replace(/[.;]?$/, ".")} Trying again in ${left} s.`);
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 1000);
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          reject(new DOMException("stopped", "AbortError"));
        });
      });
    }
    this.notices.clear();
  }

  #schedule() {
    if (document.hidden) {
      this.#show();
    } else if (this.#frame === null) {
      this.#frame = requestAnimationFrame(() => this.#show());
    }
  }

  #show() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const { base, several } = this.#last;
    if (several && !this.candidates.open) return;
    if (several) {
      const before = base.text.slice(0, this.run.at);
      this.#runs.forEach((run, index) => {
        // A card has its text alone, so its units begin at 0.
        const units = run.unitsAfter(before).map((unit) => ({ ...unit, start: unit.start - run.at, end: unit.end - run.at }));
        this.candidates.update(index, { text: run.text, units, finished: run.finish });
      });
      this.changed();
      return;
    }
    // The cursor goes along with the pen unless the person took it elsewhere.
    const along = this.surface.cursor === this.pen;
    this.#put(base, this.run);
    if (along) this.surface.cursor = this.pen;
  }

  /** Where the next letter comes, or null while nothing is written into the document. */
  get pen() {
    if (!this.running || !this.#last || this.#last.several || this.#runs.length === 0) return null;
    return Math.min(this.run.at + this.run.text.length, this.doc.text.length - (this.#last.base.text.length - this.run.at));
  }

  #put(base, run) {
    const before = base.text.slice(0, run.at);
    this.doc.set(replaced(base, run.at, run.at, run.text, { units: run.unitsAfter(before), byModel: true }));
  }

  /** The end of what is under way, by itself or not. */
  #end(reason) {
    if (!this.running) return;
    this.#abort = null;
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    if (this.#runs.length === 0) return this.changed();
    for (const run of this.#runs) run.end();
    const { base, body, several, index, marked } = this.#last;
    const nothing = this.#runs.every((run) => run.tokens === 0);
    if (several) {
      if (nothing) this.candidates.hide();
      else this.#finishSeveral();
    } else if (nothing && reason !== null) {
      if (marked) this.doc.unmark();
    } else {
      const along = this.surface.cursor >= this.run.at && this.surface.cursor <= this.run.at + this.run.text.length;
      this.#put(base, this.run);
      if (along) this.surface.cursor = this.run.at + this.run.text.length;
      if (this.surface.follows) this.surface.reveal(this.run.at + this.run.text.length);
      this.#record(this.run, base, body, index, reason);
      this.notices.say(`${reason === "stopped" ? "Stopped after" : "Done,"} ${plural(this.run.tokens, "token")}: ${this.run.text.slice(0, 600)}`);
    }
    this.changed();
  }

  #finishSeveral() {
    if (!this.candidates.open) return;
    this.#show();
    if (document.activeElement === this.surface.text || document.activeElement === document.body) this.candidates.focus();
    this.notices.say(`${plural(this.#runs.length, "text")} to choose from. Arrow keys move between them, Enter takes one, Escape takes none.`);
  }

  #record(run, base, body, index, reason = null) {
    const { first, seconds } = speedOf([run]);
    const ended = reason ?? (run.finish === "stop" ? "ended by itself" : "");
    this.history.add({
      before: base.text.slice(0, run.at),
      after: base.text.slice(run.at),
      body,
      index,
      text: run.text,
      tokens: run.tokens,
      first,
      seconds,
      ended,
    });
    this.#last = { ...this.#last, base, at: run.at, result: this.doc.text };
    this.changed();
  }

  #explain(error, retry) {
    if (!(error instanceof ServerError)) {
      this.notices.fault("Something in this page went wrong; the browser's console says what.");
      console.error(error);
    } else if (error.kind === "key") {
      this.keyWanted(error.message);
    } else if (error.kind !== "refused") {
      this.notices.fault(error.message, ["Try again", retry]);
    } else {
      const shown = error.param !== null && this.parameters.has(error.param);
      this.notices.fault(error.message, shown ? [`Show ${error.param}`, () => this.parameterWanted(error.param)] : null);
    }
  }
}
