// One ticket of the queue: made once, then brought up to date in place, so that focus and reading are not disturbed.

import { button, el, icon, setText } from "./dom.js";
import { asking } from "./asking.js";
import { secondsSince, stopwatch, timeOfDay, wallClock } from "./times.js";
import { isMine, may } from "./cards.js";
import { country, machineName, problemText } from "./words.js";

// From here on a waiting person has waited long, and too long.
const WARM_S = 90;
const HOT_S = 240;

export class Ticket {
  /** `act(verb, ticket)` is called for "claim"; everything else is a link. */
  constructor(card, me, act) {
    this.me = me;
    this.act = act;
    this.wait = el("b");
    this.waitWord = el("span", { class: "soft small" });
    this.code = el("span", { class: "tag" });
    this.problem = el("span");
    this.site = el("span", { class: "where" });
    this.machine = el("span");
    this.clock = el("time");
    this.state = el("span", { class: "state" });
    this.who = el("span");
    this.asked = el("span");
    this.stoodIn = el("span");
    this.asking = el("p", { class: "asking small" }, icon("bell"), el("span", {}, this.asked, this.stoodIn));
    this.notice = el("p", { class: "notice small" });
    this.message = el("div", { class: "note warm", role: "status", hidden: true });
    this.actions = el("div", { class: "act" });
    this.titleId = `ticket-${card.id}`;
    this.node = el(
      "li",
      { class: "ticket", "data-session": card.id, "aria-labelledby": this.titleId },
      el("div", { class: "wait" }, this.wait, this.waitWord),
      el(
        "div",
        { class: "what" },
        el("h3", { id: this.titleId }, this.code, this.problem),
        this.site,
        el(
          "div",
          { class: "line" },
          el("span", {}, icon("machine"), this.machine),
          el("span", {}, icon("clock"), this.clock),
          this.state,
          el("span", {}, icon("person"), this.who),
        ),
        this.asking,
      ),
      this.actions,
      this.notice,
      this.message,
    );
    this.shown = "";
    this.update(card);
  }

  update(card) {
    this.card = card;
    setText(this.problem, problemText(card.problem));
    setText(this.code, card.problem.code);
    this.code.hidden = !card.problem.code || !card.problem.text;
    setText(this.site, `${card.site.name}, ${card.site.city}, ${country(card.site.country)}`);
    setText(this.machine, `${machineName(card.machine)} · ${card.machine.model}`);
    this.state.dataset.state = card.state;
    setText(this.state, card.state_label);
    this.node.dataset.state = card.state;
    setText(this.notice, card.notice);
    this.notice.hidden = !card.notice;
    setText(this.who, this.#whoHasIt());
    this.who.parentNode.hidden = card.operator === null && card.attached.length === 0;
    this.#offer();
    this.tick();
  }

  tick() {
    const { card } = this;
    const waiting = card.operator === null;
    const seconds = secondsSince(waiting ? card.requested_at : card.claimed_at);
    setText(this.wait, stopwatch(seconds));
    setText(this.waitWord, waiting ? "waiting" : "since the claim");
    const age = waiting ? (seconds >= HOT_S ? "hot" : seconds >= WARM_S ? "warm" : "fresh") : "claimed";
    if (this.node.dataset.age !== age) this.node.dataset.age = age;
    const wall = wallClock(card.site.time_zone);
    setText(this.clock, wall && `${wall} there`);
    const asked = waiting ? asking(card.asking, this.me) : "";
    setText(this.asked, asked);
    setText(this.stoodIn, asked && card.asking.stood_in ? ` ${card.asking.stood_in}` : "");
    this.asking.hidden = !asked;
  }

  /** A calm word on the ticket itself, for the one who was second. */
  say(text) {
    this.message.hidden = false;
    this.message.replaceChildren(el("div", {}, el("p", { text })));
  }

  sayTaken(operator, claimedAt) {
    const when = claimedAt ? ` at ${timeOfDay(claimedAt)}` : "";
    this.say(`${operator?.name ?? "A colleague"} claimed it just before you${when}. You can watch, or take the next one.`);
    this.#offer("watch"); // before the card says so, too: there is nothing left to claim
    this.actions.firstElementChild.focus({ preventScroll: true });
  }

  #whoHasIt() {
    const { card, me } = this;
    if (card.operator === null) {
      const watching = card.attached.map((person) => person.name);
      return watching.length ? `${watching.join(", ")} watching` : "";
    }
    if (isMine(card, me)) {
      return card.attached.some((person) => person.id === me.id && person.role === "controller")
        ? "You, at the desktop"
        : "You, not at the desktop";
    }
    const there = card.attached.some((person) => person.id === card.operator.id && person.role === "controller");
    return there ? `${card.operator.name}, at the desktop` : card.operator.name;
  }

  #offered() {
    const { card, me } = this;
    if (isMine(card, me)) return "open";
    return card.operator === null && may(card, "claim") ? "claim" : "watch";
  }

  /** Buttons are rebuilt only when others are due: a press must not land on a button that was just replaced. */
  #offer(offered = this.#offered()) {
    const { card } = this;
    const href = `/sessions/${card.id}/`;
    if (offered === this.shown) return;
    const focused = this.actions.contains(document.activeElement);
    this.shown = offered;
    const described = { "aria-describedby": this.titleId };
    if (offered === "claim") {
      this.actions.replaceChildren(
        button("Claim", { kind: "strong", action: "claim", click: () => this.act("claim", this), ...described }),
      );
    } else if (offered === "open") {
      this.actions.replaceChildren(el("a", { class: "button strong", href, "data-action": "open", ...described }, "Go on"));
    } else {
      this.actions.replaceChildren(el("a", { class: "button", href, "data-action": "watch", ...described }, icon("eye"), "Watch"));
    }
    if (focused) this.actions.firstElementChild.focus({ preventScroll: true });
  }

  busy(is) {
    const control = this.actions.querySelector("button");
    if (!control) return;
    control.setAttribute("aria-busy", String(is));
    control.setAttribute("aria-disabled", String(is));
    control.querySelector("span").textContent = is ? "Claiming…" : "Claim";
  }
}
