// What the model thought of for one place of the text: shown under the pointer, or at the cursor with Alt ↓.

import { markUnder } from "./colours.js";
import { make, percent, visible } from "./format.js";
import { bytesOf, logprobOf } from "./tokens.js";

const GRACE = 260; // milliseconds for the pointer to get from the token to the list

export class Alternatives {
  #timer = null;
  #units = [];
  #at = -1;

  /** surface: where the text is. taken(unit, text) is called when an alternative is chosen. */
  constructor(box, surface, taken) {
    Object.assign(this, { box, surface, taken });
    this.byKeys = false;
    box.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    box.addEventListener("pointerleave", () => this.leave());
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("focusout", (event) => {
      if (this.open && this.byKeys && !box.contains(event.relatedTarget)) this.hide();
    });
  }

  get open() {
    return !this.box.hidden;
  }

  /** The pointer is over the unit at an offset of the text, or over none. */
  point(units, offset) {
    const at = offset === null ? -1 : units.findIndex((unit) => unit.start <= offset && offset < unit.end);
    if (at < 0) {
      if (this.open && !this.byKeys) this.leave();
      return;
    }
    clearTimeout(this.#timer);
    if (this.open && this.#units[this.#at] === units[at]) return;
    this.byKeys = false;
    this.#show(units, at);
  }

  /** The pointer is gone; the list goes too unless the pointer comes to it. */
  leave() {
    clearTimeout(this.#timer);
    if (!this.byKeys) this.#timer = setTimeout(() => this.hide(), GRACE);
  }

  /** Open the list for the token before the cursor, and take the keys. True if there is one. */
  openAt(units, cursor) {
    let at = units.findIndex((unit) => unit.start < cursor && cursor <= unit.end);
    if (at < 0) at = units.findIndex((unit) => unit.start <= cursor && cursor < unit.end);
    if (at < 0) return false;
    this.byKeys = true;
    this.#show(units, at);
    this.#focusFirst();
    return true;
  }

  hide() {
    clearTimeout(this.#timer);
    if (!this.open) return;
    const hadFocus = this.box.contains(document.activeElement);
    this.box.hidden = true;
    this.#at = -1;
    this.byKeys = false;
    markUnder(this.surface.node, null);
    if (hadFocus) this.surface.focus();
  }

  /** The text has moved on the screen. A list that the keys are in goes along; scrolling may be told of late. */
  moved() {
    if (!this.open) return;
    if (this.byKeys) this.#place(this.#units[this.#at]);
    else this.hide();
  }

  #show(units, at) {
    this.#units = units;
    this.#at = at;
    const unit = units[at];
    markUnder(this.surface.node, unit);
    this.box.replaceChildren(...describe(unit, (text) => this.#take(text)));
    this.box.setAttribute("aria-label", `What else could stand in place of ${unit.text.trim() || "this white space"}`);
    this.box.hidden = false;
    this.#place(unit);
  }

  #take(text) {
    const unit = this.#units[this.#at];
    this.hide();
    this.taken(unit, text);
  }

  /** Below the token, or above where only there is room in the page; over the bar where there is none. */
  #place(unit) {
    const boxes = this.surface.rectangles(unit.start, unit.end);
    const token = boxes.at(-1) ?? this.surface.mirror.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = Math.max(8, Math.min(token.left - 14, window.innerWidth - width - 8));
    const below = token.bottom + 5;
    const view = this.surface.scroll.getBoundingClientRect();
    const above = token.top - height - 5;
    const fitsPage = below + height <= view.bottom;
    const fitsWindow = below + height <= window.innerHeight - 8;
    const top = fitsPage || (fitsWindow && above < view.top) ? below : Math.max(8, above);
    this.box.style.left = `${left}px`;
    this.box.style.top = `${top}px`;
  }

  #focusFirst() {
    const buttons = [...this.box.querySelectorAll("button:not(:disabled)")];
    (buttons.find((button) => button.getAttribute("aria-current") !== "true") ?? buttons[0] ?? this.box).focus();
  }

  #key(event) {
    const buttons = [...this.box.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") {
      this.hide();
      event.stopPropagation();
    } else if (step !== undefined && buttons.length > 0) {
      buttons[(at + step + buttons.length) % buttons.length].focus();
    } else if (next !== undefined && this.#units[this.#at + next]) {
      const to = this.#at + next;
      this.surface.cursor = this.#units[to].end;
      this.surface.reveal(this.#units[to].end);
      this.byKeys = false; // the button with the focus goes away for a moment
      this.#show(this.#units, to);
      this.byKeys = true;
      this.#focusFirst();
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** The contents of the list: the token and its probability, then all that was thought of. */
function describe(unit, take) {
  const logprob = logprobOf(unit);
  const [first] = unit.tokens;
  const ids = unit.tokens.map(({ id }) => id).filter((id) => id !== null);
  const name = ids.length > 0 ? ` · ${ids.length > 1 ? "tokens" : "token"} ${ids.join(", ")}` : "";
  const said = logprob === null ? "nothing stands before it" : `${percent(Math.exp(logprob))}${name}`;
  const head = make("p", {}, make("b", {}, visible(unit.text)), `  ${said}`);
  const listed = first.top.some(([text]) => text === first.text) || first.logprob === null ? first.top : [...first.top, [first.text, first.logprob]];
  if (listed.length === 0) return [head];
  const largest = Math.max(...listed.map(([, value]) => value));
  return [head, ...listed.map(([text, value]) => choice(text, value, largest, unit, take))];
}

/** One line of the list; its bar is as long as the likeliest one's where it is as likely. */
function choice(text, logprob, largest, unit, take) {
  const [first] = unit.tokens;
  const chosen = text === first.text;
  const partial = bytesOf(text) !== null;
  const special = text === "<|endoftext|>" || text.startsWith("token_id:");
  const probability = Math.exp(logprob);
  const bar = make("span");
  bar.style.width = `${Math.exp(logprob - largest) * 100}%`;
  const label = chosen && unit.tokens.length > 1 ? unit.text : text;
  const words = make("code", {}, special ? "end of the text" : partial && !chosen ? "part of a character" : visible(label));
  return make(
    "button",
    {
      type: "button",
      class: "alternative",
      "aria-current": chosen ? "true" : null,
      disabled: special || (partial && !chosen),
      click: () => take(label),
    },
    words,
    make("span", { class: "meter", "aria-hidden": "true" }, bar),
    make("span", { class: "percent" }, percent(probability)),
  );
}
