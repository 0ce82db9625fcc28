// Who waits, told to somebody who looks elsewhere: in the tab's title and icon, in the navigation, on the installed
// app's badge, and by a sound to those who are asked. Every page has it; one without a live line of its own gets one.

import { sessions } from "./api.js";
import { Cards, isWaiting } from "./cards.js";
import { Live } from "./live.js";
import { ring } from "./sound.js";

// Where nobody was asked within this time, whoever has a page open is.
const NOBODY_ASKED_MS = 4000;

const cards = new Cards();
const mark = document.querySelector('link[rel="icon"][data-waiting]');
const calm = mark?.getAttribute("href");
let me = null;
let isFollowed = false;
let isFilled = false;
let title = document.title;
let shown = 0;

/** For a page that has a live line of its own, as soon as it runs: what it brings is handed on by `snapshot` and `changed`. */
export function follow(person, open = null) {
  isFollowed = true;
  me = person;
  if (open) snapshot(open);
}

/** All open cards there are. What is there as a page opens is seen without a sound; what a later look brings is news. */
export function snapshot(open) {
  const known = new Map(cards.byId);
  cards.replaceOpen(open);
  if (isFilled) for (const card of open) hear(known.get(card.id), card);
  isFilled = true;
  show();
}

/** One card that has changed. */
export function changed(card) {
  const known = cards.byId.get(card.id);
  if (!cards.put(card)) return;
  hear(known, card);
  show();
}

/** The page's title; the count of those who wait goes before it. */
export function setTitle(text) {
  title = text;
  document.title = shown ? `(${shown}) ${title}` : title;
}

/** A page that has no live line gets one for the count alone. Nobody is sent away from a half-filled form by it. */
export function keepCount() {
  const place = document.querySelector("[data-waiting-count]");
  if (!place || isFollowed) return;
  new Live({
    onSnapshot: (open, person) => {
      me = person ?? me;
      snapshot(open);
    },
    onSession: changed,
    onStatus: () => {},
    onSignedOut: () => {},
    poll: async () => {
      const { results } = await sessions.open();
      return () => snapshot(results);
    },
  }).start();
}

/** When this person was asked last; "" if they were not. */
function askedAt(card) {
  const moments = (card?.asking?.people ?? []).filter((person) => person.id === me.id).map((person) => person.at);
  return moments.sort().at(-1) ?? "";
}

function hear(known, card) {
  if (!isWaiting(card) || !me) return;
  const { id } = card;
  const stillWaits = () => cards.byId.has(id) && isWaiting(cards.byId.get(id));
  const at = askedAt(card);
  if (at && at !== askedAt(known)) ring(`${id} ${at}`, stillWaits);
  if (at || (known && isWaiting(known))) return;
  const isForAnybody = () => stillWaits() && !cards.byId.get(id).asking?.people?.length;
  setTimeout(() => isForAnybody() && ring(`${id} unasked`, isForAnybody), NOBODY_ASKED_MS);
}

function show() {
  const count = cards.open().filter(isWaiting).length;
  if (count === shown) return;
  shown = count;
  setTitle(title);
  for (const place of document.querySelectorAll("[data-waiting-count]")) {
    place.hidden = count === 0;
    place.querySelector("b").textContent = String(count);
  }
  if (mark) mark.href = count ? mark.dataset.waiting : calm;
  // Only an installed app has a badge; elsewhere the call is refused or not there.
  const badge = count ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  badge?.catch(() => {});
}
