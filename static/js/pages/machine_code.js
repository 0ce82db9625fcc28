// An enrolment code while it is good: how long still, and what has come of it at the machine.

import "./common.js";
import { get } from "../api.js";
import { announce, pageState, setText, toast } from "../dom.js";
import { everySecond, now, serverTime, stopwatch } from "../times.js";

const LOOK_MS = 2500;
const state = pageState("code-state");
const part = (name) => document.querySelector(`[data-${name}]`);
let used = false;
let over = false;
let stop = null;

serverTime(state.server_time);

function tick() {
  const left = Math.max(0, Math.ceil((Date.parse(state.expires_at) - now()) / 1000));
  setText(part("left"), stopwatch(left));
  if (left === 0) finish();
}

/** The code counts no more: it goes from the screen. */
function finish() {
  if (over) return;
  over = true;
  stop?.();
  part("code").hidden = true;
  part("over").hidden = used;
}

function say(text, kind = "") {
  const node = part("progress");
  node.className = `note ${kind}`.trim();
  node.hidden = false;
  if (node.textContent === text) return;
  setText(node, text);
  announce(text);
}

async function look() {
  try {
    const vpn = await get(`/api/v1/machines/${state.id}/vpn/`);
    const code = vpn.enrolment_code;
    if (vpn.frozen) {
      say(`The machine is frozen. ${vpn.frozen_reason}`, "bad");
    } else if (code?.used_at && code.expires_at === state.expires_at) {
      used = true;
      finish();
      say(vpn.connection ? "It is enrolled and connected." : "It is enrolled. It joins as soon as its agent connects.", "good");
    }
  } catch {
    // The network is away: the next look tells.
  }
  if (Date.parse(state.expires_at) - now() > -60_000 || used) setTimeout(look, LOOK_MS);
}

const copy = part("copy");
if (navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(part("command").textContent);
      toast("Copied.", { seconds: 3 });
    } catch {
      toast("This browser does not let the page copy. Select the text and copy it.");
    }
  });
}

stop = everySecond(tick);
setTimeout(look, LOOK_MS);
