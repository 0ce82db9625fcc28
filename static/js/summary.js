// After the end: what happened, in figures and as a timeline.

import { Problem, sessions, signInAddress } from "./api.js";
import { announce, button, el, icon, toast } from "./dom.js";
import { between, dateAndTime, timeOfDay } from "./times.js";
import { country, ending, machineName, problemText } from "./words.js";

// The state's own words for what the line about the person's join or leave says already.
const TWICE = new Set(["repairing", "left_desktop"]);

/**
 * The summary of a rescue that is closing or closed; `update(card)` brings it up to date. Who watches over the fleet
 * can mark one that nobody came to as looked at.
 */
export class Summary {
  constructor(card, { watchesOver = false } = {}) {
    this.watchesOver = watchesOver;
    this.events = el("ol", { class: "timeline" }, el("li", {}, el("span", { class: "soft", text: "Fetching…" })));
    this.top = el("header", { class: "summary-head" });
    this.figures = el("dl", { class: "figures-row" });
    this.record = el("dl", { class: "facts" });
    this.node = el(
      "div",
      { class: "page summary", "data-summary": true },
      this.top,
      this.figures,
      el(
        "div",
        { class: "summary-columns" },
        el("section", { class: "panel" }, el("h2", { text: "The record" }), this.record),
        el("section", { class: "panel" }, el("h2", { text: "What happened" }), this.events),
      ),
    );
    this.update(card);
  }

  update(card) {
    this.version = card.version;
    const wasHere = this.top.contains(document.activeElement);
    const { missed } = card;
    const isToBeLookedAt = missed && !missed.looked_at;
    this.top.replaceChildren(
      el("a", { class: "crumb", href: "/" }, icon("back"), "Queue"),
      el(
        "p",
        {},
        el("span", {
          class: "state",
          "data-state": card.state,
          "data-end": card.end_reason,
          text: card.state === "closing" ? `${ending(card)}, closing everything behind it` : ending(card),
        }),
      ),
      el("h1", { tabindex: -1 }, problemText(card.problem)),
      el("p", { class: "lead", text: card.sentence }),
      missed?.looked_at ? el("p", { class: "soft", text: `${missed.looked_by?.name ?? "A supervisor"} looked at it, ${dateAndTime(missed.looked_at)}.` }) : "",
      el(
        "div",
        { class: "buttons" },
        isToBeLookedAt && this.watchesOver ? button("Looked at", { icon: "check", action: "looked-at", click: (event) => this.#lookedAt(card, event.currentTarget) }) : "",
        el("a", { class: "button strong", href: "/" }, "Back to the queue"),
        el("a", { class: "button", href: `/machines/${card.machine.id}/` }, "The machine's history"),
      ),
    );
    if (wasHere) this.top.querySelector("h1").focus({ preventScroll: true });
    this.figures.replaceChildren(
      ...[
        ["Until claimed", between(card.requested_at, card.claimed_at)],
        ["Until the screen was ready", between(card.requested_at, card.ready_at)],
        ["Work", between(card.claimed_at, card.closing_at)],
        ["In all", between(card.requested_at, card.closing_at)],
      ].map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))),
    );
    const rows = [
      ["Machine", `${machineName(card.machine)} · ${card.machine.model}`],
      ["Site", `${card.site.name}, ${card.site.city}, ${country(card.site.country)}`],
      ["Problem", [card.problem.code, card.problem.text].filter(Boolean).join(" · ")],
      ["Cause", card.cause],
      ["Fix", card.fix],
      ["Note", card.note],
      ["Operator", card.operator?.name],
      ["Closed by", card.closed_by?.name],
      ["Asked for", dateAndTime(card.requested_at)],
      ["Ended", card.closing_at && dateAndTime(card.closing_at)],
    ];
    this.record.replaceChildren(
      ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]),
    );
    this.#fetch(card.id);
  }

  async #lookedAt(card, pressed) {
    if (pressed.getAttribute("aria-busy") === "true") return;
    pressed.setAttribute("aria-busy", "true");
    try {
      this.update(await sessions.lookedAt(card.id));
      announce("It is marked as looked at.");
    } catch (error) {
      pressed.removeAttribute("aria-busy");
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) location.assign(signInAddress());
      toast(error.detail);
    }
  }

  async #fetch(id) {
    let results;
    try {
      ({ results } = await sessions.events(id));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.events.replaceChildren(el("li", {}, el("span", { text: "–" }), el("span", { text: `The timeline is not to be had now. ${error.detail}` })));
      return;
    }
    this.events.replaceChildren(
      ...results.filter((event) => !TWICE.has(event.kind)).map((event) =>
        el(
          "li",
          {},
          el("time", { datetime: event.at, text: timeOfDay(event.at) }),
          // The sentence names who did it where that matters.
          el("span", { text: event.sentence }),
        ),
      ),
    );
  }
}
