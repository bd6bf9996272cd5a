// One calm line for what went wrong or needs to be known, and the words that a screen reader hears.

export class Notices {
  constructor({ box, text, action, close, live }) {
    Object.assign(this, { box, text, action, live });
    close.addEventListener("click", () => this.clear());
    action.addEventListener("click", () => this.run?.());
  }

  /** Show a sentence; `action` is [label, function]. Faults are coloured, and said at once. */
  show(sentence, { fault = false, action = null } = {}) {
    this.text.textContent = sentence;
    this.box.classList.toggle("fault", fault);
    this.action.hidden = action === null;
    this.action.textContent = action?.[0] ?? "";
    this.run = action?.[1] ?? null;
    this.box.hidden = false;
  }

  fault(sentence, action = null) {
    this.show(sentence, { fault: true, action });
  }

  clear() {
    this.box.hidden = true;
    this.text.textContent = "";
  }

  /** Say something to a screen reader, between what it is saying. */
  say(sentence) {
    this.live.textContent = "";
    // A region that gets the same words again says nothing, so it is emptied first.
    requestAnimationFrame(() => (this.live.textContent = sentence));
  }
}
