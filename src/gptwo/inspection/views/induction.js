// How much of an induction head each head is, and of what such a head builds upon.

import { Grid } from "./grid.js";
import { make } from "./marks.js";

const INDUCTION_HEAD = 0.3; // as attention.py has it
const SCORES = { induction: "what followed last time", duplicate_token: "the same token, earlier", previous_token: "the token before" };

export class InductionView {
  constructor(box, trace, choice) {
    this.trace = trace;
    const range = (count) => Array.from({ length: count }, (_, index) => index);
    const { first_loss: first, second_loss: second } = trace.induction;
    const [score, layer, head] = trace.induction.induction.flatMap((scores, layer) => scores.map((score, head) => [score, layer, head])).reduce((most, one) => (one[0] > most[0] ? one : most));
    const highest = `${score.toFixed(2)}, of layer ${layer}, head ${head}.`;
    const summary = score < INDUCTION_HEAD ? `No head is an induction head to speak of: the highest score is ${highest}` : `The highest induction score is ${highest}`;
    const switches = Object.entries(SCORES).map(([value, words], index) =>
      make("label", {}, make("input", { type: "radio", name: "induction-score", value, checked: index === 0, change: () => this.paint(value) }), ` ${words}`),
    );
    const home = make("div", { class: "scroll-x heads", tabindex: "0", role: "region", "aria-label": "Scores of the heads, scrolls sideways" });
    box.replaceChildren(
      make("fieldset", { class: "switches" }, make("legend", {}, "Looks at"), ...switches),
      home,
      make("p", { class: "caption" }, summary),
      make("p", { class: "caption" }, "Loss of the tokens when they come first ", make("b", {}, first.toFixed(2)), " nats, when they come again ", make("b", {}, second.toFixed(2)), "."),
    );
    this.grid = new Grid(home, {
      label: "Scores of every head",
      rows: range(trace.layers).map((layer) => `layer ${layer}`),
      columns: range(trace.heads).map((head) => `${head}`),
      fill: () => {},
      chosen: (layer, head) => choice.set({ layer, head }),
    });
    this.paint("induction");
    choice.watch(({ layer, head }) => this.grid.mark(layer, head));
  }

  paint(name) {
    this.grid.cells.forEach((cells, layer) =>
      cells.forEach((cell, head) => {
        const score = this.trace.induction[name][layer][head];
        cell.textContent = score.toFixed(2);
        cell.style.background = `color-mix(in srgb, var(--plus) ${Math.round(60 * Math.max(0, score))}%, transparent)`;
      }),
    );
  }
}
