// Attention: which earlier tokens each head takes from, as a small picture of every head and one of them large.

import { Grid } from "./grid.js";
import { barLine, bringIntoView, make, percent, pictured, quoted, visible } from "./marks.js";
import { Strip } from "./strip.js";

const SMALL = 32; // pixels of a head's small picture
const LARGE = 420; // at most, of the large one
const LISTED = 5;

export class AttentionView {
  constructor(box, trace, choice, tip) {
    Object.assign(this, { trace, choice, tip });
    const range = (count) => Array.from({ length: count }, (_, index) => index);
    const select = (name, count) => {
      const options = range(count).map((index) => make("option", { value: index }, index));
      return make("select", { class: "field", "data-choice": name, change: (event) => choice.set({ [name]: Number(event.target.value) }) }, ...options);
    };
    this.selects = { layer: select("layer", trace.layers), head: select("head", trace.heads) };
    const heads = make("div", { class: "scroll-x heads", tabindex: "0", role: "region", "aria-label": "All heads, scrolls sideways" });
    this.matrix = make("canvas", { class: "matrix", role: "img" });
    this.words = make("div", { class: "attention-words" });
    this.list = make("ol", { class: "bar-lines" });
    this.caption = make("p", { class: "caption" });
    box.replaceChildren(
      make("div", { class: "controls" }, make("label", {}, "Layer ", this.selects.layer), make("label", {}, "Head ", this.selects.head), this.caption),
      this.words,
      make("div", { class: "attention-parts" }, make("div", {}, make("h3", {}, "Takes most from"), this.list), make("div", { class: "matrix-box" }, make("h3", {}, "From each token (row) to those before it"), this.matrix), make("div", {}, make("h3", {}, "All heads"), heads)),
    );
    this.strip = new Strip(this.words, trace.tokens, { label: "Tokens, coloured by the attention that the chosen one pays", chosen: (position) => choice.set({ position }) });
    this.grid = new Grid(heads, {
      label: "Attention of every head",
      rows: range(trace.layers).map((layer) => `layer ${layer}`),
      columns: range(trace.heads).map((head) => `${head}`),
      fill: (cell, layer, head) => {
        cell.setAttribute("aria-label", `Layer ${layer}, head ${head}`);
        cell.append(make("canvas", { width: SMALL, height: SMALL, "aria-hidden": "true" }));
      },
      chosen: (layer, head) => choice.set({ layer, head }),
    });
    this.matrix.addEventListener("pointermove", (event) => this.point(event));
    this.matrix.addEventListener("pointerleave", () => tip.hide());
    this.matrix.addEventListener("click", (event) => choice.set({ position: this.placeOf(event)[0] }));
    onNewColours(this.matrix, () => this.paintAll());
    this.paintAll();
    choice.watch(() => this.show());
  }

  paintAll() {
    this.grid.cells.forEach((cells, layer) => cells.forEach((cell, head) => this.paint(cell.firstChild, layer, head, Math.min(SMALL, this.trace.length))));
    this.paintLarge();
  }

  /** A head's matrix with so many pixels on a side; of what falls on one pixel the largest shows. */
  paint(canvas, layer, head, side) {
    const { trace } = this;
    const context = canvas.getContext("2d");
    const [red, green, blue] = colourOf("--accent");
    canvas.width = canvas.height = side;
    const image = context.createImageData(side, side);
    for (let query = 0; query < trace.length; query += 1) {
      const y = Math.floor((query * side) / trace.length);
      for (let key = 0; key <= query; key += 1) {
        const at = 4 * (y * side + Math.floor((key * side) / trace.length));
        const alpha = Math.round(255 * (0.05 + 0.95 * Math.sqrt(trace.weight(layer, head, query, key))));
        if (image.data[at + 3] >= alpha) continue;
        image.data.set([red, green, blue, alpha], at);
      }
    }
    context.putImageData(image, 0, 0);
  }

  paintLarge() {
    const { layer, head } = this.choice;
    this.paint(this.matrix, layer, head, this.trace.length);
    this.matrix.style.width = `${Math.min(LARGE, Math.max(160, this.trace.length * 22))}px`;
    this.matrix.setAttribute("aria-label", `Attention of layer ${layer}, head ${head}, as a square of ${this.trace.length} by ${this.trace.length}; the list says what the chosen token takes most from`);
  }

  show() {
    const { trace, choice } = this;
    const { position, layer, head } = choice;
    this.selects.layer.value = layer;
    this.selects.head.value = head;
    this.grid.mark(layer, head);
    if (this.painted !== `${layer} ${head}`) {
      this.painted = `${layer} ${head}`;
      this.paintLarge();
    }
    const weights = trace.weights(layer, head, position);
    this.strip.select(position);
    bringIntoView(this.words, this.strip.options[position]);
    this.strip.colour(
      (key) => (key <= position && weights[key] > 0.004 ? `color-mix(in srgb, var(--heat) ${Math.round(100 * Math.sqrt(weights[key]))}%, transparent)` : null),
      (key) => (key <= position ? percent(weights[key]) : "later"),
    );
    const order = weights.map((_, key) => key).sort((one, other) => weights[other] - weights[one]).slice(0, LISTED);
    this.list.replaceChildren(...order.map((key) => barLine(`${trace.tokens[key]}`, weights[key], 1, { current: key === position })));
    this.caption.textContent = `induction score ${trace.induction.induction[layer][head].toFixed(2)}`;
  }

  placeOf(event) {
    const view = this.matrix.getBoundingClientRect();
    const at = (value, size) => Math.max(0, Math.min(this.trace.length - 1, Math.floor((value * this.trace.length) / size)));
    return [at(event.clientY - view.top, view.height), at(event.clientX - view.left, view.width)];
  }

  point(event) {
    const { trace, choice, tip } = this;
    const [query, key] = this.placeOf(event);
    if (key > query) return tip.hide();
    const said = `${percent(trace.weight(choice.layer, choice.head, query, key))} from ${quoted(trace.tokens[key])} (${key})`;
    const place = new DOMRect(event.clientX, event.clientY, 0, 12);
    return tip.show(place, make("p", {}, make("b", {}, `${quoted(trace.tokens[query])} (${query})`), ` takes ${said}`));
  }
}

/** A colour of the style sheet as red, green and blue. */
function colourOf(name) {
  const probe = document.body.appendChild(make("i", { hidden: true }));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

/** Call whenever the page turns light or dark, for as long as an element is on it. */
function onNewColours(element, act) {
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const see = () => {
    if (element.isConnected) return act();
    scheme.removeEventListener("change", see);
    return observer.disconnect();
  };
  const observer = new MutationObserver(see);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  scheme.addEventListener("change", see);
}
