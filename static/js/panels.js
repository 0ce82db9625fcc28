// The desktop's dialogs: keys that a browser or a phone keeps for itself, and the clipboard.

import { button, el, openDialog, toast } from "./dom.js";
import { KEY } from "./input.js";

/** Every chord that has a button: name, keysyms, and whether the key wants two columns. */
export const CHORDS = {
  "ctrl-alt-del": ["Ctrl-Alt-Del", [KEY.CTRL, KEY.ALT, KEY.DELETE], true],
  "alt-tab": ["Alt-Tab", [KEY.ALT, KEY.TAB], true],
  "alt-f4": ["Alt-F4", [KEY.ALT, KEY.F1 + 3], true],
  "ctrl-shift-esc": ["Ctrl-Shift-Esc", [KEY.CTRL, KEY.SHIFT, KEY.ESCAPE], true],
  win: ["Win", [KEY.WIN]],
  esc: ["Esc", [KEY.ESCAPE]],
  tab: ["Tab", [KEY.TAB]],
  enter: ["Enter", [KEY.ENTER]],
  left: ["←", [KEY.LEFT], false, "Left"],
  up: ["↑", [KEY.UP], false, "Up"],
  down: ["↓", [KEY.DOWN], false, "Down"],
  right: ["→", [KEY.RIGHT], false, "Right"],
  ...Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`f${index + 1}`, [`F${index + 1}`, [KEY.F1 + index]]])),
};

export function openKeys(input) {
  return openDialog(
    "Keys",
    () => ({
      body: el(
        "div",
        { class: "dialog-body" },
        el(
          "div",
          { class: "key-grid" },
          Object.entries(CHORDS).map(([name, [text, keysyms, two, spoken]]) =>
            button(text, {
              kind: two ? "two" : "",
              "data-key": name,
              "aria-label": spoken,
              click: () => input.chord(...keysyms),
            }),
          ),
        ),
        el("p", { class: "help for-keyboards", text: "While the desktop's frame is lit, your keyboard types on the machine. Ctrl+Alt+Shift brings it back to this page." }),
      ),
    }),
    { name: "keys" },
  );
}

/** Puts a text on this device's clipboard; false when the browser will not have it. */
export async function copyHere(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, no secure origin, or an old browser: the text area remains
  }
}

const NO_COPY = "What is copied on the machine stays there: its connection profile does not allow copying.";
const NO_PASTE = "This machine's clipboard takes nothing from here: its connection profile does not allow pasting. You can have the text typed.";
const NOTHING_YET = "Nothing has been copied on the machine yet. When something is, it shows here.";
const NOT_YOURS = "Only whoever has the rescue can send text to the machine.";

/** `received` is the last text that came from the machine, `allowed` what the connection profile lets through. */
export function openClipboard({ desktop, input, received, allowed }) {
  return openDialog(
    "Clipboard",
    () => {
      const send = el("textarea", { id: "clipboard-send", rows: 3, autocapitalize: "off", autocomplete: "off", spellcheck: "false" });
      const got = el("textarea", { id: "clipboard-got", rows: 3, readonly: true });
      got.value = received;
      const needed = () => {
        if (send.value) return true;
        send.focus();
        return false;
      };
      const canRead = Boolean(navigator.clipboard?.readText);
      const fromMachine = el(
        "div",
        { class: "field" },
        el("label", { for: "clipboard-got", text: "From the machine" }),
        got,
        el(
          "div",
          { class: "buttons" },
          button("Copy it here", {
            action: "copy-here",
            click: async () => {
              got.select();
              toast((await copyHere(got.value)) ? "Copied." : "Your browser does not allow it: copy the marked text by hand.");
            },
          }),
        ),
      );
      const toMachine = el(
        "div",
        { class: "field" },
        el("label", { for: "clipboard-send", text: "To the machine" }),
        send,
        allowed.paste ? null : el("p", { class: "help", text: NO_PASTE }),
        el(
          "div",
          { class: "buttons" },
          allowed.paste
            ? button("Put on its clipboard", {
                kind: "strong",
                action: "send-clipboard",
                click: () => {
                  if (needed() && desktop.sendClipboard(send.value)) toast("It is on the machine's clipboard: paste it there with Ctrl+V.");
                },
              })
            : null,
          button("Type it", {
            kind: allowed.paste ? "" : "strong",
            action: "type-text",
            click: () => {
              if (!needed()) return;
              input.type(send.value);
              toast("Typed.");
            },
          }),
          canRead
            ? button("Paste mine here", {
                action: "fetch-clipboard",
                click: async () => {
                  try {
                    send.value = await navigator.clipboard.readText();
                  } catch {
                    toast("Your browser does not allow it: paste into the field instead.");
                    send.focus();
                  }
                },
              })
            : null,
        ),
      );
      return {
        body: el(
          "div",
          { class: "dialog-body" },
          desktop.controlling ? toMachine : el("p", { class: "soft", text: NOT_YOURS }),
          received ? fromMachine : el("p", { class: "soft", text: allowed.copy ? NOTHING_YET : NO_COPY }),
        ),
      };
    },
    { name: "clipboard" },
  );
}
