// The line of figures: how fast the last continuation came, its seed, and what the colours mean.

import { STEPS } from "./colours.js";
import { duration, make, plural, rate } from "./format.js";
import { perplexity } from "./tokens.js";

/** seedTaken(seed): the person wants to keep this seed. */
export function drawFigures(box, { run, seed, keptSeed, colours, units, seedTaken }) {
  const parts = [];
  if (run && run.tokens > 0) {
    const { first, perSecond } = run.speed;
    if (perSecond !== null) parts.push(figure(rate(perSecond), " tokens/s"));
    if (run.first !== null) parts.push(figure(duration(first), " to the first"));
    parts.push(make("span", {}, plural(run.tokens, "token")));
  }
  if (seed !== null) {
    const kept = keptSeed !== null;
    const label = kept ? `seed ${seed}, kept` : `seed ${seed}`;
    const title = kept ? "The next continuation uses this seed again; press to let each have its own" : "Press to keep this seed for the next continuation";
    parts.push(make("button", { type: "button", class: "seed", id: "seed", title, "aria-pressed": String(kept), click: () => seedTaken(kept ? null : seed) }, label));
  }
  if (colours) parts.push(legend(units));
  box.replaceChildren(...parts);
}

function figure(value, unit) {
  return make("span", {}, make("b", {}, value), unit);
}

function legend(units) {
  const swatches = Array.from({ length: STEPS }, (_, step) => {
    const swatch = make("span");
    swatch.style.background = `var(--p${step})`;
    return swatch;
  });
  const value = perplexity(units);
  const title = "The perplexity is as if the model had chosen among so many equally likely tokens each time";
  const said = value === null ? null : make("span", { title }, " · perplexity ", make("b", {}, value.toFixed(value < 10 ? 1 : 0)));
  return make("span", { class: "legend" }, "surprising ", make("i", { "aria-hidden": "true" }, ...swatches), " expected", said);
}
