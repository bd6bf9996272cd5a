// The next token after the prompt: its probabilities, and what temperature, top-k and top-p make of them.

import { draw, make, percent, pictured, visible } from "./marks.js";
import { distribution, perplexityOf, ranked } from "./sampling.js";

const SHOWN = 16;
const [WIDTH, HEIGHT] = [420, 190];

export class SpreadView {
  constructor(box, trace) {
    this.trace = trace;
    this.order = ranked(trace.nextLogits);
    this.plain = distribution(trace.nextLogits, this.order);
    const size = trace.nextLogits.length;
    // top-k moves over ranks as they matter: each step is a factor.
    this.controls = {
      temperature: slider("temperature", { min: 0, max: 2, step: 0.05, value: 1 }, (value) => (value === 0 ? "0, greedy" : value.toFixed(2))),
      topK: slider("top-k", { min: 0, max: 1, step: 0.01, value: 1 }, (value) => (this.topK(value) === 0 ? "off" : String(this.topK(value)))),
      topP: slider("top-p", { min: 0, max: 1, step: 0.01, value: 1 }, (value) => (value === 1 ? "off" : value.toFixed(2))),
    };
    this.size = size;
    const reset = make("button", { type: "button", class: "quiet", click: () => this.reset() }, "Reset");
    this.figures = make("p", { class: "caption", "aria-live": "polite" });
    this.list = make("ol", { class: "bar-lines spread" });
    this.plot = draw("svg", { class: "cumulative", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Sum of the probabilities of the likeliest tokens, by rank: the model's own, and what is drawn from" });
    box.replaceChildren(make("div", { class: "controls" }, ...Object.values(this.controls).map(({ label }) => label), reset), this.figures, make("div", { class: "spread-parts" }, this.list, make("div", {}, make("h3", {}, "Sum of the likeliest, by rank"), this.plot)));
    box.addEventListener("input", () => this.show());
    this.reset();
  }

  topK(value) {
    return value === 1 ? 0 : Math.max(1, Math.round(this.trace.nextLogits.length ** value));
  }

  reset() {
    for (const { input } of Object.values(this.controls)) input.value = 1;
    this.show();
  }

  get settings() {
    const [temperature, top, topP] = ["temperature", "topK", "topP"].map((name) => Number(this.controls[name].input.value));
    return { temperature, topK: this.topK(top), topP };
  }

  show() {
    for (const { input, output, words } of Object.values(this.controls)) {
      output.textContent = words(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    }
    const shares = distribution(this.trace.nextLogits, this.order, this.settings);
    const kept = shares.reduce((count, share) => count + (share > 0), 0);
    const before = this.plain.subarray(0, kept).reduce((sum, share) => sum + share, 0);
    this.figures.replaceChildren(
      make("b", {}, kept.toLocaleString("en")), ` of ${this.size.toLocaleString("en")} tokens can be drawn, which had `, make("b", {}, percent(before)),
      " of the probability; as hard to guess as ", make("b", {}, perplexityOf(shares).toFixed(1)), " equally likely ones (", perplexityOf(this.plain).toFixed(1), " before).",
    );
    const largest = Math.max(shares[0], this.plain[0]);
    this.list.replaceChildren(...this.order.slice(0, SHOWN).map((id, rank) => spreadLine(this.trace.nameOf(id), this.plain[rank], shares[rank], largest)));
    this.drawPlot(shares, kept);
  }

  drawPlot(shares, kept) {
    const [left, right, top, bottom] = [34, 8, 8, 22];
    const x = (rank) => left + ((WIDTH - left - right) * Math.log(rank)) / Math.log(Math.max(2, this.size));
    const y = (share) => top + (HEIGHT - top - bottom) * (1 - share);
    const line = (values) => {
      let sum = 0;
      const points = [];
      values.forEach((share, rank) => {
        sum += share;
        // Of many ranks on one pixel the first few are enough.
        if (rank < 64 || rank % Math.ceil(rank / 64) === 0 || rank === values.length - 1) points.push(`${x(rank + 1).toFixed(1)},${y(sum).toFixed(1)}`);
      });
      return points.join(" ");
    };
    const ranks = [1, 10, 100, 1000, 10_000].filter((rank) => rank <= this.size);
    this.plot.replaceChildren(
      ...[0, 0.5, 1].flatMap((share) => [draw("line", { class: "rule", x1: left, x2: WIDTH - right, y1: y(share), y2: y(share) }), draw("text", { x: left - 5, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}%`)]),
      ...ranks.map((rank) => draw("text", { x: x(rank), y: HEIGHT - 5, "text-anchor": rank === 1 ? "start" : "middle" }, rank.toLocaleString("en"))),
      draw("line", { class: "cut", x1: x(kept), x2: x(kept), y1: top, y2: HEIGHT - bottom }),
      draw("polyline", { class: "before", points: line(this.plain) }),
      draw("polyline", { class: "after", points: line(shares.subarray(0, kept)) }),
    );
  }
}

function slider(name, { value, ...range }, words) {
  const input = make("input", { type: "range", name, value, ...range });
  const output = make("output");
  return { input, output, words, label: make("label", { class: "slider" }, make("span", {}, name), output, input) };
}

/** A token with two bars: outlined what the model says, filled what is drawn from. */
function spreadLine(text, before, after, largest) {
  const [ghost, fill] = [make("span", { class: "ghost" }), make("span", { class: "fill" })];
  ghost.style.width = `${(100 * before) / largest}%`;
  fill.style.width = `${(100 * after) / largest}%`;
  return make(
    "li",
    { class: after > 0 ? "bar-line" : "bar-line gone" },
    make("code", {}, pictured(visible(text))),
    make("span", { class: "meter", "aria-hidden": "true" }, ghost, fill),
    make("span", { class: "percent" }, after > 0 ? percent(after) : "cut"),
    make("span", { class: "percent soft" }, percent(before)),
  );
}
