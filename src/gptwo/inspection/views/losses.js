// The loss of each token of the prompt, and where the model was surprised most.

import { barLine, draw, make, percent, quoted } from "./marks.js";

const HEIGHT = 180;
const WORST = 5;

export class LossView {
  constructor(box, trace, choice, tip) {
    Object.assign(this, { trace, choice, tip });
    if (trace.losses.length === 0) {
      box.replaceChildren(make("p", { class: "nothing" }, "One token alone has no loss: nothing stands before it."));
      return;
    }
    const losses = trace.losses.map((loss) => loss ?? 0);
    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    const worst = losses.map((_, index) => index + 1).sort((one, other) => losses[other - 1] - losses[one - 1]).slice(0, WORST);
    this.figure(losses);
    const list = make("ol", { class: "bar-lines" }, ...worst.map((position) => barLine(trace.tokens[position], losses[position - 1], losses[worst[0] - 1], { note: `${losses[position - 1].toFixed(1)} nats` })));
    box.replaceChildren(
      make("p", { class: "caption" }, "Mean ", make("b", {}, `${mean.toFixed(2)} nats`), ", perplexity ", make("b", {}, Math.exp(mean).toFixed(1)), ". The line is the mean up to each place."),
      make("div", { class: "loss-parts" }, this.svg, make("div", {}, make("h3", {}, "Least expected"), list)),
    );
    choice.watch(({ position }) => this.bars.forEach((bar, index) => bar.classList.toggle("chosen", index + 1 === position)));
  }

  figure(losses) {
    const { trace, choice, tip } = this;
    const width = 720;
    const [left, top, bottom] = [30, 8, 22];
    const most = Math.max(...losses, 1) * 1.05;
    const step = (width - left) / losses.length;
    const x = (index) => left + index * step;
    const y = (loss) => top + (HEIGHT - top - bottom) * (1 - loss / most);
    this.bars = losses.map((loss, index) => draw("rect", { class: "loss", "data-position": index + 1, x: x(index) + Math.min(1, step * 0.1), width: Math.max(step - Math.min(2, step * 0.2), 0.5), y: y(loss), height: Math.max(0.5, y(0) - y(loss)) }));
    let sum = 0;
    const line = losses.map((loss, index) => `${(x(index) + step / 2).toFixed(1)},${y((sum += loss) / (index + 1)).toFixed(1)}`);
    const unit = 10 ** Math.max(0, Math.floor(Math.log10(most / 5)));
    const every = [1, 2, 5, 10].map((size) => size * unit).find((size) => most / size <= 5);
    const lines = Array.from({ length: Math.floor(most / every) + 1 }, (_, index) => index * every);
    this.svg = draw(
      "svg",
      { class: "losses", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `Loss of ${losses.length} tokens in nats, as bars; the least expected ones are in the list` },
      ...lines.flatMap((value) => [draw("line", { class: "rule", x1: left, x2: width, y1: y(value), y2: y(value) }), draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value))]),
      ...this.bars,
      draw("polyline", { class: "mean", points: line.join(" ") }),
      draw("text", { x: left, y: HEIGHT - 4 }, "token 1"),
      draw("text", { x: width, y: HEIGHT - 4, "text-anchor": "end" }, losses.length > 1 ? `token ${losses.length}` : ""),
    );
    tip.over(this.svg, ".loss", (bar) => {
      const position = Number(bar.dataset.position);
      return [make("p", {}, make("b", {}, quoted(trace.tokens[position])), ` ${trace.losses[position - 1]?.toFixed(2)} nats, ${percent(trace.probability(position))}`)];
    });
    this.svg.addEventListener("click", (event) => {
      const { position } = event.target.dataset ?? {};
      if (position) choice.set({ position: Number(position) });
    });
  }
}
