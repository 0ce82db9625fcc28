// The dialogs that end or pass on a rescue: close with cause and fix in two taps, hand over, release, take over.

import { Problem, sessions } from "./api.js";
import { button, el, icon, openDialog } from "./dom.js";
import { initials } from "./words.js";

const OTHER = "\u0000other";
const SHOWN = 8;

function choice(name, value, text, checked = false) {
  return el(
    "label",
    { class: "choice" },
    el("input", { type: "radio", name, value, checked, autofocus: checked }),
    el("span", { text }),
  );
}

/** Chips for what is most usual, and a line for everything else; `value()` is what was chosen, "" for nothing. */
function picker(name, label, suggestions) {
  const text = el("input", { type: "text", maxlength: 200, "aria-label": `${label}, in your words`, placeholder: "In your words" });
  const own = el("div", { hidden: suggestions.length > 0 }, text);
  const chips = suggestions.slice(0, SHOWN).map((suggestion) => choice(name, suggestion, suggestion));
  const chosen = () => node.querySelector("input[type=radio]:checked")?.value ?? "";
  const legend = el("legend", { class: "label", text: label });
  const error = el("p", { class: "errors small", role: "alert", hidden: true });
  const node = el(
    "fieldset",
    { "data-field": name },
    legend,
    el("div", { class: "choices" }, chips, chips.length ? choice(name, OTHER, "Something else") : null),
    own,
    error,
  );
  node.addEventListener("change", (event) => {
    if (event.target.type !== "radio") return;
    own.hidden = chosen() !== OTHER;
    error.hidden = true;
    if (!own.hidden) text.focus();
  });
  text.addEventListener("input", () => (error.hidden = true));
  return {
    node,
    value: () => (own.hidden ? chosen() : text.value.trim()),
    relabel: (words) => (legend.textContent = words),
    complain(words) {
      error.textContent = words;
      error.hidden = false;
      (own.hidden ? node.querySelector("input") : text).focus();
    },
  };
}

/** Runs `work` with the button busy and what went wrong in `complaint`; true when it worked. */
async function attempt(submit, complaint, work) {
  if (submit.getAttribute("aria-busy") === "true") return false;
  submit.setAttribute("aria-busy", "true");
  submit.disabled = true;
  complaint.hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    complaint.textContent = error.detail;
    complaint.hidden = false;
    return false;
  } finally {
    submit.removeAttribute("aria-busy");
    submit.disabled = false;
  }
}

function complaintNode() {
  return el("p", { class: "note bad", role: "alert", hidden: true });
}

let suggested = null;

/** Asks for causes and fixes ahead of time, so that the dialog opens with them. */
export function prefetchCauses() {
  suggested ??= sessions.causes().catch((error) => {
    if (!(error instanceof Problem)) throw error;
    suggested = null;
    return { causes: [], fixes: [] };
  });
  return suggested;
}

let closing = null;

/** The close dialog. `done(card)` gets the closing card. `force`: a supervisor ends somebody else's rescue. */
export function askToClose(card, options) {
  // The causes may be on their way still: a second click meanwhile asks no second time.
  closing ??= openClose(card, options).finally(() => (closing = null));
  return closing;
}

async function openClose(card, { force, done }) {
  const { causes, fixes } = await prefetchCauses();
  return openDialog(
    force ? "End this rescue" : "Close this rescue",
    (dialog, shut) => {
      const cause = picker("cause", "What was the cause?", causes);
      const fix = picker("fix", "What fixed it?", fixes);
      const note = el("textarea", { id: "close-note", name: "note", maxlength: 2000, rows: 3 });
      const complaint = complaintNode();
      const submit = button("Close rescue", { kind: "strong", type: "submit", action: "submit-close" });
      const outcomes = [choice("outcome", "resolved", "Resolved", !force), choice("outcome", "not_resolved", "Not resolved")];
      if (force) outcomes.push(choice("outcome", "forced", "End by force", true));
      const outcomeField = el(
        "fieldset",
        { "data-field": "outcome" },
        el("legend", { class: "label", text: "How did it end?" }),
        el("div", { class: "choices halves" }, outcomes),
      );
      const outcome = () => outcomeField.querySelector("input:checked").value;
      const follow = () => {
        const forced = outcome() === "forced";
        fix.relabel(outcome() === "resolved" ? "What fixed it?" : "What was tried?");
        cause.node.hidden = fix.node.hidden = forced;
        submit.querySelector("span").textContent = forced ? "End by force" : "Close rescue";
        noteLabel.textContent = forced ? "Why? The operator reads it, and the record keeps it." : "Note (optional)";
      };
      const noteLabel = el("label", { for: "close-note" });
      outcomeField.addEventListener("change", follow);
      follow();
      const form = el(
        "form",
        { method: "dialog", novalidate: true },
        el(
          "div",
          { class: "dialog-body" },
          outcomeField,
          cause.node,
          fix.node,
          el("div", { class: "field" }, noteLabel, note),
          complaint,
        ),
        el("div", { class: "dialog-foot" }, button("Not yet", { click: shut }), submit),
      );
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const forced = outcome() === "forced";
        if (!forced && !cause.value()) return cause.complain("Choose the cause, or say it in your words.");
        if (outcome() === "resolved" && !fix.value()) return fix.complain("Choose what fixed it, or say it in your words.");
        const values = {
          outcome: outcome(),
          cause: forced ? "" : cause.value(),
          fix: forced ? "" : fix.value(),
          note: note.value.trim(),
        };
        if (await attempt(submit, complaint, async () => done(await sessions.close(card.id, values)))) dialog.close();
      });
      return { body: form };
    },
    { name: "close" },
  );
}

