// Messages on one's devices: asking for them here, trying them, and ending them.

import "./common.js";
import { Problem, devices, signInAddress } from "../api.js";
import { announce, button, el, icon, openDialog, pageState, setText, toast } from "../dom.js";
import { PushRefused, ability, askForMessages, endMessages, here } from "../push.js";
import { recall, remember } from "../subscription.js";
import { ago, dateAndTime, serverTime } from "../times.js";

const first = pageState("devices-state");
const panel = document.querySelector("[data-here]");
const list = document.querySelector("[data-devices]");
const empty = document.querySelector("[data-none]");
const LOOK_MS = 2000;
const LOOKS_AFTER_A_TEST = 8;

let known = first.devices;
let current = null; // this browser's subscription, whoever's it is
let asker = null; // who asked for it, as the browser remembers
let busy = false;
// Looks are counted as they begin; of two that overlap, the later one's answer is the newer.
let looks = 0;
let drawn = 0;

const mine = () => known.find((one) => one.fingerprint === current?.fingerprint) ?? null;

// --- this device ------------------------------------------------------------------------------------------------------

const REASONS = {
  "no-key": [
    "Messages are switched off in this installation",
    "Whoever runs Portafilter can switch them on: it needs the setting VAPID_PRIVATE_KEY.",
  ],
  http: [
    "This address is not encrypted",
    "Browsers allow messages only at an https address (or on the computer that Portafilter itself runs on). Open the portal by its https address.",
  ],
  "home-screen": [
    "Put Portafilter on the Home Screen first",
    "iPhone and iPad allow messages only there. In Safari, tap Share, then “Add to Home Screen”; open Portafilter from there and come back to this page. It needs iOS 16.4 or newer.",
  ],
  unsupported: [
    "This browser has no messages of this kind",
    "Chrome, Edge, Firefox and Safari have them. A private window has none.",
  ],
  blocked: [
    "Messages are blocked for this site",
    "The browser remembers a “no” and does not ask again. Press the sign left of the address, look for “Notifications”, allow them, and reload this page. On a phone it may be in the system's settings, under the browser's name.",
  ],
};

function standing() {
  if (!first.vapid_public_key) return "no-key";
  const able = ability();
  if (able !== "ready") return able;
  if (!current) return "none";
  const device = mine();
  // One's own that is not in the list was removed from it elsewhere, or its push service gave it up.
  if (!device) return asker === first.me.id ? "none" : "foreign";
  return device.disabled_at ? "given-up" : "on";
}

const ask = (text) => button(text, { kind: "strong", icon: "bell", action: "ask", click: askHere });
const stop = () => button("Stop them here", { action: "stop", click: stopHere });

const STANDINGS = {
  none: () => note("", "Not on this device yet", "When a machine asks for you, this device tells you, also when this page is shut: where it stands, what is wrong, and a button that claims it.", ask("Get messages on this device")),
  on: () => note("good", "This device gets your messages", "Also when this page is shut. Signing out here ends them."),
  "given-up": () => note("bad", "Messages to this device were given up", mine().last_problem, ask("Get messages again"), stop()),
  foreign: () => note("warm", "Somebody else gets messages in this browser", "They asked for them here and have not signed out. Yours come only when you ask for them; theirs end then.", ask("Get mine instead"), stop()),
};

function note(kind, title, words, ...buttons) {
  const body = [el("p", {}, el("strong", { text: title })), words ? el("p", { text: words }) : null];
  if (buttons.length) body.push(el("div", { class: "buttons" }, buttons));
  return kind === "" ? el("div", { class: "stack" }, body) : el("div", { class: `note ${kind}` }, el("div", {}, body));
}

function drawHere() {
  const now = standing();
  if (panel.dataset.here === now) return;
  panel.dataset.here = now;
  const reason = REASONS[now];
  panel.replaceChildren(reason ? note("warm", ...reason) : STANDINGS[now]());
}

async function askHere(event) {
  await during(event.currentTarget, async () => {
    const before = mine();
    const device = await askForMessages({
      key: first.vapid_public_key,
      person: first.me.id,
      name: before?.name,
      fresh: standing() !== "foreign", // another's changes hands as it is, and is theirs no more
    });
    await learn();
    if (before && before.id !== device.id && known.some((one) => one.id === before.id)) {
      await devices.remove(before.id);
      await learn();
    }
    announce(`This device gets your messages. It is called ${device.name}.`);
    list.querySelector(`[data-id="${device.id}"] [data-action=test]`)?.focus();
  });
}

async function stopHere(event) {
  await during(event.currentTarget, async () => {
    await endMessages();
    await learn();
    announce("No messages come to this device any more.");
    panel.querySelector("button")?.focus();
  });
}

/** Does the work with its button waiting; what is refused is said in words. */
async function during(pressed, work) {
  if (busy) return;
  busy = true;
  pressed?.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return location.assign(signInAddress());
    if (!(error instanceof Problem) && !(error instanceof PushRefused)) throw error;
    toast(error.message, { seconds: 0 });
    await learn().catch(() => {});
  } finally {
    busy = false;
    pressed?.removeAttribute("aria-busy");
  }
}

// --- all of them ------------------------------------------------------------------------------------------------------

const rows = new Map();
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const isHandheld = (name) => /android|iphone|ipad|phone|tablet/i.test(name);

