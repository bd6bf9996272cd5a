// The logit lens: what the model would say next in each place if it stopped after each layer.

import { Grid } from "./grid.js";
import { barLine, bringIntoView, make, percent, pictured, quoted, stepOfProbability, visible } from "./marks.js";

const MEASURES = { likeliest: "how sure it is", following: "how likely the text's next token is" };

export class LensView {
  /** box: where it is drawn. tip: shows what stands behind a cell. */
  constructor(box, trace, choice, tip) {
    Object.assign(this, { trace, choice });
    const name = `${box.id || "lens"}-measure`;
    const switches = Object.entries(MEASURES).map(([value, words], index) =>
      make("label", {}, make("input", { type: "radio", name, value, checked: index === 0, change: () => this.paint(value) }), ` ${words}`),
    );
    const scale = make("p", { class: "scale", "aria-hidden": "true" }, "0%", make("i", {}, ...Array.from({ length: 7 }, (_, step) => make("span", { class: `step p${step}` }))), "100%");
    const home = make("div", { class: "scroll-x lens", tabindex: "0", role: "region", "aria-label": "Lens, scrolls sideways" });
    box.replaceChildren(make("fieldset", { class: "switches" }, make("legend", {}, "Colour shows"), ...switches, scale), home);
    this.grid = new Grid(home, {
      label: "What each layer would say next after each token",
      rows: [...trace.rows].reverse(),
      columns: trace.tokens.map((text) => pictured(visible(text))),
      corner: "",
      fill: (cell, row, position) => {
        const [first] = trace.lens(this.rowOf(row), position);
        cell.append(make("span", {}, pictured(visible(first.text))));
      },
      chosen: (_, position) => choice.set({ position }),
    });
    tip.over(this.grid.table, "td", (cell) => this.describe(this.rowOf(Number(cell.dataset.row)), Number(cell.dataset.column)));
    this.paint("likeliest");
    choice.watch(({ position }) => {
      this.grid.mark(null, position);
      bringIntoView(home, this.grid.cells[0][position], this.grid.table.querySelector("tbody th").offsetWidth);
    });
  }

  /** The last layer stands at the top: the table is read upwards, as the model works. */
  rowOf(row) {
    return this.trace.rows.length - 1 - row;
  }

  paint(measure) {
    this.grid.cells.forEach((cells, row) =>
      cells.forEach((cell, position) => {
        const [first] = this.trace.lens(this.rowOf(row), position);
        const value = measure === "likeliest" ? first.probability : this.trace.following(this.rowOf(row), position);
        cell.className = value === null ? "" : `p${stepOfProbability(value)}`;
      }),
    );
  }

  describe(row, position) {
    const { trace } = this;
    const found = trace.lens(row, position);
    const following = trace.following(row, position);
    const head = make("p", {}, make("b", {}, `${trace.rows[row]}, after ${quoted(trace.tokens[position])}`));
    const list = make("ol", { class: "bar-lines" }, ...found.map(({ id, text, probability }) => barLine(text, probability, found[0].probability, { current: id === trace.ids[position + 1] })));
    const rest = following === null ? null : make("p", {}, `The text goes on with ${quoted(trace.tokens[position + 1])}: ${percent(following)}`);
    return [head, list, rest].filter(Boolean);
  }
}