/** Gives the rescue to a colleague, who has it from that moment on. */
export function askToHandOver(card, { me, done }) {
  return openDialog(
    "Hand over to",
    (dialog, shut) => {
      const list = el("div", { class: "choices", role: "radiogroup", "aria-label": "Colleagues" }, el("p", { class: "soft", text: "Looking who is there…" }));
      const complaint = complaintNode();
      const submit = button("Hand over", { kind: "strong", type: "submit", action: "submit-handover" });
      submit.disabled = true;
      sessions.colleagues(card.id).then(
        ({ results }) => {
          const others = results.filter((person) => person.id !== me.id && person.id !== card.operator?.id);
          list.replaceChildren(
            ...(others.length
              ? others.map((person) => choice("operator", String(person.id), person.name))
              : [el("p", { class: "soft", text: "Nobody else works for this fleet. You can release the rescue to the queue." })]),
          );
          submit.disabled = !others.length;
          list.querySelector("input")?.focus();
        },
        (error) => {
          if (!(error instanceof Problem)) throw error;
          list.replaceChildren();
          complaint.textContent = error.detail;
          complaint.hidden = false;
        },
      );
      const form = el(
        "form",
        { method: "dialog" },
        el(
          "div",
          { class: "dialog-body" },
          el("p", { class: "soft", text: "They get the keyboard and pointer; you can stay and watch." }),
          list,
          complaint,
        ),
        el("div", { class: "dialog-foot" }, button("Keep it", { click: shut }), submit),
      );
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const chosen = list.querySelector("input:checked");
        if (!chosen) {
          complaint.textContent = "Choose a colleague first.";
          complaint.hidden = false;
          return;
        }
        const work = async () => done(await sessions.handOver(card.id, Number(chosen.value)));
        if (await attempt(submit, complaint, work)) dialog.close();
      });
      return { body: form };
    },
    { name: "handover" },
  );
}

/** A question with one consequence; `work` does it and may throw a Problem, which is shown. */
export function askFirst(title, text, { yes, no = "Cancel", kind = "strong", name, work }) {
  return openDialog(
    title,
    (dialog, shut) => {
      const complaint = complaintNode();
      const submit = button(yes, { kind, action: `confirm-${name}` });
      submit.addEventListener("click", async () => {
        if (await attempt(submit, complaint, work)) dialog.close();
      });
      return {
        body: el("div", { class: "dialog-body" }, el("p", { text }), complaint),
        foot: el("div", { class: "dialog-foot" }, button(no, { click: shut }), submit),
      };
    },
    { name },
  );
}

/** Who is at the desktop, the operator first. */
export function people(card, me) {
  const rows = [];
  const row = (person, role, words) =>
    el(
      "li",
      { class: role },
      el("span", { class: "initials", "aria-hidden": "true", text: initials(person.name) }),
      el("span", {}, person.id === me.id ? `${person.name} (you)` : person.name, el("br"), el("span", { class: "soft small", text: words })),
      role === "watcher" ? icon("eye") : null,
    );
  const byPerson = new Map();
  for (const attached of card.attached) {
    const known = byPerson.get(attached.id);
    byPerson.set(attached.id, { ...attached, screens: (known?.screens ?? 0) + 1, role: known?.role === "controller" ? "controller" : attached.role });
  }
  if (card.operator) {
    const there = byPerson.get(card.operator.id);
    byPerson.delete(card.operator.id);
    const at = there?.role === "controller";
    const screens = there?.screens > 1 ? `, on ${there.screens} screens` : "";
    rows.push(row(card.operator, at ? "controller" : "away", at ? `at the desktop${screens}` : "has it, not at the desktop"));
  }
  for (const person of byPerson.values()) {
    rows.push(row(person, person.role, person.role === "controller" ? "at the desktop" : "watching"));
  }
  return rows;
}
