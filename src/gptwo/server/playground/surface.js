// The writing surface: a textarea for keys, cursor and selection, over a mirror that shows the text. Both have the same
// box and type, so the place of a letter in the mirror is its place in the textarea.

const END = "\u200b"; // gives the last, empty line its height

export class Surface {
  constructor({ box, mirror, text, pen, scroll }) {
    Object.assign(this, { box, mirror, text, pen, scroll });
    this.node = document.createTextNode("");
    mirror.append(this.node, END);
    this.follows = true;
    // Who scrolls away while it is written wants to read; who comes back to the end wants to see it grow.
    const look = () => {
      requestAnimationFrame(() => (this.follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60));
    };
    scroll.addEventListener("wheel", look, { passive: true });
    scroll.addEventListener("touchmove", look, { passive: true });
  }

  /** Show a text; a longer one that begins alike costs only what was added. */
  show(text) {
    const shown = this.node.data;
    if (text === shown && this.text.value === text) return;
    if (text.length > shown.length && text.startsWith(shown)) {
      this.node.appendData(text.slice(shown.length));
    } else if (text !== shown) {
      this.node.data = text;
    }
    if (this.text.value === text) return;
    const { selectionStart, selectionEnd, value } = this.text;
    if (text.length > value.length && text.startsWith(value)) {
      this.text.setRangeText(text.slice(value.length), value.length, value.length, "preserve");
    } else {
      this.text.value = text;
    }
    this.text.setSelectionRange(selectionStart, selectionEnd);
  }

  get cursor() {
    return this.text.selectionEnd;
  }

  set cursor(offset) {
    this.text.setSelectionRange(offset, offset);
  }

  focus() {
    this.text.focus({ preventScroll: true });
  }

  /** The rectangles of text[start:end] on the screen. */
  rectangles(start, end) {
    const range = document.createRange();
    range.setStart(this.node, Math.min(start, this.node.length));
    range.setEnd(this.node, Math.min(end, this.node.length));
    return [...range.getClientRects()].filter((rectangle) => rectangle.width > 0);
  }

  /** The offset of the letter under a point of the screen, or null where there is none. */
  offsetAt(x, y) {
    const events = this.text.style.pointerEvents;
    this.text.style.pointerEvents = "none";
    let place = null;
    if (document.caretPositionFromPoint) {
      const found = document.caretPositionFromPoint(x, y);
      place = found && found.offsetNode === this.node ? found.offset : null;
    } else if (document.caretRangeFromPoint) {
      const found = document.caretRangeFromPoint(x, y);
      place = found && found.startContainer === this.node ? found.startOffset : null;
    }
    this.text.style.pointerEvents = events;
    if (place === null) return null;
    // A place lies between two letters: the point is on the one before or the one behind it.
    for (const offset of [place, place - 1]) {
      if (offset < 0 || offset >= this.node.length) continue;
      const letter = this.rectangles(offset, offset + 1);
      if (letter.some((box) => x >= box.left - 1 && x <= box.right + 1 && y >= box.top - 4 && y <= box.bottom + 4)) {
        return offset;
      }
    }
    return null;
  }

  /** Show the pen behind an offset, and keep it in view while the reader is at the end; null takes it away. */
  write(offset) {
    this.pen.hidden = offset === null;
    if (offset === null) return;
    const home = this.mirror.getBoundingClientRect();
    const line = Number.parseFloat(getComputedStyle(this.mirror).lineHeight);
    const range = document.createRange();
    const at = Math.min(offset, this.node.length);
    // The last letter's right edge; at the start of a line, the line's own place.
    range.setStart(this.node, Math.max(0, at - 1));
    range.setEnd(this.node, at);
    const box = [...range.getClientRects()].at(-1);
    const newline = at > 0 && this.node.data[at - 1] === "\n";
    const left = !box || newline ? 0 : box.right - home.left;
    const top = !box ? 0 : box.top - home.top + (newline ? line : 0);
    const height = box ? box.height : line;
    this.pen.style.transform = `translate(${left + 2}px, ${top + height * 0.14}px)`;
    this.pen.style.height = `${height * 0.72}px`;
    if (this.follows) this.#show(this.pen.getBoundingClientRect());
  }

  /** Scroll so that an offset can be seen. */
  reveal(offset) {
    const range = document.createRange();
    range.setStart(this.node, Math.max(0, Math.min(offset, this.node.length) - 1));
    range.setEnd(this.node, Math.min(offset, this.node.length));
    const box = [...range.getClientRects()].at(-1);
    if (box) this.#show(box);
  }

  #show(box) {
    const view = this.scroll.getBoundingClientRect();
    if (box.bottom > view.bottom - 50) this.scroll.scrollTop += box.bottom - view.bottom + 90;
    else if (box.top < view.top + 20) this.scroll.scrollTop -= view.top - box.top + 40;
  }
}
