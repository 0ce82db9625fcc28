// The rescue: the machine's desktop, who is at it, and the ways to end it or pass it on.

import "./common.js";
import { Problem, sessions, signInAddress } from "../api.js";
import { asking } from "../asking.js";
import * as attention from "../attention.js";
import { isEnding, isMine, may } from "../cards.js";
import { askFirst, askToClose, askToHandOver, people, prefetchCauses } from "../closing.js";
import { Desktop } from "../desktop.js";
import { announce, button, el, icon, pageState, setText, toast } from "../dom.js";
import { Input } from "../input.js";
import { Live, connectionBanner } from "../live.js";
import { CHORDS, copyHere, openClipboard, openKeys } from "../panels.js";
import { Summary } from "../summary.js";
import { Toolbar } from "../toolbar.js";
import { duration, everySecond, secondsSince, serverTime, stopwatch, wallClock } from "../times.js";
import { STATUS, STEPS, country, machineName, problemText, statusSentence } from "../words.js";

const first = pageState("rescue-state");
const me = first.me;
let card = first.session;

const html = document.documentElement;
const main = document.getElementById("content");
const screen = document.querySelector(".screen");
const curtain = document.querySelector(".curtain");
const aside = document.querySelector(".rescue-aside");
const part = (name) => document.querySelector(`[data-part="${name}"]`);

