// Beside the desktop: the problem, who is at the machine, what to do about that, and the machine itself.

import { asking } from "./asking.js";
import { isMine, may } from "./cards.js";
import { people } from "./closing.js";
import { button, el, offer, part, setText } from "./dom.js";
import { duration, secondsSince } from "./times.js";
import { country, machineName, problemText } from "./words.js";

/** What stays as it is while the page is open. */
export function drawMachine(card) {
  part("facts").replaceChildren(
    ...[
      ["Machine", el("a", { href: `/machines/${card.machine.id}/` }, machineName(card.machine))],
      ["Model", card.machine.model],
      ["Site", card.site.name],
      ["Place", `${card.site.city}, ${country(card.site.country)}`],
      ["Fleet", card.fleet.name],
    ].flatMap(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)]),
  );
}

/** `refusal` is why a claim failed, "" if none did; the last three are what the buttons do. */
export function drawAside(card, me, { refusal, handOver, release, takeOver }) {
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
  setText(part("refusal"), refusal);
  part("refusal").hidden = !refusal;

  const buttons = {};
  if (may(card, "handover") && mine) buttons.handover = () => button("Hand over", { icon: "hand", action: "handover", click: handOver });
  if (may(card, "release")) buttons.release = () => button("Release", { icon: "queue", action: "release", click: release });
  if (may(card, "take_over") && !mine && card.operator) {
    buttons.takeOver = () => button("Take over", { kind: "both", icon: "hand", action: "take-over", click: takeOver });
  }
  offer(part("actions"), buttons);
  part("actions").hidden = Object.keys(buttons).length === 0;
}

/** Every second: how long ago it was asked for, and who is being asked now. */
export function tickAside(card, me) {
  setText(part("since"), duration(secondsSince(card.requested_at)));
  const asked = card.operator === null ? asking(card.asking, me) : "";
  setText(part("asking"), [asked, asked && card.asking.stood_in].filter(Boolean).join(" "));
  part("asking").hidden = !asked;
}
