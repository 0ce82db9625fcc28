// The rescue: the machine's desktop, who is at it, and the ways to end it or pass it on.

import "./common.js";
import { Problem, sessions, signInAddress } from "../api.js";
import { drawAside, drawMachine, tickAside } from "../aside.js";
import * as attention from "../attention.js";
import { isEnding, isMine, may } from "../cards.js";
import { askFirst, askToClose, askToHandOver, prefetchCauses } from "../closing.js";
import { Curtain } from "../curtain.js";
import { Desktop } from "../desktop.js";
import { DesktopTools } from "../desktop_tools.js";
import { announce, button, el, offer, pageState, part, setText, toast } from "../dom.js";
import { Input } from "../input.js";
import { Live, connectionBanner } from "../live.js";
import { copyHere, openClipboard } from "../panels.js";
import { Quality } from "../quality.js";
import { Summary } from "../summary.js";
import { everySecond, serverTime, wallClock } from "../times.js";
import { STATUS, problemText } from "../words.js";

const first = pageState("rescue-state");
const me = first.me;
let card = first.session;

const html = document.documentElement;
const main = document.getElementById("content");
const screen = document.querySelector(".screen");

let summary = null;
// Why the page does not join by itself now: {code, message}; the person decides.
let paused = null;
let lost = null;
let received = "";
let claimRefusal = "";
let restStarted = false;
// The live line waits this long for the desktop's first picture, and no longer.
const PICTURE_FIRST_MS = 1000;

// ---- the desktop ----------------------------------------------------------------------------------------------------

const desktop = new Desktop({
  sessionId: card.id,
  given: first.ticket ?? null,
  screen,
  onState(state, why) {
    html.dataset.desktop = state;
    if (state === "connected") {
      lost = null;
      if (desktop.role === "controller" && canTakeFocus()) input.focus();
      announce(desktop.role === "controller" ? "You are at the machine's desktop." : "You are watching the machine's desktop.");
    } else if (state === "closed" && why) {
      lost = why;
      if (why.code === STATUS.SESSION_CLOSED) look();
      else if (why.final) paused = why;
      else look();
    }
    draw();
    if (state === "closed") startTheRest();
  },
  onSteady: (is) => quality.setSteady(is),
  onClipboard(text) {
    received = text;
    if (!text || document.querySelector("dialog[open]")) return;
    toast("The machine copied text.", {
      action: "Copy it here",
      click: async () => {
        if (!(await copyHere(text))) showClipboard();
      },
    });
  },
  onFirstFrame() {
    html.dataset.firstFrame = "yes";
    performance.mark("first-pixels");
    startTheRest();
  },
  onDisplay: (client, display, holder) => input.attach(client, display, holder),
});

const input = new Input(desktop, screen, document.querySelector(".sink"), () => {
  announce("Your keyboard is back on this page.");
  part("keys").focus();
});
const showClipboard = () => openClipboard({ desktop, input, received, allowed: card.clipboard });
const tools = new DesktopTools({ input, main, showClipboard });
const quality = new Quality(part("quality"), desktop);
const curtain = new Curtain(document.querySelector(".curtain"), rejoin);

/** Somebody who is reading or typing elsewhere on the page keeps the focus. */
function canTakeFocus() {
  const active = document.activeElement;
  return !document.querySelector("dialog[open]") && (!active || active === document.body || active === screen || active === main);
}

function wantedRole() {
  if (isEnding(card) || !card.desktop || paused) return null;
  if (isMine(card, me) && may(card, "control")) return "controller";
  return may(card, "watch") ? "watcher" : null;
}

function follow() {
  const role = wantedRole();
  if (role) desktop.join(role);
  else if (desktop.role) desktop.leave();
}

function rejoin() {
  paused = null;
  lost = null;
  follow();
  draw();
}

// ---- what the server says -------------------------------------------------------------------------------------------

function take(newer) {
  if (newer.id !== card.id || newer.version < card.version) return;
  const older = card;
  card = newer;
  if (paused?.code === 404) paused = null; // it is ours to see after all
  if (older.operator?.id !== card.operator?.id && !isEnding(card)) {
    claimRefusal = "";
    if (isMine(older, me)) toast(card.operator ? `${card.operator.name} has this rescue now. You are watching.` : "This rescue waits in the queue again.");
    else if (isMine(card, me) && older.operator) toast("This rescue is yours now.");
    // Whoever gets another part may well join again after all.
    if (paused?.code === STATUS.CLIENT_UNAUTHORIZED) paused = null;
  }
  if (older.notice !== card.notice && card.notice) announce(card.notice);
  follow();
  draw();
}

async function look() {
  try {
    take(await sessions.one(card.id));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) location.assign(signInAddress());
    else if (error.status === 404) {
      paused = { code: 404, message: "This rescue is no longer yours to see. Go back to the queue." };
      follow();
      draw();
    }
  }
}

// ---- drawing ---------------------------------------------------------------------------------------------------------

