// The line of figures: how fast the last continuation came, and its seed; and what the colours mean.

import { duration, make, plural, rate } from "./format.js";
import { perplexity } from "./tokens.js";

/** seedTaken(seed): the person wants to keep this seed. */
export function drawFigures(box, { speed, seed, keptSeed, seedTaken }) {
  const parts = [];
  if (speed.tokens > 0) {
    if (speed.perSecond !== null) parts.push(figure(rate(speed.perSecond), " tokens/s"));
    parts.push(figure(duration(speed.first), " to the first"));
    parts.push(make("span", { class: "count" }, plural(speed.tokens, "token")));
  }
  if (seed !== null) {
    const kept = keptSeed !== null;
    const label = kept ? `seed ${seed}, kept` : `seed ${seed}`;
    const title = kept ? "The next continuation uses this seed again; press to let each have its own" : "Press to keep this seed for the next continuation";
    parts.push(make("button", { type: "button", class: "seed", id: "seed", title, "aria-pressed": String(kept), click: () => seedTaken(kept ? null : seed) }, label));
  }
  if (parts.length === 0) parts.push(make("span", { class: "hint" }, "The model goes on from the cursor."));
  box.replaceChildren(...parts);
}

function figure(value, unit) {
  return make("span", {}, make("b", {}, value), unit);
}

/** What the colours mean, and how likely the text is on the whole. */
export function drawLegend(legend, text, units, on) {
  legend.hidden = !on;
  const value = on ? perplexity(units) : null;
  text.textContent = value === null ? "" : `· perplexity ${value.toFixed(value < 10 ? 1 : 0)}`;
}
