// One machine: its banner follows the rescue that is open, or not, while one looks.

import "./common.js";
import { sessions } from "../api.js";
import { asking } from "../asking.js";
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
let who = null;
let isHistoryOld = false;

function draw() {
  if (!open) {
    banner.replaceChildren();
    return;
  }
  waited = el("span", { class: "figures" });
  who = el("p", { class: "small figures" });
  banner.replaceChildren(
    el(
      "div",
      { class: "note warm" },
      icon("alert"),
      el(
        "div",
        {},
        el("p", {}, el("strong", { text: problemText(open.problem) }), " · ", open.state_label, " · asked ", waited, " ago"),
        who,
        el("div", { class: "buttons" }, el("a", { class: "button strong", href: `/sessions/${open.id}/` }, "Open the rescue")),
      ),
    ),
  );
  tick();
}

function tick() {
  if (!open || !waited) return;
  setText(waited, duration(secondsSince(open.requested_at)));
  setText(who, open.operator ? `${open.operator.name} has it.` : asking(open.asking, first.me) || "Nobody has claimed it yet.");
}

function take(card) {
  attention.changed(card);
  if (card.machine.id !== first.id) return;
  if (open && open.id === card.id && card.version < open.version) return;
  const before = open?.id;
  open = isEnding(card) ? null : card;
  if (!open) historyHasChanged();
  if (open && before !== open.id) announce(`Help was pressed here: ${problemText(open.problem)}.`);
  draw();
}

function snapshot(cards) {
  attention.snapshot(cards);
  const before = open;
  open = cards.find((card) => card.machine.id === first.id && !isEnding(card)) ?? null;
  if ((before && !open) || isHistoryOld) historyHasChanged();
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

// What goes with the time: the server renders it, and what differs takes the place of what stands here.

const parts = [
  [`/machines/${first.id}/vpn/`, 2500, "[data-vpn] [data-live]"],
  [`/machines/${first.id}/now/`, 10_000, '[data-live="now"]'],
];

async function look(address, places) {
  if (document.visibilityState !== "visible") return;
  const response = await fetch(address, { credentials: "same-origin", signal: AbortSignal.timeout(10_000) });
  if (!response.ok || response.redirected) return; // signed out, or it left the fleet: the page stays as it was
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll(places)) {
    const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!next || (next.dataset.version && next.dataset.version === part.dataset.version)) continue;
    if (part.contains(document.activeElement) && document.activeElement.matches("input, textarea")) continue; // somebody types
    part.replaceWith(next);
    fillTimes(next);
  }
}

// What has ended moves from the banner to the list of rescues.
async function lookAtHistory() {
  if (!isHistoryOld || document.visibilityState !== "visible") return;
  isHistoryOld = false;
  try {
    await look(location.pathname + location.search, '[data-live="history"]');
  } catch {
    isHistoryOld = true; // the network is away: the next snapshot, or the next glance at the page, comes here again
  }
}

function historyHasChanged() {
  isHistoryOld = true;
  lookAtHistory();
}

document.addEventListener("visibilitychange", lookAtHistory);

async function keepLooking(address, every, places) {
  try {
    await look(address, places);
  } catch {
    // The network is away: the next look tells.
  }
  setTimeout(keepLooking, every, address, every, places);
}

for (const [address, every, places] of parts) {
  if (document.querySelector(places)) setTimeout(keepLooking, every, address, every, places);
}
