// A toolbar as the ARIA practices want it: one stop for Tab, arrows between its buttons.

export class Toolbar {
  constructor(node) {
    this.node = node;
    node.addEventListener("keydown", (event) => this.#move(event));
    node.addEventListener("focusin", (event) => this.#stopAt(event.target.closest("button")));
    this.refresh();
  }

  /** To be called when buttons were enabled, disabled, shown or hidden: Tab must still find one. */
  refresh() {
    const usable = this.#usable();
    if (!usable.some((button) => button.tabIndex === 0)) this.#stopAt(usable[0]);
  }

  #usable() {
    return [...this.node.querySelectorAll("button")].filter((button) => !button.disabled && button.checkVisibility());
  }

  #stopAt(stop) {
    if (!stop) return;
    for (const button of this.node.querySelectorAll("button")) button.tabIndex = button === stop ? 0 : -1;
  }

  #move(event) {
    const usable = this.#usable();
    const at = usable.indexOf(document.activeElement);
    const to = {
      ArrowRight: (at + 1) % usable.length,
      ArrowLeft: (at - 1 + usable.length) % usable.length,
      Home: 0,
      End: usable.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    usable[to].focus();
  }
}
