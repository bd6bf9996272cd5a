// Direct logit attribution: what each part of the model adds to the logit of the likeliest next token.

import { Grid } from "./grid.js";
import { make, quoted, signed } from "./marks.js";

export class AttributionView {
  constructor(box, trace, choice, tip) {
    Object.assign(this, { trace, choice });
    const range = (count) => Array.from({ length: count }, (_, index) => index);
    this.title = make("p", { class: "caption" });
    this.body = make("tbody");
    const heads = make("div", { class: "scroll-x heads", tabindex: "0", role: "region", "aria-label": "Heads, scrolls sideways" });
    box.replaceChildren(
      this.title,
      make(
        "div",
        { class: "attribution-parts" },
        make("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": "Parts of the model" }, make("table", { class: "shares" }, make("caption", { class: "sr" }, "What each part adds to the logit"), make("thead", { class: "sr" }, make("tr", {}, ...["part", "share", "bar"].map((name) => make("th", { scope: "col" }, name)))), this.body)),
        make("div", {}, make("h3", {}, "Heads"), heads),
      ),
    );
    this.grid = new Grid(heads, {
      label: "What each head adds to the logit",
      rows: range(trace.layers).map((layer) => `layer ${layer}`),
      columns: range(trace.heads).map((head) => `${head}`),
      fill: (cell) => cell.append(make("span")),
      chosen: (layer, head) => choice.set({ layer, head }),
    });
    tip.over(this.grid.table, "td", (cell) => {
      const [layer, head] = [Number(cell.dataset.row), Number(cell.dataset.column)];
      return [make("p", {}, make("b", {}, `Layer ${layer}, head ${head}`), `: ${signed(trace.headShare(choice.position, layer, head))}`)];
    });
    choice.watch(() => this.show());
  }

  show() {
    const { trace, choice } = this;
    const { position, layer, head } = choice;
    const parts = trace.parts(position);
    const largest = Math.max(...parts.map(([, amount]) => Math.abs(amount)), 1e-9);
    const total = parts.reduce((sum, [, amount]) => sum + amount, 0);
    this.title.replaceChildren("After ", make("b", {}, quoted(trace.tokens[position])), " the likeliest token is ", make("b", {}, quoted(trace.nameOf(trace.targets[position]))), `: its logit, ${signed(total)} over the mean of all tokens', is the sum of these parts.`);
    this.body.replaceChildren(
      ...parts.map(([name, amount]) => {
        const bar = make("span", { class: amount < 0 ? "minus" : "plus" });
        bar.style.width = `${(50 * Math.abs(amount)) / largest}%`;
        return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "amount" }, signed(amount)), make("td", { class: "bar-cell" }, make("span", { class: "diverging", "aria-hidden": "true" }, bar)));
      }),
    );
    let most = 1e-9;
    this.grid.cells.forEach((cells, row) => cells.forEach((_, column) => (most = Math.max(most, Math.abs(trace.headShare(position, row, column))))));
    this.grid.cells.forEach((cells, row) =>
      cells.forEach((cell, column) => {
        const amount = trace.headShare(position, row, column);
        cell.firstChild.textContent = signed(amount);
        cell.style.background = `color-mix(in srgb, var(${amount < 0 ? "--minus" : "--plus"}) ${Math.round((60 * Math.abs(amount)) / most)}%, transparent)`;
      }),
    );
    this.grid.mark(layer, head);
  }
}
