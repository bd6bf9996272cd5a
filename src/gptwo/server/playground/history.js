// The continuations so far, newest first: what was asked, with which seed, how fast it came; and each again.

import { duration, make, plural, rate } from "./format.js";

const MOST = 100;
const SHOWN = 280;

export class History {
  /** actions: {replay, copyCurl, copyPython}, each given an entry. */
  constructor(box, actions) {
    this.box = box;
    this.actions = actions;
    this.load([]);
  }

  add(entry) {
    this.entries.unshift(entry);
    this.entries.length = Math.min(this.entries.length, MOST);
    this.#draw();
  }

  load(entries) {
    this.entries = [...entries];
    this.#draw();
  }

  #draw() {
    if (this.entries.length === 0) {
      this.box.replaceChildren(make("p", { class: "nothing" }, "Each continuation will be kept here with its seed, to be replayed or copied."));
      return;
    }
    this.box.replaceChildren(...this.entries.map((entry) => this.#entry(entry)));
  }

  #entry(entry) {
    const { replay, copyCurl, copyPython } = this.actions;
    const shown = entry.text.length > SHOWN ? `${entry.text.slice(0, SHOWN)}…` : entry.text;
    const button = (label, action) => make("button", { type: "button", class: "link", click: () => action(entry) }, label);
    return make(
      "article",
      { class: "past" },
      make("p", { class: "past-text" }, shown.trim() === "" ? "(nothing but white space)" : shown.trim()),
      make("p", { class: "past-facts" }, facts(entry)),
      make("div", { class: "past-actions" }, button("Replay", replay), button("Copy as curl", copyCurl), button("Copy as Python", copyPython)),
    );
  }
}

/** "80 tokens · seed 1234 · 312 tokens/s · first after 18 ms". */
export function facts({ tokens, body, index, seconds, first, ended }) {
  const parts = [plural(tokens, "token"), `seed ${body.seed}`];
  if ((body.n ?? 1) > 1) parts.push(`text ${index + 1} of ${body.n}`);
  if (tokens > 1 && seconds > 0) parts.push(`${rate(tokens / seconds)} tokens/s`);
  if (first > 0) parts.push(`first after ${duration(first)}`);
  if (ended) parts.push(ended);
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}
