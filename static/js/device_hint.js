// The queue's quiet line for who gets messages on no device, until it is put away in this browser.

import { part } from "./dom.js";

const KEY = "no-device-hint";

export function keepDeviceHint() {
  const hint = part("no-device");
  if (!hint) return;
  hint.hidden = isPutAway();
  hint.querySelector("button").addEventListener("click", () => {
    hint.hidden = true;
    putAway();
    document.getElementById("content").focus({ preventScroll: true });
  });
}

// A browser may forbid a page to keep anything.
function isPutAway() {
  try {
    return localStorage.getItem(KEY) === "put away";
  } catch {
    return false;
  }
}

function putAway() {
  try {
    localStorage.setItem(KEY, "put away");
  } catch {
    // Then it is away as long as this page is open.
  }
}
