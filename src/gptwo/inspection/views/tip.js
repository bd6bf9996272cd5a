// One box beside what is pointed at or has the focus.

import { make } from "./marks.js";

export class Tip {
  #beside = null; // the element that it tells of

  constructor() {
    this.box = make("div", { class: "tip", role: "tooltip", id: "tip", hidden: true });
    document.body.append(this.box);
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    document.addEventListener("scroll", () => this.#follow(), { capture: true, passive: true });
  }

  /** Show elements beside a rectangle of the screen: below it, or above where only there is room. */
  show(place, ...content) {
    this.box.replaceChildren(...content);
    this.box.hidden = false;
    this.#place(place);
  }

  hide() {
    this.box.hidden = true;
    this.#beside?.removeAttribute("aria-describedby");
    this.#beside = null;
  }

  /** Show what `describe(element)` gives for elements of a selector within a box, under the pointer or with the focus. */
  over(box, selector, describe) {
    const show = (event) => {
      this.hide();
      const element = event.target.closest?.(selector);
      if (!element || !box.contains(element)) return;
      this.show(element.getBoundingClientRect(), ...describe(element));
      this.#beside = element;
      element.setAttribute("aria-describedby", this.box.id);
    };
    box.addEventListener("pointerover", show);
    box.addEventListener("focusin", show);
    box.addEventListener("pointerleave", () => this.hide());
    box.addEventListener("focusout", () => this.hide());
  }

  #place(place) {
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = Math.max(8, Math.min(place.left + place.width / 2 - width / 2, window.innerWidth - width - 8));
    const below = place.bottom + 8;
    this.box.style.left = `${left}px`;
    this.box.style.top = `${below + height < window.innerHeight ? below : Math.max(8, place.top - height - 8)}px`;
  }

  /** What has the focus is scrolled into view, and the box goes with it; what the pointer was on has gone. */
  #follow() {
    if (this.#beside !== null && this.#beside === document.activeElement) this.#place(this.#beside.getBoundingClientRect());
    else this.hide();
  }
}
