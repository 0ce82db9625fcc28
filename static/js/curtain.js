// What hangs before the machine's desktop: the way it is on, why somebody is out, or that it is being joined again.

import { isMine } from "./cards.js";
import { button, el, setText } from "./dom.js";
import { secondsSince, stopwatch } from "./times.js";
import { STATUS, STEPS, statusSentence } from "./words.js";

/** Hangs in `node`; `rejoin` is for the person who is out and wants in again. */
export class Curtain {
  constructor(node, rejoin) {
    this.node = node;
    this.rejoin = rejoin;
  }

  /** `paused` is why the page does not join by itself, `lost` why the desktop went; null when neither is so. */
  draw(now) {
    const shown = this.#content(now);
    this.node.hidden = shown === null;
    // While a picture stands there, a re-join only dims it.
    this.node.classList.toggle("thin", shown?.thin === true);
    const key = shown?.key ?? "";
    if (this.node.dataset.shown === key) return;
    this.node.dataset.shown = key;
    this.node.replaceChildren(...(shown?.nodes() ?? []));
  }

  /** Every second: how long one has been waiting. */
  tick() {
    const running = this.node.querySelector("[data-elapsed]");
    if (running) setText(running, stopwatch(secondsSince(running.dataset.elapsed)));
  }

  #content({ card, me, desktop, framed, paused, lost }) {
    if (paused) return this.#out(paused);
    if (!card.desktop) return onItsWay(card, me);
    if (desktop.connected) return null;
    const text = lost ? statusSentence(lost) : "Joining the machine's desktop…";
    return {
      key: `join ${text} ${framed}`,
      thin: framed,
      nodes: () => [el("h2", { text: lost ? "Joining again" : "One moment" }), el("p", { role: "status", text })],
    };
  }

  #out(paused) {
    const allowed = paused.code === STATUS.SESSION_TIMEOUT;
    return {
      key: `paused ${paused.code}`,
      nodes: () => [
        el("h2", { text: allowed ? "This screen was let go" : "You have left this desktop" }),
        el("p", { text: statusSentence(paused) }),
        el(
          "div",
          { class: "buttons" },
          paused.code === 404 ? null : button("Join again", { kind: "strong", action: "rejoin", click: this.rejoin }),
          el("a", { class: "button", href: "/" }, "Back to the queue"),
        ),
      ],
    };
  }
}

function onItsWay(card, me) {
  const now = stepNow(card);
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

function stepNow(card) {
  if (card.desktop || card.state === "ready" || card.state === "active") return 3;
  if (card.state === "requested") return 1;
  return /sign|log/i.test(card.state_label) ? 2 : 1;
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
