// Several ways to go on, side by side, to choose one of.

import { make, percent, plural } from "./format.js";
import { logprobOf } from "./tokens.js";

export class Candidates {
  /** chosen(index) and dismissed() are called for what the person does. */
  constructor(box, { chosen, dismissed }) {
    Object.assign(this, { box, chosen, dismissed });
    this.cards = [];
    box.addEventListener("keydown", (event) => this.#key(event));
  }

  get open() {
    return !this.box.hidden;
  }

  show(count) {
    this.cards = Array.from({ length: count }, (_, index) => {
      const node = document.createTextNode("");
      const facts = make("span", { class: "sr" });
      const text = make("span", { class: "candidate-text" });
      text.append(node);
      const line = make("span", {}, "");
      const card = make(
        "button",
        { type: "button", class: "candidate", click: () => this.chosen(index) },
        make("span", { class: "sr" }, `Text ${index + 1}: `),
        text,
        make("span", { class: "candidate-facts" }, make("b", { "aria-hidden": "true" }, String(index + 1)), line, facts),
      );
      return { card, node, line, units: [] };
    });
    this.box.replaceChildren(
      make(
        "div",
        { class: "candidates-head" },
        make("h2", {}, "Choose how it goes on"),
        make("button", { type: "button", class: "link", id: "dismiss", click: () => this.dismissed() }, "None of these"),
      ),
      make("div", { class: "candidates-grid" }, ...this.cards.map(({ card }) => card)),
    );
    this.box.hidden = false;
  }

  update(index, { text, units, finished }) {
    const card = this.cards[index];
    if (text !== card.node.data) card.node.data = text;
    card.units = units;
    const known = units.map(logprobOf).filter((logprob) => logprob !== null);
    const mean = known.length > 0 ? Math.exp(known.reduce((sum, value) => sum + value, 0) / known.length) : null;
    const count = units.reduce((sum, unit) => sum + unit.tokens.length, 0);
    card.line.textContent = mean === null ? "" : `${plural(count, "token")} · ${percent(mean)} likely each`;
    card.card.classList.toggle("done", Boolean(finished));
  }

  /** What paint() needs to colour the cards. */
  sources() {
    return this.open ? this.cards.map(({ node, units }) => ({ node, units })) : [];
  }

  focus() {
    this.cards[0]?.card.focus({ focusVisible: true });
    this.box.scrollIntoView({ block: "nearest" });
  }

  hide() {
    this.box.hidden = true;
    this.box.replaceChildren();
    this.cards = [];
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.cards.findIndex(({ card }) => card === document.activeElement);
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const number = Number(event.key);
    if (move !== undefined && at >= 0) {
      this.cards[(at + move + this.cards.length) % this.cards.length].card.focus();
    } else if (Number.isInteger(number) && number >= 1 && number <= this.cards.length) {
      this.chosen(number - 1);
    } else {
      return;
    }
    event.preventDefault();
  }
}