class Row {
  constructor(device) {
    this.title = el("h3", { id: `device-${device.id}` });
    this.here = el("span", { class: "tag", text: "this one" });
    this.facts = el("p", { class: "soft small" });
    this.problem = el("p", { class: "note bad small" });
    const what = { "aria-describedby": this.title.id };
    this.node = el(
      "li",
      { "data-id": device.id },
      el("div", { class: "what" }, icon(isHandheld(device.name) ? "phone" : "keyboard"), el("div", {}, el("p", { class: "name" }, this.title, this.here), this.facts)),
      this.problem,
      el(
        "div",
        { class: "buttons" },
        button("Send me one", { action: "test", click: (event) => test(event.currentTarget, this.device), ...what }),
        button("Rename", { action: "rename", click: () => rename(this.device), ...what }),
        button("Remove", { kind: "danger", action: "remove", click: () => askToRemove(this.device), ...what }),
      ),
    );
    this.update(device);
  }

  update(device) {
    this.device = device;
    setText(this.title, device.name);
    this.here.hidden = device.fingerprint !== current?.fingerprint;
    const last = device.last_sent_at ? `last message ${ago(device.last_sent_at)}` : "no message yet";
    setText(this.facts, `Since ${day.format(Date.parse(device.created_at))} · ${last}`);
    this.problem.hidden = !device.last_problem;
    setText(this.problem, device.disabled_at ? `Nothing is sent to it since ${dateAndTime(device.disabled_at)}. ${device.last_problem}` : device.last_problem);
    this.node.querySelector("[data-action=test]").hidden = Boolean(device.disabled_at);
  }
}

function draw() {
  const ids = new Set(known.map((one) => one.id));
  for (const [id, row] of rows) {
    if (ids.has(id)) continue;
    row.node.remove();
    rows.delete(id);
  }
  for (const device of known) {
    const row = rows.get(device.id);
    if (row) row.update(device);
    else {
      const made = new Row(device);
      rows.set(device.id, made);
      list.append(made.node);
    }
  }
  empty.hidden = known.length > 0;
  list.hidden = known.length === 0;
  drawHere();
}

async function learn() {
  const look = ++looks;
  const subscribed = ability() === "ready" ? await here() : null;
  const person = subscribed ? ((await recall())?.person ?? null) : null;
  const found = await devices.all();
  if (look < drawn) return;
  drawn = look;
  current = subscribed;
  asker = person;
  known = found;
  draw();
}

// --- one of them ------------------------------------------------------------------------------------------------------

let arrived = null;

async function test(pressed, device) {
  await during(pressed, async () => {
    arrived = null;
    await devices.test(device.id);
    toast(`A message is on its way to ${device.name}.`);
    follow(device, LOOKS_AFTER_A_TEST);
  });
}

/** Says what came of a test: this page's own worker tells that it is here, the server that it was refused. */
function follow(device, left) {
  setTimeout(async () => {
    if (arrived) return;
    try {
      await learn();
    } catch {
      // The network is away: the next look tells.
    }
    const now = known.find((one) => one.id === device.id);
    if (now?.last_problem && now.last_problem !== device.last_problem) return toast(`${now.name}: ${now.last_problem}`, { seconds: 0 });
    if (left > 1) return follow(device, left - 1);
    if (now && now.fingerprint === current?.fingerprint) {
      toast("It has not come here yet. Look whether the system holds messages back: “do not disturb”, or none allowed for this browser.", { seconds: 0 });
    }
  }, LOOK_MS);
}

navigator.serviceWorker?.addEventListener("message", (event) => {
  if (event.data?.type !== "message" || event.data.kind !== "test") return;
  arrived = true;
  toast("It has arrived on this device.");
  learn().catch(() => {});
});

function rename(device) {
  return openDialog(
    "What do you call it?",
    (dialog, shut) => {
      const name = el("input", { id: "device-name", type: "text", maxlength: 60, required: true, autofocus: true, autocomplete: "off" });
      name.value = device.name;
      name.addEventListener("focus", () => name.select(), { once: true });
      const complaint = el("p", { class: "errors", role: "alert", hidden: true });
      const form = el(
        "form",
        { method: "dialog", novalidate: true },
        el("div", { class: "dialog-body" }, el("div", { class: "field" }, el("label", { for: "device-name", text: "Name" }), name, complaint)),
        el("div", { class: "dialog-foot" }, button("Keep it", { click: shut }), button("Rename", { kind: "strong", type: "submit" })),
      );
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        try {
          const renamed = await devices.rename(device.id, name.value.trim());
          if (renamed.fingerprint === current?.fingerprint) await remember({ person: first.me.id, fingerprint: renamed.fingerprint, name: renamed.name });
          shut();
          await learn();
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          setText(complaint, error.code === "invalid" ? "A name has 1 to 60 characters." : error.detail);
          complaint.hidden = false;
          name.setAttribute("aria-invalid", "true");
          name.focus();
        }
      });
      return { body: form };
    },
    { name: "rename-device" },
  );
}

async function askToRemove(device) {
  const isHere = device.fingerprint === current?.fingerprint;
  const words = isHere
    ? "No messages come to this browser any more. You can ask for them again at any time."
    : "No messages go there any more. To have them again, press the button on that device.";
  await openDialog(
    `Remove ${device.name}?`,
    (dialog, shut) => ({
      body: el("div", { class: "dialog-body" }, el("p", { text: words })),
      foot: el(
        "div",
        { class: "dialog-foot" },
        button("Keep it", { click: shut }),
        button("Remove", {
          kind: "danger",
          action: "really-remove",
          click: (event) =>
            during(event.currentTarget, async () => {
              if (isHere) await endMessages();
              else await devices.remove(device.id);
              shut();
              await learn();
              announce(`${device.name} is removed.`);
            }),
        }),
      ),
    }),
    { name: "remove-device" },
  );
  if (!rows.has(device.id)) document.getElementById("content").focus({ preventScroll: true });
}

serverTime(first.server_time);
draw();
learn()
  .catch(() => {})
  .finally(() => (document.documentElement.dataset.page = "ready"));
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && learn().catch(() => {}));
