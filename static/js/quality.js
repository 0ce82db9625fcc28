// How good the line to the desktop is, in a word, and how long a message takes there and back.

import { setText } from "./dom.js";

export class Quality {
  #trip = null;
  #steady = true;

  constructor(node, desktop) {
    this.node = node;
    this.desktop = desktop;
  }

  /** A message came back after so long. */
  took(milliseconds) {
    this.#trip = this.#trip === null ? milliseconds : this.#trip * 0.6 + milliseconds * 0.4;
    this.draw();
  }

  /** Whether data arrives as it should. */
  setSteady(is) {
    this.#steady = is;
    this.draw();
  }

  draw() {
    const { connected, role, state } = this.desktop;
    let quality = "none";
    let word = "Not connected";
    if (connected) [quality, word] = this.#judge();
    else if (state !== "closed") word = "Joining";
    this.node.dataset.quality = quality;
    setText(this.node.firstElementChild, connected && role === "watcher" ? `Watching, ${word.toLowerCase()}` : word);
    setText(this.node.lastElementChild, connected && this.#steady && this.#trip !== null ? `${Math.round(this.#trip)} ms` : "");
  }

  #judge() {
    if (!this.#steady) return ["bad", "Unsteady"];
    if (this.#trip !== null && this.#trip > 800) return ["bad", "Very slow"];
    if (this.#trip !== null && this.#trip > 250) return ["slow", "Slow"];
    return ["good", "Good"];
  }
}
