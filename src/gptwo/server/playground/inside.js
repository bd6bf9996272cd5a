// The third tab of the panel: the text on screen inside the model, as its lens and its attention, asked of the server
// while they are to be seen and once the typing rests.

import { json } from "./api.js";
import { integer, make } from "./format.js";
import { AttentionView } from "./views/attention.js";
import { LensView } from "./views/lens.js";
import { Tip } from "./views/tip.js";
import { Choice, Trace } from "./views/trace.js";

const REST = 600; // milliseconds without a change

export class Inside {
  #timer = null;
  #abort = null;
  #done = null; // the model and text that are shown
  #head = null; // the layer and head that were chosen, kept from text to text

  /** parts: {box, doc, model, idle, keyWanted}: idle() says whether this is a good moment. */
  constructor(parts) {
    Object.assign(this, parts);
    this.tip = new Tip();
    this.status = make("p", { class: "nothing", role: "status" });
    this.views = make("div", { class: "inside" });
    this.box.replaceChildren(this.status, this.views);
  }

  /** The document, or whether this tab is seen, may have changed. */
  wake() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.box.hidden || this.box.closest("[hidden]")) return;
    if (this.doc.text === "") return this.#clear("Write something, and see what the model makes of it.");
    const wanted = `${this.model.id}\n${this.doc.text}`;
    if (wanted === this.#done || !this.idle()) return;
    if (this.#done === null) this.status.textContent = "Looking inside; the first time the model is loaded for it…";
    this.box.setAttribute("aria-busy", "true");
    this.#timer = setTimeout(() => this.#look(wanted), REST);
  }

  #clear(sentence) {
    this.#abort?.abort();
    this.#done = null;
    this.views.replaceChildren();
    this.status.textContent = sentence;
    this.box.removeAttribute("aria-busy");
  }

  async #look(wanted) {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    try {
      const data = await json("v1/inspect", { model: this.model.id, prompt: this.doc.text, truncate_prompt_tokens: -1 }, abort.signal);
      this.#done = wanted;
      this.#show(data);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#clear(error.message);
      if (error.kind === "key") this.keyWanted(error.message);
      else if (error.kind === "busy") this.#timer = setTimeout(() => this.wake(), 1000 * error.retryAfter);
    } finally {
      if (this.#abort === abort) {
        this.#abort = null;
        this.box.removeAttribute("aria-busy");
      }
    }
    // What was typed meanwhile is looked at next.
    if (this.#done !== null) this.wake();
  }

  #show(data) {
    const trace = new Trace(data);
    const last = trace.length - 1;
    const [layer, head] = this.#head ?? trace.loudest(last);
    const choice = new Choice(last, layer, head);
    const [lens, attention] = [make("div", { id: "lens" }), make("div")];
    this.status.textContent = data.left_out > 0 ? `The last ${integer(trace.length)} tokens; ${integer(data.left_out)} before them are left out.` : "";
    this.tip.hide();
    this.views.replaceChildren(
      make("h2", {}, "The lens"),
      make("p", {}, "What the model would say next after each token if it stopped after a layer."),
      lens,
      make("h2", {}, "Attention"),
      make("p", {}, "What each head takes from the tokens before the one that is outlined."),
      attention,
    );
    new LensView(lens, trace, choice, this.tip);
    new AttentionView(attention, trace, choice, this.tip);
    choice.watch((now) => (this.#head = [now.layer, now.head]));
  }
}
