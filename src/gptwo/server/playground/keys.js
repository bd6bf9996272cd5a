// The keys, in one table: what they do, and what the help says of them.

import { make } from "./format.js";

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const CTRL = APPLE ? "⌘" : "Ctrl";

/** [keys as the help shows them, what they do, whether an event is these keys, the action's name]. */
const ctrl = (event) => (APPLE ? event.metaKey : event.ctrlKey) && !event.altKey;
const TABLE = [
  [`${CTRL} Enter`, "Continue from the cursor, or stop", (e) => ctrl(e) && !e.shiftKey && e.key === "Enter", "go"],
  ["Esc", "Stop; close what is open", (e) => e.key === "Escape", "escape"],
  [`${CTRL} Shift Enter`, "Take the last continuation back and make another", (e) => ctrl(e) && e.shiftKey && e.key === "Enter", "again"],
  [`${CTRL} Z`, "Undo: typing, a continuation, a choice", (e) => ctrl(e) && !e.shiftKey && e.key.toLowerCase() === "z", "undo"],
  [`${CTRL} Shift Z`, "Redo", (e) => ctrl(e) && ((e.shiftKey && e.key.toLowerCase() === "z") || (!APPLE && e.key.toLowerCase() === "y")), "redo"],
  ["Alt ↓", "What else could stand at the cursor; then ← → for other tokens", (e) => e.altKey && !e.ctrlKey && !e.metaKey && e.key === "ArrowDown", "alternatives"],
  [`${CTRL} ;`, "Colour the tokens by their probability", (e) => ctrl(e) && (e.key === ";" || e.code === "Semicolon"), "colours"],
  [`${CTRL} .`, "Parameters and history", (e) => ctrl(e) && (e.key === "." || e.code === "Period"), "panel"],
  [`${CTRL} S`, "Save the session as a file", (e) => ctrl(e) && !e.shiftKey && e.key.toLowerCase() === "s", "save"],
  [`${CTRL} O`, "Open a session", (e) => ctrl(e) && !e.shiftKey && e.key.toLowerCase() === "o", "open"],
  [`${CTRL} /`, "These keys", (e) => ctrl(e) && (e.key === "/" || e.code === "Slash"), "help"],
];

/** Call actions by their names; one that returns false leaves the key to the browser. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const found = TABLE.find(([, , matches]) => matches(event));
    if (found && actions[found[3]]() !== false) event.preventDefault();
  });
}

export function explain(list) {
  list.replaceChildren(...TABLE.flatMap(([keys, what]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, what)]));
}

/** Titles in the page are written for Ctrl; an Apple keyboard has another key there. */
export function nameKeys() {
  if (!APPLE) return;
  for (const element of document.querySelectorAll("[title]")) element.title = element.title.replace("Ctrl ", "⌘ ");
  for (const element of document.querySelectorAll("kbd")) element.textContent = element.textContent.replace("Ctrl ", "⌘ ");
}
