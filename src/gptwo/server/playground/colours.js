// Colours of tokens, painted by the browser over plain text nodes (the CSS Custom Highlight API): no element for each
// token, so a long text stays light, and what is copied is the text.

import { stepOf } from "./tokens.js";

export const STEPS = 7;
/** Whether this browser can colour text without an element for each token. */
export const supported = typeof Highlight === "function" && "highlights" in CSS;

function registered(name, priority) {
  if (!supported) return null;
  const highlight = new Highlight();
  highlight.priority = priority;
  CSS.highlights.set(name, highlight);
  return highlight;
}

const model = registered("model", 0);
const unseen = registered("unseen", 1);
const steps = Array.from({ length: STEPS }, (_, step) => registered(`p${step}`, 2));
const under = registered("under", 3);

const span = (node, startOffset, endOffset) =>
  new StaticRange({ startContainer: node, startOffset, endContainer: node, endOffset });

/** Paint texts: each {node, units, made, unseen}, with offsets in the node's text. Colours of steps only if `on`. */
export function paint(sources, on) {
  if (!supported) return;
  for (const highlight of [model, unseen, ...steps]) highlight.clear();
  for (const { node, units, made = [], unseen: until = 0 } of sources) {
    const length = node.data.length;
    if (until > 0) unseen.add(span(node, 0, Math.min(until, length)));
    if (!on) {
      for (const [start, end] of made) model.add(span(node, start, Math.min(end, length)));
      continue;
    }
    let run = null;
    const close = () => run && steps[run.step].add(span(node, run.start, run.end));
    for (const unit of units) {
      const step = unit.end <= length ? stepOf(unit) : null;
      if (run && run.step === step && run.end === unit.start) {
        run.end = unit.end;
        continue;
      }
      close();
      run = step === null ? null : { step, start: unit.start, end: unit.end };
    }
    close();
  }
}

/** Mark the unit that is looked at; null marks none. */
export function markUnder(node, unit) {
  if (!supported) return;
  under.clear();
  if (unit && unit.end <= node.data.length) under.add(span(node, unit.start, unit.end));
}
