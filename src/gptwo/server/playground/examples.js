// Beginnings to try while the page is empty. Each is a text and what to expect of it.

import { make } from "./format.js";

const PLAYS = [
  ["JULIET:\nO Romeo,", "a love scene"],
  ["KING RICHARD III:\nMy kingdom", "a battle, lost"],
  ["To be, or not to be", "another Hamlet"],
  ["My lord, the news is", "bad news, probably"],
];
const GENERAL = [
  ["The old lighthouse keeper had one rule, and last night", "a story"],
  ["Ingredients:\n- 2 cups of moonlight\n-", "a recipe"],
  ["BREAKING: Scientists announced today that octopuses", "the news"],
  ["Q: Why is the sky blue?\nA:", "an answer"],
];

/** Fill the box with examples that suit a model; start(text) is called with the one that is taken. */
export function offer(box, model, start) {
  const examples = /shakespeare/i.test(model) ? PLAYS : GENERAL;
  box.replaceChildren(
    make("h2", {}, "Or begin with one of these, and watch it go on:"),
    ...examples.map(([text, what]) =>
      make("button", { type: "button", class: "example", click: () => start(text) }, text.trim().replace(/\n+/g, " "), make("span", {}, what)),
    ),
  );
}
