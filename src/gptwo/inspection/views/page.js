// The page of `gptwo explain`: its parts, made and joined.

import { AttentionView } from "./attention.js";
import { AttributionView } from "./attribution.js";
import { InductionView } from "./induction.js";
import { LensView } from "./lens.js";
import { LossView } from "./losses.js";
import { barLine, make, percent, quoted, stepOfProbability } from "./marks.js";
import { SpreadView } from "./spread.js";
import { Strip } from "./strip.js";
import { Tip } from "./tip.js";
import { Choice, Trace } from "./trace.js";

const element = (id) => document.getElementById(id);
const trace = new Trace(JSON.parse(element("data").textContent));
const tip = new Tip();

const choice = new Choice(trace.length - 1, ...trace.loudest(trace.length - 1));

function showPrompt() {
  const strip = new Strip(element("prompt"), trace.tokens, { label: "Tokens of the prompt, coloured by their probability", chosen: (position) => choice.set({ position }) });
  strip.colour(
    (position) => (trace.probability(position) === null ? null : `var(--p${stepOfProbability(trace.probability(position))})`),
    (position) => (trace.probability(position) === null ? "the first" : percent(trace.probability(position))),
  );
  tip.over(strip.box, ".token", (token) => {
    const position = Number(token.dataset.position);
    const probability = trace.probability(position);
    const said = probability === null ? "nothing stands before it" : `${percent(probability)} likely here`;
    return [make("p", {}, make("b", {}, quoted(trace.tokens[position])), ` token ${position}, id ${trace.ids[position]}: ${said}`)];
  });
  choice.watch(({ position }) => {
    strip.select(position);
    const found = trace.lens(trace.rows.length - 1, position);
    element("after").replaceChildren("After ", make("b", {}, quoted(trace.tokens[position])), ` (token ${position}) the model expects`);
    element("predictions").replaceChildren(...found.map(({ id, text, probability }) => barLine(text, probability, found[0].probability, { current: id === trace.ids[position + 1] })));
    element("where").textContent = `${position + 1} of ${trace.length}`;
    element("word").textContent = quoted(trace.tokens[position]);
    element("before").disabled = position === 0;
    element("next").disabled = position === trace.length - 1;
  });
  element("before").addEventListener("click", () => choice.set({ position: choice.position - 1 }));
  element("next").addEventListener("click", () => choice.set({ position: choice.position + 1 }));
}

/** Light, dark, or as the system: the page is one file and remembers nothing. */
function switchAppearance() {
  const root = document.documentElement;
  element("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const order = dark ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
    const next = order[(order.indexOf(root.dataset.theme ?? "auto") + 1) % order.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    element("theme-name").textContent = { auto: "as the system", light: "light", dark: "dark" }[next];
  });
}

showPrompt();
new LensView(element("lens"), trace, choice, tip);
new AttentionView(element("attention"), trace, choice, tip);
new AttributionView(element("attribution"), trace, choice, tip);
new LossView(element("losses"), trace, choice, tip);
new InductionView(element("induction"), trace, choice);
new SpreadView(element("spread"), trace);
switchAppearance();
document.documentElement.dataset.ready = "true";
