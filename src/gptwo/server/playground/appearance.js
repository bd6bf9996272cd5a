// Light, dark, or as the system; and the places of menus.

const NAMES = { auto: "as the system", light: "light", dark: "dark" };

export function switchAppearance(button, label) {
  const root = document.documentElement;
  const show = () => {
    const sentence = `Appearance: ${NAMES[root.dataset.theme ?? "auto"]}`;
    label.textContent = sentence;
    button.title = `${sentence}. Press to change it.`;
  };
  button.addEventListener("click", () => {
    // From what is seen to the other one first, so that the first press always does something.
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const order = dark ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
    const next = order[(order.indexOf(root.dataset.theme ?? "auto") + 1) % order.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("gptwo-theme", next);
    } catch {
      // Without storage it lasts until the page is left.
    }
    show();
  });
  show();
}

/** A menu opens under the button that owns it, and closes once something in it was pressed. */
export function placeMenu(button, menu) {
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "open") return;
    const owner = button.getBoundingClientRect();
    menu.style.top = `${owner.bottom + 6}px`;
    menu.style.left = `${Math.max(8, Math.min(owner.left, window.innerWidth - menu.offsetWidth - 8))}px`;
  });
  menu.addEventListener("click", (event) => {
    if (event.target.closest("button")) menu.hidePopover();
  });
}
