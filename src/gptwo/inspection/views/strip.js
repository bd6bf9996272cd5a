// The tokens of a text in a row, one of which is looked at. Each is coloured by the view that shows them.

import { make, pictured, quoted } from "./marks.js";

export class Strip {
  /** chosen(position) hears which one a person picks. */
  constructor(box, tokens, { label, chosen }) {
    this.chosen = chosen;
    this.names = tokens.map((text, position) => `${position}: ${quoted(text)}`);
    this.options = tokens.map((text, position) =>
      make("span", { class: "token", role: "option", tabindex: "-1", "aria-selected": "false", "data-position": position, "aria-label": this.names[position] }, shown(text)),
    );
    // A line of the text ends where a token does.
    const parts = this.options.flatMap((option, position) => (tokens[position].includes("\n") ? [option, make("br")] : [option]));
    this.box = make("div", { class: "strip", role: "listbox", "aria-label": label, "aria-orientation": "horizontal" }, ...parts);
    this.box.addEventListener("click", (event) => {
      const option = event.target.closest(".token");
      if (option) this.chosen(Number(option.dataset.position));
    });
    this.box.addEventListener("keydown", (event) => this.#key(event));
    box.replaceChildren(this.box);
    this.select(0);
  }

  select(position) {
    const before = this.options[this.at ?? position];
    before.tabIndex = -1;
    before.setAttribute("aria-selected", "false");
    this.at = position;
    this.options[position].tabIndex = 0;
    this.options[position].setAttribute("aria-selected", "true");
  }

  /** Give each token a background (null for none) and words that a screen reader adds to its name. */
  colour(backgroundOf, wordsOf) {
    this.options.forEach((option, position) => {
      option.style.background = backgroundOf(position) ?? "";
      option.setAttribute("aria-label", `${this.names[position]}, ${wordsOf(position)}`);
    });
  }

  #key(event) {
    const last = this.options.length - 1;
    const to = { ArrowLeft: this.at - 1, ArrowUp: this.at - 1, ArrowRight: this.at + 1, ArrowDown: this.at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0 || to > last) return;
    this.chosen(to);
    this.options[to].focus();
  }
}

/** A token in running text: spaces stay, a line's end is shown before it ends the line. */
const shown = (text) => pictured(text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍")) || "∅";
