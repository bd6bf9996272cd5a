// The induction score of every head.

import { Grid } from "./grid.js";

export class InductionView {
  constructor(box, trace, choice) {
    const range = (count) => Array.from({ length: count }, (_, index) => index);
    this.grid = new Grid(box, {
      label: "Induction score of every head",
      rows: range(trace.layers).map((layer) => `layer ${layer}`),
      columns: range(trace.heads).map((head) => `${head}`),
      fill: (cell, layer, head) => {
        const score = trace.induction[layer][head];
        cell.append(score.toFixed(2));
        cell.style.background = `color-mix(in srgb, var(--plus) ${Math.round(60 * Math.max(0, score))}%, transparent)`;
      },
      chosen: (layer, head) => choice.set({ layer, head }),
    });
    choice.watch(({ layer, head }) => this.grid.mark(layer, head));
  }
}
