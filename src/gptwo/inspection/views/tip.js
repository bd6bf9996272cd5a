// One box beside what is pointed at or has the focus.

import { make } from "./marks.js";

export class Tip {
  constructor(home = document.body) {
    this.box = make("div", { class: "tip", role: "tooltip", id: "tip", hidden: true });
    home.append(this.box);
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    document.addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  /** Show elements beside a rectangle of the screen. */
  show(place, ...content) {
    this.box.replaceChildren(...content);
    this.box.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = Math.max(8, Math.min(place.left + place.width / 2 - width / 2, window.innerWidth - width - 8));
    const below = place.bottom + 8;
    this.box.style.left = `${left}px`;
    this.box.style.top = `${below + height < window.innerHeight ? below : Math.max(8, place.top - height - 8)}px`;
  }

  hide() {
    this.box.hidden = true;
  }

  /** Show what `describe(element)` gives for elements of a selector within a box, under the pointer or with the focus. */
  over(box, selector, describe) {
    const show = (event) => {
      const element = event.target.closest?.(selector);
      if (!element || !box.contains(element)) return this.hide();
      this.describes?.removeAttribute("aria-describedby");
      this.describes = element;
      element.setAttribute("aria-describedby", this.box.id);
      return this.show(element.getBoundingClientRect(), ...describe(element));
    };
    box.addEventListener("pointerover", show);
    box.addEventListener("focusin", show);
    box.addEventListener("pointerleave", () => this.hide());
    box.addEventListener("focusout", () => this.hide());
  }
}