function draw() {
  if (isEnding(card)) {
    drawSummary();
    return;
  }
  attention.setTitle(`${problemText(card.problem)} · ${card.site.name} · Portafilter`);
  setText(part("title"), problemText(card.problem));
  drawHead();
  curtain.draw({ card, me, desktop, framed: html.dataset.firstFrame === "yes", paused, lost });
  drawAside(card, me, { refusal: claimRefusal, handOver, release, takeOver });
  drawScreen();
  tools.draw(desktop);
  quality.draw();
  tick();
}

function tick() {
  if (summary) return;
  const wall = wallClock(card.site.time_zone);
  // The time first: on a phone the line's end may be cut.
  setText(part("where"), wall ? `${wall} in ${card.site.city} · ${card.site.name}` : `${card.site.name}, ${card.site.city}`);
  tickAside(card, me);
  curtain.tick();
}

function drawHead() {
  const buttons = {};
  if (card.operator === null && may(card, "claim")) buttons.claim = () => button("Claim", { kind: "strong", action: "claim", click: claim });
  if (may(card, "close")) {
    if (isMine(card, me)) buttons.close = () => withMore(button("Close", { kind: "strong", action: "close", click: closeRescue }), "rescue");
    else buttons.force = () => withMore(button("End", { kind: "danger", action: "force", click: closeRescue }), "rescue");
  }
  offer(part("head-actions"), buttons);
}

/** A word more on the button where there is room for it. */
function withMore(node, word) {
  node.append(el("span", { class: "only-wide", text: word }));
  return node;
}

function drawScreen() {
  const able = desktop.controlling;
  screen.classList.toggle("watching", desktop.connected && !able);
  screen.setAttribute("tabindex", able ? "0" : "-1");
}

function drawSummary() {
  if (summary) {
    if (summary.version !== card.version) summary.update(card);
    return;
  }
  summary = new Summary(card, { watchesOver: first.watches_over }); // first of all: leaving the desktop draws again
  desktop.leave();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  if (document.fullscreenElement) document.exitFullscreen();
  document.body.classList.remove("rescue-body");
  main.className = "";
  main.replaceChildren(summary.node);
  attention.setTitle(`Ended: ${problemText(card.problem)} · Portafilter`);
  announce(card.sentence);
  summary.node.querySelector("h1").focus({ preventScroll: true });
}

// ---- what a person does ----------------------------------------------------------------------------------------------

async function claim() {
  try {
    take(await sessions.claim(card.id));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return location.assign(signInAddress());
    claimRefusal = error.detail;
    announce(error.detail);
    await look();
    draw();
  }
}

const closeRescue = () => askToClose(card, { force: !isMine(card, me), done: take });
const handOver = () => askToHandOver(card, { me, done: take });
const release = () =>
  askFirst("Back to the queue?", "The rescue waits for the next operator; the desktop stays ready. You can watch, or claim it again.", {
    yes: "Release it",
    no: "Keep it",
    name: "release",
    work: async () => take(await sessions.release(card.id)),
  });
const takeOver = () =>
  askFirst(`Take over from ${card.operator.name}?`, `You get the keyboard and pointer; ${card.operator.name} can stay and watch.`, {
    yes: "Take over",
    name: "take-over",
    work: async () => take(await sessions.handOver(card.id, me.id)),
  });

// The rescue goes on without this tab, but one should not leave it by mistake.
addEventListener("beforeunload", (event) => {
  if (isMine(card, me) && !isEnding(card)) event.preventDefault();
});
addEventListener("online", () => desktop.hurry());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && desktop.hurry());

// ---- begin -----------------------------------------------------------------------------------------------------------

html.dataset.desktop = "closed";
attention.follow(me);
serverTime(first.server_time);
// First of all the way to the desktop: the rest of the page is drawn while it opens.
follow();
drawMachine(card);
draw();
everySecond(tick);
html.dataset.page = "ready";

const banner = connectionBanner(document.querySelector(".connection"));
const live = new Live({
  onSnapshot: (cards) => {
    attention.snapshot(cards);
    const found = cards.find((other) => other.id === card.id);
    if (found) take(found);
    else if (!isEnding(card) || card.state === "closing") look();
  },
  onSession: (one) => {
    attention.changed(one);
    take(one);
  },
  onStatus: (status) => {
    html.dataset.live = status;
    banner(summary ? "live" : status);
  },
  onRoundTrip: (milliseconds) => quality.took(milliseconds),
  poll: async () => {
    const [one, open] = await Promise.all([sessions.one(card.id), sessions.open().catch(() => null)]);
    return () => {
      if (open) attention.snapshot(open.results);
      take(one);
    };
  },
});

/** What else the page asks the server for: after the picture, which it would only hold up. */
function startTheRest() {
  if (restStarted) return;
  restStarted = true;
  live.start();
  if (isMine(card, me) && !isEnding(card)) prefetchCauses();
}
if (desktop.role) setTimeout(startTheRest, PICTURE_FIRST_MS);
else startTheRest();
