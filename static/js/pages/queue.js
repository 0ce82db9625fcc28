// The queue: who waits, since when, and who has whom.

import "./common.js";
import { Problem, sessions, signInAddress } from "../api.js";
import * as attention from "../attention.js";
import { Cards, isEnding, isMine } from "../cards.js";
import { keepDeviceHint } from "../device_hint.js";
import { announce, pageState, part, setText, toast } from "../dom.js";
import { Live, connectionBanner } from "../live.js";
import { keepMissed, missedMayHaveChanged } from "../missed.js";
import { keepSoundSwitch } from "../sound_switch.js";
import { everySecond, serverTime } from "../times.js";
import { Ticket } from "../ticket.js";
import { place, problemText } from "../words.js";

const first = pageState("queue-state");
const me = first.me;
const cards = new Cards(first.sessions);
const tickets = new Map();
// Tickets that stay where they are for a moment, because something was just said on them: id → until.
const held = new Map();
const HOLD_MS = 12_000;

const sections = ["waiting", "mine", "colleagues"].map((name) => {
  const node = document.querySelector(`[data-section="${name}"]`);
  return { name, node, list: node.querySelector("ol"), empty: node.querySelector(".empty"), count: node.querySelector(".count") };
});

function sectionOf(card) {
  if (isMine(card, me)) return "mine";
  const hold = held.get(card.id);
  if (hold && hold > Date.now()) return "waiting";
  return card.operator === null ? "waiting" : "colleagues";
}

function draw({ quiet = false } = {}) {
  const open = cards.open();
  const ids = new Set(open.map((card) => card.id));
  for (const [id, ticket] of tickets) {
    if (ids.has(id)) continue;
    if (ticket.node.contains(document.activeElement)) focusNear(ticket.node);
    ticket.node.remove();
    tickets.delete(id);
  }
  for (const card of open) {
    const ticket = tickets.get(card.id);
    if (ticket) ticket.update(card);
    else {
      const made = new Ticket(card, me, act);
      if (!quiet) made.node.classList.add("arrived");
      tickets.set(card.id, made);
    }
  }
  for (const section of sections) {
    const inside = open.filter((card) => sectionOf(card) === section.name);
    inside.forEach((card, place) => {
      const { node } = tickets.get(card.id);
      const there = section.list.children[place];
      if (there === node) return;
      const focused = node.contains(document.activeElement) ? document.activeElement : null;
      section.list.insertBefore(node, there ?? null);
      focused?.focus({ preventScroll: true });
    });
    section.empty.hidden = inside.length > 0;
    section.list.hidden = inside.length === 0;
    setText(section.count, inside.length ? String(inside.length) : "");
  }
}

function focusNear(node) {
  const near = node.nextElementSibling ?? node.previousElementSibling;
  (near?.querySelector("button, a") ?? document.getElementById("content")).focus({ preventScroll: true });
}

function take(card) {
  attention.changed(card);
  const known = cards.byId.get(card.id);
  if (!cards.put(card)) return;
  if (isEnding(card)) {
    missedMayHaveChanged();
    if (known && !isEnding(known) && isMine(card, me)) toast(`${problemText(card.problem)}, ${card.site.name}: ${card.sentence}`);
  } else if (!known) {
    announce(`New request: ${problemText(card.problem)} at ${place(card.site)}.`);
  } else if (known.operator?.id !== card.operator?.id && card.operator && card.operator.id !== me.id) {
    announce(`${card.operator.name} has claimed ${problemText(card.problem)} at ${card.site.name}.`);
  } else if (known.operator && !card.operator) {
    announce(`${problemText(card.problem)} at ${card.site.name} waits again.`);
  }
  draw();
}

async function act(verb, ticket) {
  if (verb !== "claim" || ticket.node.dataset.busy) return;
  ticket.node.dataset.busy = "yes";
  ticket.busy(true);
  const id = ticket.card.id;
  try {
    await sessions.claim(id);
    location.assign(`/sessions/${id}/`);
    return; // the button stays busy until the next page is here
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    ticket.busy(false);
    delete ticket.node.dataset.busy;
    refused(ticket, error);
  }
}

function refused(ticket, problem) {
  const id = ticket.card.id;
  if (problem.status === 401) {
    location.assign(signInAddress());
  } else if (problem.code === "already_claimed") {
    held.set(id, Date.now() + HOLD_MS);
    setTimeout(() => {
      held.delete(id);
      draw();
    }, HOLD_MS);
    ticket.sayTaken(problem.problem.operator, problem.problem.claimed_at);
    announce(problem.detail);
    refresh(id);
  } else if (problem.code === "session_closed" || problem.status === 404) {
    toast(problem.detail);
    cards.byId.delete(id);
    draw();
  } else {
    ticket.say(problem.detail);
    announce(problem.detail);
  }
}

async function refresh(id) {
  try {
    take(await sessions.one(id));
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // the live line brings it as well
  }
}

function snapshot(open) {
  attention.snapshot(open);
  const quiet = tickets.size === 0;
  for (const card of open) if (!cards.byId.has(card.id)) announce(`New request: ${problemText(card.problem)} at ${place(card.site)}.`);
  cards.replaceOpen(open);
  draw({ quiet });
}

const liveWord = part("live");
const banner = connectionBanner(document.querySelector(".connection"));

serverTime(first.server_time);
attention.follow(me, first.sessions);
draw({ quiet: true });
keepSoundSwitch();
keepDeviceHint();
keepMissed(first.missed);
everySecond(() => tickets.forEach((ticket) => ticket.tick()));
document.documentElement.dataset.page = "ready";

new Live({
  onSnapshot: snapshot,
  onSession: take,
  onStatus: (status) => {
    banner(status);
    liveWord.dataset.status = status;
    document.documentElement.dataset.live = status;
    setText(liveWord, { live: "Live", polling: "Live, a little slower", connecting: "Connecting…", lost: "Not connected" }[status]);
  },
  poll: async () => {
    const { results } = await sessions.open();
    return () => snapshot(results);
  },
}).start();
