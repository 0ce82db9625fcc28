// The queue's switch for the sound, and what keeps it silent, in words.

import { announce, part, setText } from "./dom.js";
import { canSound, onSound, wishSound } from "./sound.js";

const BLOCKED =
  "Sound is on, but browsers keep a page silent until somebody has clicked or typed on it. Click anywhere here, and it will ring.";

export function keepSoundSwitch() {
  const place = part("sound");
  const blocked = part("sound-blocked");
  if (!canSound) return;
  const box = place.querySelector("input");
  place.hidden = false;
  box.addEventListener("change", () => {
    wishSound(box.checked);
    announce(box.checked ? "Sound is on: a bell when you are asked." : "Sound is off.");
  });
  onSound((state) => {
    box.checked = state !== "off";
    setText(blocked, state === "blocked" ? BLOCKED : "");
    blocked.hidden = state !== "blocked";
  });
}
