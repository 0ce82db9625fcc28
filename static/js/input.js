// Keys, pointer and touch for the desktop. Keys go to the machine only while the screen has the focus;
// Ctrl+Alt+Shift, or a tap on any control, gives them back to the page.

import Guacamole from "@dushixiang/guacamole-common-js";

export const KEY = {
  BACKSPACE: 0xff08,
  TAB: 0xff09,
  ENTER: 0xff0d,
  ESCAPE: 0xff1b,
  DELETE: 0xffff,
  F1: 0xffbe,
  SHIFT: 0xffe1,
  CTRL: 0xffe3,
  ALT: 0xffe9,
  WIN: 0xffeb,
  LEFT: 0xff51,
  UP: 0xff52,
  RIGHT: 0xff53,
  DOWN: 0xff54,
};

const SHIFTS = new Set([0xffe1, 0xffe2]);
const CTRLS = new Set([0xffe3, 0xffe4]);
const ALTS = new Set([0xffe9, 0xffea]);

// On phones something must stand in the hidden field, or a backspace changes nothing and goes unheard.
const SEED = "\u00a0";

export class Input {
  /**
   * @param {import("./desktop.js").Desktop} desktop
   * @param {HTMLElement} screen the focusable element that holds the picture
   * @param {HTMLTextAreaElement} sink what a phone's keyboard types into
   * @param {() => void} onRelease the keyboard's way out was taken
   */
  constructor(desktop, screen, sink, onRelease) {
    Object.assign(this, { desktop, screen, sink, onRelease });
    this.touchMode = "touch";
    this.down = new Set();
    this.#keyboard();
  }

  /** Wires a new join's picture; called for each join, since each has a display of its own. */
  attach(client, display, holder) {
    const picture = display.getElement();
    const mouse = new Guacamole.Mouse(picture);
    const send = (state) => {
      if (!this.desktop.controlling || this.desktop.client !== client) return;
      // A pointer dragged out of the picture stays at its edge: the protocol knows no place beyond it.
      const inside = new Guacamole.Mouse.State(state);
      inside.x = Math.min(Math.max(0, state.x), Math.max(0, display.getWidth() * display.getScale() - 1));
      inside.y = Math.min(Math.max(0, state.y), Math.max(0, display.getHeight() * display.getScale() - 1));
      client.sendMouseState(inside, true);
    };
    mouse.onEach(["mousedown", "mousemove", "mouseup"], (event) => {
      if (event.type === "mousedown") this.focus();
      display.showCursor(false); // the browser's own pointer carries the machine's picture of it
      send(event.state);
    });
    display.oncursor = (canvas, x, y) => this.desktop.controlling && mouse.setCursor(canvas, x, y);

    const touchscreen = new Guacamole.Mouse.Touchscreen(picture);
    touchscreen.onEach(["mousedown", "mousemove", "mouseup"], (event) => {
      if (this.touchMode !== "touch") return;
      display.showCursor(false);
      send(event.state);
    });
    const touchpad = new Guacamole.Mouse.Touchpad(holder);
    touchpad.onEach(["mousedown", "mousemove", "mouseup"], (event) => {
      if (this.touchMode !== "pad") return;
      display.showCursor(true);
      send(event.state);
    });
  }

  focus() {
    if (document.activeElement !== this.sink) this.screen.focus({ preventScroll: true });
  }

  /** Shows or hides a phone's keyboard; true when it is shown. */
  toggleOnScreenKeyboard() {
    if (document.activeElement === this.sink) {
      this.sink.blur();
      return false;
    }
    this.sink.value = SEED;
    this.sink.focus({ preventScroll: true });
    return true;
  }

  /** Presses keys in this order and lets go in the reverse one. */
  chord(...keysyms) {
    const { client } = this.desktop;
    if (!client || !this.desktop.controlling) return;
    for (const keysym of keysyms) client.sendKeyEvent(1, keysym);
    for (const keysym of [...keysyms].reverse()) client.sendKeyEvent(0, keysym);
  }

  /** Types a text as key presses, for machines without a clipboard. */
  type(text) {
    for (const character of text.replaceAll("\r\n", "\n")) {
      if (character === "\n") this.chord(KEY.ENTER);
      else if (character === "\t") this.chord(KEY.TAB);
      else {
        const point = character.codePointAt(0);
        // X11's keysyms: Latin-1 is itself, everything else Unicode is 0x01000000 and the code point.
        this.chord(point <= 0xff ? point : 0x01000000 | point);
      }
    }
  }

  #keyboard() {
    const keyboard = new Guacamole.Keyboard(this.screen);
    keyboard.listenTo(this.sink);
    keyboard.onkeydown = (keysym) => {
      if (!this.desktop.controlling) return true; // nothing to send it to: let the page have it
      this.down.add(keysym);
      this.desktop.client.sendKeyEvent(1, keysym);
      if (this.#holds(SHIFTS) && this.#holds(CTRLS) && this.#holds(ALTS)) {
        keyboard.reset();
        this.onRelease();
      }
      return false;
    };
    keyboard.onkeyup = (keysym) => {
      this.down.delete(keysym);
      if (this.desktop.controlling) this.desktop.client.sendKeyEvent(0, keysym);
    };
    // A key still held when the focus goes would stay down on the machine.
    for (const node of [this.screen, this.sink]) node.addEventListener("blur", () => keyboard.reset());
    addEventListener("blur", () => keyboard.reset());

    this.sink.addEventListener("input", (event) => {
      if (event.inputType === "deleteContentBackward") this.chord(KEY.BACKSPACE);
      else if (event.inputType === "insertLineBreak" && !event.data) this.chord(KEY.ENTER);
      if (!event.isComposing) this.sink.value = SEED;
    });
    this.sink.addEventListener("compositionend", () => (this.sink.value = SEED));
  }

  #holds(keys) {
    for (const keysym of this.down) if (keys.has(keysym)) return true;
    return false;
  }
}
