// For supervisors: rescues that ended without anybody having come, until somebody has looked at them.

import { Problem, get, sessions, signInAddress } from "./api.js";
import { announce, button, el, icon, setText, toast } from "./dom.js";
import { ago, dateAndTime } from "./times.js";
import { machineName, place, problemText } from "./words.js";

const LOOK_MS = 30_000;
// A rescue's end comes before the row that says it was missed.
const SOON_MS = 1500;

let section = null;
let rows = new Map();
let timer = 0;
// Of two looks that overlap, the later one's answer is the newer.
let looks = 0;
let drawn = 0;

/** Shows what the page came with and keeps it right; without a list, this person watches over nobody. */
export function keepMissed(first) {
  if (!first) return;
  section = document.querySelector('[data-section="missed"]');
  draw(first);
  timer = setTimeout(look, LOOK_MS);
}

/** A rescue has ended: the list is looked at soon. */
export function missedMayHaveChanged() {
  if (!section) return;
  clearTimeout(timer);
  timer = setTimeout(look, SOON_MS);
}

async function look() {
  clearTimeout(timer);
  const turn = ++looks;
  try {
    const { results } = await get("/api/v1/sessions/missed/");
    if (turn > drawn) draw(results);
    drawn = Math.max(drawn, turn);
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // the live line says what is wrong; the next look tells
  }
  if (turn === looks) timer = setTimeout(look, LOOK_MS);
}

function draw(found) {
  const list = section.querySelector("ol");
  const ids = new Set(found.map((card) => card.id));
  for (const [id, row] of rows) {
    if (ids.has(id)) continue;
    if (row.contains(document.activeElement)) {
      const near = row.nextElementSibling ?? row.previousElementSibling;
      (near?.querySelector("button") ?? document.getElementById("content")).focus({ preventScroll: true });
    }
    row.remove();
    rows.delete(id);
  }
  for (const card of found) {
    if (rows.has(card.id)) continue;
    rows.set(card.id, rowOf(card));
  }
  found.forEach((card, at) => {
    const row = rows.get(card.id);
    setText(row.querySelector("time"), ago(card.requested_at));
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
  });
  section.hidden = found.length === 0;
  setText(section.querySelector(".count"), found.length ? String(found.length) : "");
}

function rowOf(card) {
  const titleId = `missed-${card.id}`;
  const code = card.problem.text ? card.problem.code : ""; // without words of its own the code is what is said
  return el(
    "li",
    { class: "ticket", "aria-labelledby": titleId },
    el(
      "div",
      { class: "what" },
      el("h3", { id: titleId }, code ? el("span", { class: "tag", text: code }) : null, el("a", { href: `/sessions/${card.id}/`, text: problemText(card.problem) })),
      el("span", { class: "where", text: place(card.site) }),
      el(
        "div",
        { class: "line" },
        el("span", {}, icon("machine"), el("span", { text: machineName(card.machine) })),
        el("span", {}, icon("clock"), el("time", { datetime: card.requested_at, title: dateAndTime(card.requested_at) })),
      ),
      el("p", { class: "asking small" }, icon("bell"), el("span", { text: [card.asking?.sentence, card.asking?.stood_in].filter(Boolean).join(" ") || "Nobody came." })),
    ),
    el("div", { class: "act" }, button("Looked at", { icon: "check", click: (event) => lookedAt(card, event.currentTarget), "aria-describedby": titleId })),
  );
}

async function lookedAt(card, control) {
  if (control.getAttribute("aria-busy") === "true") return;
  control.setAttribute("aria-busy", "true");
  try {
    await sessions.lookedAt(card.id);
    announce(`${problemText(card.problem)} at ${card.site.name} is marked as looked at.`);
    look();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) location.assign(signInAddress());
    toast(error.detail);
    look();
  } finally {
    control.removeAttribute("aria-busy");
  }
}
