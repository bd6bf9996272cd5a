// The panel beside the text, and its two tabs.

export class Panel {
  /** changed() hears when it opens or closes, or another tab is chosen. */
  constructor({ panel, toggle, close, tabs, changed }) {
    Object.assign(this, { panel, toggleButton: toggle, tabs, changed });
    toggle.addEventListener("click", () => this.toggle());
    close.addEventListener("click", () => this.hide());
    for (const tab of tabs) {
      tab.addEventListener("click", () => this.#select(tab));
      tab.addEventListener("keydown", (event) => this.#key(event));
    }
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  toggle() {
    if (this.isOpen) this.hide();
    else {
      this.show();
      this.tabs.find((tab) => tab.getAttribute("aria-selected") === "true").focus();
    }
  }

  /** Whether the tab of a name can be seen. */
  shows(name) {
    return this.isOpen && this.tabs.some((tab) => tab.getAttribute("aria-controls") === name && tab.ariaSelected === "true");
  }

  /** Open it, with the tab of a name if one is given. */
  show(name = null) {
    this.panel.hidden = false;
    this.toggleButton.setAttribute("aria-expanded", "true");
    const tab = this.tabs.find((one) => one.getAttribute("aria-controls") === name);
    if (tab) this.#select(tab);
    this.changed();
  }

  hide() {
    const hadFocus = this.panel.contains(document.activeElement);
    this.panel.hidden = true;
    this.toggleButton.setAttribute("aria-expanded", "false");
    if (hadFocus) this.toggleButton.focus();
    this.changed();
  }

  #select(tab) {
    for (const one of this.tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    this.changed();
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const at = this.tabs.indexOf(event.currentTarget);
    const next = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
    this.#select(next);
    next.focus();
    event.preventDefault();
  }
}
