// The tools above the desktop: keys and clipboard, a phone's keyboard and touch, full screen.

import { part, setText, toast } from "./dom.js";
import { CHORDS, openKeys } from "./panels.js";
import { Toolbar } from "./toolbar.js";

export class DesktopTools {
  /** `main` is what a full screen shows, `showClipboard` opens that dialog. */
  constructor({ input, main, showClipboard }) {
    this.toolbar = new Toolbar(document.querySelector(".tools"));
    wireKeys(input);
    part("clipboard").addEventListener("click", showClipboard);
    wireTouch(input);
    wireFullScreen(input, main);
    part("aside").addEventListener("click", () => {
      const shut = main.classList.toggle("aside-shut");
      part("aside").setAttribute("aria-pressed", String(!shut));
    });
  }

  /** What can be used now. */
  draw(desktop) {
    for (const node of document.querySelectorAll("[data-needs-control]")) node.disabled = !desktop.controlling;
    part("clipboard").disabled = !desktop.connected;
    this.toolbar.refresh();
  }
}

function wireKeys(input) {
  for (const node of document.querySelectorAll("[data-chord]")) {
    const [, keysyms] = CHORDS[node.dataset.chord];
    node.addEventListener("click", () => {
      input.chord(...keysyms);
      input.focus();
    });
  }
  part("keys").addEventListener("click", () => openKeys(input));
}

function wireTouch(input) {
  // A tap on the button must not take the focus from the field that holds the phone's keyboard open.
  part("keyboard").addEventListener("pointerdown", (event) => event.preventDefault());
  part("keyboard").addEventListener("click", () => input.toggleOnScreenKeyboard());
  const sink = document.querySelector(".sink");
  for (const type of ["focus", "blur"]) {
    sink.addEventListener(type, () => part("keyboard").setAttribute("aria-pressed", String(type === "focus")));
  }
  part("touch").addEventListener("click", () => {
    input.touchMode = input.touchMode === "touch" ? "pad" : "touch";
    const pad = input.touchMode === "pad";
    setText(part("touch").querySelector("span"), pad ? "Touchpad" : "Touch");
    part("touch").querySelector("use").setAttribute("href", part("touch").dataset[pad ? "pad" : "tap"]);
    toast(pad ? "Slide to move the pointer, tap to click, two fingers scroll." : "Tap where you want to click; hold for the right button.");
  });
}

function wireFullScreen(input, main) {
  const node = part("full");
  node.hidden = !document.fullscreenEnabled;
  node.addEventListener("click", async () => {
    if (document.fullscreenElement) await document.exitFullscreen();
    else {
      await main.requestFullscreen();
      // Where the browser lends them, Alt-Tab, Win and Esc reach the machine too.
      await navigator.keyboard?.lock?.().catch(() => {});
      input.focus();
    }
  });
  document.addEventListener("fullscreenchange", () => {
    const full = document.fullscreenElement !== null;
    node.setAttribute("aria-pressed", String(full));
    setText(node.querySelector("span"), full ? "Leave full screen" : "Full screen");
    if (!full) navigator.keyboard?.unlock?.();
  });
}