let summary = null;
// Why the page does not join by itself now: {title, text}; the person decides.
let paused = null;
let lost = null;
let received = "";
let trip = null;
let steady = true;
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
  onSteady(is) {
    steady = is;
    drawQuality();
  },
  onClipboard(text) {
    received = text;
    if (!text || document.querySelector("dialog[open]")) return;
    toast("The machine copied text.", {
      action: "Copy it here",
      click: async () => {
        if (!(await copyHere(text))) openClipboard({ desktop, input, received, allowed: card.clipboard });
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

const toolbar = new Toolbar(document.querySelector(".tools"));

const input = new Input(desktop, screen, document.querySelector(".sink"), () => {
  announce("Your keyboard is back on this page.");
  part("keys").focus();
});

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
  drawCurtain();
  drawAside();
  drawTools();
  drawQuality();
  tick();
}

function tick() {
  if (summary) return;
  const wall = wallClock(card.site.time_zone);
  // The time first: on a phone the line's end may be cut.
  setText(part("where"), wall ? `${wall} in ${card.site.city} · ${card.site.name}` : `${card.site.name}, ${card.site.city}`);
  setText(part("since"), duration(secondsSince(card.requested_at)));
  const asked = card.operator === null ? asking(card.asking, me) : "";
  setText(part("asking"), [asked, asked && card.asking.stood_in].filter(Boolean).join(" "));
  part("asking").hidden = !asked;
  const running = curtain.querySelector("[data-elapsed]");
  if (running) setText(running, stopwatch(secondsSince(running.dataset.elapsed)));
}

function drawHead() {
  const mine = isMine(card, me);
  const offered = [];
  if (card.operator === null && may(card, "claim")) offered.push("claim");
  if (may(card, "close")) offered.push(mine ? "close" : "force");
  const head = part("head-actions");
  if (head.dataset.offered === offered.join()) return;
  head.dataset.offered = offered.join();
  head.replaceChildren(
    ...offered.map(
      (verb) =>
        ({
          claim: () => button("Claim", { kind: "strong", action: "claim", click: claim }),
          close: () => withMore(button("Close", { kind: "strong", action: "close", click: closeRescue }), "rescue"),
          force: () => withMore(button("End", { kind: "danger", action: "force", click: closeRescue }), "rescue"),
        })[verb](),
    ),
  );
}

/** A word more on the button where there is room for it. */
function withMore(node, word) {
  node.append(el("span", { class: "only-wide", text: word }));
  return node;
}

function stepNow() {
  if (card.desktop || card.state === "ready" || card.state === "active") return 3;
  if (card.state === "requested") return 1;
  return /sign|log/i.test(card.state_label) ? 2 : 1;
}

function drawCurtain() {
  const shown = curtainContent();
  curtain.hidden = shown === null;
  // While a picture stands there, a re-join only dims it.
  curtain.classList.toggle("thin", shown?.thin === true);
  const key = shown?.key ?? "";
  if (curtain.dataset.shown === key) return;
  curtain.dataset.shown = key;
  curtain.replaceChildren(...(shown?.nodes() ?? []));
}

function curtainContent() {
  const framed = html.dataset.firstFrame === "yes";
  if (paused) {
    const allowed = paused.code === STATUS.SESSION_TIMEOUT;
    return {
      key: `paused ${paused.code}`,
      nodes: () => [
        el("h2", { text: allowed ? "This screen was let go" : "You have left this desktop" }),
        el("p", { text: statusSentence(paused) }),
        el(
          "div",
          { class: "buttons" },
          paused.code === 404 ? null : button("Join again", { kind: "strong", action: "rejoin", click: rejoin }),
          el("a", { class: "button", href: "/" }, "Back to the queue"),
        ),
      ],
    };
  }
  if (!card.desktop) {
    const now = stepNow();
    const again = card.ready_at !== null;
    const title = again ? "Bringing the desktop back" : isMine(card, me) ? "The screen is on its way" : "The screen is being prepared";
    return {
      key: `way ${now} ${title} ${card.notice}`,
      nodes: () => [
        el("h2", { text: title }),
        steps(now),
        el("p", { text: card.notice || card.sentence }),
        el("p", { class: "figures small" }, "Asked ", el("span", { "data-elapsed": card.requested_at }), " ago"),
      ],
    };
  }
  if (desktop.connected) return null;
  const text = lost ? statusSentence(lost) : "Joining the machine's desktop…";
  return {
    key: `join ${text} ${framed}`,
    thin: framed,
    nodes: () => [el("h2", { text: lost ? "Joining again" : "One moment" }), el("p", { role: "status", text })],
  };
}

function steps(now) {
  return el(
    "ol",
    { class: "steps", "aria-label": "Progress" },
    STEPS.map(([, name], place) =>
      el("li", { class: place < now ? "done" : place === now ? "now" : null, "aria-current": place === now ? "step" : null }, name),
    ),
  );
}

function drawAside() {
  const mine = isMine(card, me);
  part("code").hidden = !card.problem.code;
  setText(part("code"), card.problem.code);
  setText(part("problem"), problemText(card.problem));
  part("state").dataset.state = card.state;
  setText(part("state"), card.state_label);
  setText(part("notice"), card.notice);
  part("notice").hidden = !card.notice;

  const rows = people(card, me);
  part("people").replaceChildren(...(rows.length ? rows : [el("li", { class: "soft", text: "Nobody has claimed it yet." })]));
  setText(part("refusal"), claimRefusal);
  part("refusal").hidden = !claimRefusal;

  const verbs = [];
  if (may(card, "handover") && mine) verbs.push("handover");
  if (may(card, "release")) verbs.push("release");
  if (may(card, "take_over") && !mine && card.operator) verbs.push("take-over");
  const actions = part("actions");
  if (actions.dataset.offered !== verbs.join()) {
    actions.dataset.offered = verbs.join();
    actions.replaceChildren(
      ...verbs.map(
        (verb) =>
          ({
            handover: () => button("Hand over", { icon: "hand", action: "handover", click: handOver }),
            release: () => button("Release", { icon: "queue", action: "release", click: release }),
            "take-over": () => button("Take over", { kind: "both", icon: "hand", action: "take-over", click: takeOver }),
          })[verb](),
      ),
    );
  }
  actions.hidden = verbs.length === 0;
}

function drawTools() {
  const able = desktop.controlling;
  for (const node of document.querySelectorAll("[data-needs-control]")) node.disabled = !able;
  screen.classList.toggle("watching", desktop.connected && !able);
  screen.setAttribute("tabindex", able ? "0" : "-1");
  part("clipboard").disabled = !desktop.connected;
  toolbar.refresh();
}

function drawQuality() {
  if (summary) return;
  const node = part("quality");
  let quality = "none";
  let word = "Not connected";
  if (desktop.connected) {
    if (!steady) [quality, word] = ["bad", "Unsteady"];
    else if (trip !== null && trip > 800) [quality, word] = ["bad", "Very slow"];
    else if (trip !== null && trip > 250) [quality, word] = ["slow", "Slow"];
    else [quality, word] = ["good", "Good"];
  } else if (desktop.state !== "closed") word = "Joining";
  node.dataset.quality = quality;
  setText(node.firstElementChild, desktop.connected && desktop.role === "watcher" ? `Watching, ${word.toLowerCase()}` : word);
  setText(node.lastElementChild, desktop.connected && steady && trip !== null ? `${Math.round(trip)} ms` : "");
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

function wireTools() {
  for (const node of document.querySelectorAll("[data-chord]")) {
    const [, keysyms] = CHORDS[node.dataset.chord];
    node.addEventListener("click", () => {
      input.chord(...keysyms);
      input.focus();
    });
  }
  part("keys").addEventListener("click", () => openKeys(input));
  part("clipboard").addEventListener("click", () => openClipboard({ desktop, input, received, allowed: card.clipboard }));
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
  part("aside").addEventListener("click", () => {
    const shut = main.classList.toggle("aside-shut");
    part("aside").setAttribute("aria-pressed", String(!shut));
  });
  wireFullScreen();
}

function wireFullScreen() {
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
part("facts").replaceChildren(
  ...[
    ["Machine", el("a", { href: `/machines/${card.machine.id}/` }, machineName(card.machine))],
    ["Model", card.machine.model],
    ["Site", card.site.name],
    ["Place", `${card.site.city}, ${country(card.site.country)}`],
    ["Fleet", card.fleet.name],
  ].flatMap(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)]),
);
wireTools();
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
  onRoundTrip: (milliseconds) => {
    trip = trip === null ? milliseconds : trip * 0.6 + milliseconds * 0.4;
    drawQuality();
  },
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
