// One machine: its banner follows the rescue that is open, or not, while one looks.

import "./common.js";
import { sessions } from "../api.js";
import * as attention from "../attention.js";
import { isEnding } from "../cards.js";
import { announce, el, icon, pageState, setText } from "../dom.js";
import { Live, connectionBanner } from "../live.js";
import { duration, everySecond, fillTimes, secondsSince, serverTime } from "../times.js";
import { problemText } from "../words.js";

const first = pageState("machine-state");
const banner = document.querySelector("[data-open-rescue]");
let open = first.open_session;
let waited = null;

function draw() {
  if (!open) {
    banner.replaceChildren();
    return;
  }
  waited = el("span", { class: "figures" });
  banner.replaceChildren(
    el(
      "div",
      { class: "note warm" },
      icon("alert"),
      el(
        "div",
        {},
        el("p", {}, el("strong", { text: problemText(open.problem) }), " · ", open.state_label, " · asked ", waited, " ago"),
        el("p", { class: "small", text: open.operator ? `${open.operator.name} has it.` : "Nobody has claimed it yet." }),
        el("div", { class: "buttons" }, el("a", { class: "button strong", href: `/sessions/${open.id}/` }, "Open the rescue")),
      ),
    ),
  );
  tick();
}

function tick() {
  if (open && waited) setText(waited, duration(secondsSince(open.requested_at)));
}

function take(card) {
  attention.changed(card);
  if (card.machine.id !== first.id) return;
  if (open && open.id === card.id && card.version < open.version) return;
  const before = open?.id;
  open = isEnding(card) ? null : card;
  if (open && before !== open.id) announce(`Help was pressed here: ${problemText(open.problem)}.`);
  draw();
}

function snapshot(cards) {
  attention.snapshot(cards);
  open = cards.find((card) => card.machine.id === first.id && !isEnding(card)) ?? null;
  draw();
}

serverTime(first.server_time);
attention.follow(first.me);
draw();
everySecond(tick);
const sayLine = connectionBanner(document.querySelector(".connection"));
new Live({
  onSnapshot: snapshot,
  onSession: take,
  onStatus: (status) => {
    document.documentElement.dataset.live = status;
    sayLine(status);
  },
  poll: async () => {
    const { results } = await sessions.open();
    return () => snapshot(results);
  },
}).start();

// The VPN's part: the server renders it, and what differs takes the place of what stands here.

const VPN_LOOK_MS = 2500;

async function lookAtVpn() {
  if (document.visibilityState !== "visible") return;
  const response = await fetch(`/machines/${first.id}/vpn/`, { credentials: "same-origin", signal: AbortSignal.timeout(10_000) });
  if (!response.ok || response.redirected) return; // signed out, or it left the fleet: the page stays as it was
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!next || next.dataset.version === part.dataset.version) continue;
    if (part.contains(document.activeElement) && document.activeElement.matches("input, textarea")) continue; // somebody types
    part.replaceWith(next);
    fillTimes(next);
  }
}

async function keepLooking() {
  try {
    await lookAtVpn();
  } catch {
    // The network is away: the next look tells.
  }
  setTimeout(keepLooking, VPN_LOOK_MS);
}

if (document.querySelector("[data-live]")) setTimeout(keepLooking, VPN_LOOK_MS);
