// The service worker's decisions, without a browser: what is shown for a push, and what a press and a claim lead to.

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";
import { ask, claim } from "../../static/js/claiming.js";
import { GONE_AFTER_MS, afterwards, notice, read, wish } from "../../static/js/notices.js";
import { ability } from "../../static/js/push.js";
import { base64urlOf, browserOf, bytesOf, deviceOf, fingerprintOf, nameOf } from "../../static/js/subscription.js";

globalThis.crypto ??= webcrypto; // Node 18

const ORIGIN = "https://help.example.com";
const SUBJECT = "0b7b5f6e-0000-4000-8000-000000000001";
const ASKED = {
  v: 1,
  kind: "asked",
  title: "Help at Stazione Centrale",
  body: "IT-0042, Milano",
  url: `/sessions/${SUBJECT}/`,
  tag: "rescue-1",
  subject: SUBJECT,
  actions: ["claim", "open"],
  silent: false,
  at: "2026-03-01T10:00:00Z",
};
const message = (changes = {}) => read(JSON.stringify({ ...ASKED, ...changes }), ORIGIN);

test("a request rings, stays, and can be claimed", () => {
  const { title, options, goneAfter } = notice(message());
  assert.equal(title, ASKED.title);
  assert.deepEqual(options.actions.map((one) => one.action), ["claim", "open"]);
  assert.deepEqual([options.silent, options.renotify, options.requireInteraction, goneAfter], [false, true, true, 0]);
  assert.equal(options.tag, ASKED.tag);
});

test("a replacement is silent, has nothing to press and goes", () => {
  const { options, goneAfter } = notice(message({ kind: "taken", title: "Bob has it.", silent: true }));
  assert.deepEqual([options.silent, options.renotify, options.requireInteraction], [true, false, false]);
  assert.deepEqual(options.actions, []);
  assert.equal(goneAfter, GONE_AFTER_MS);
});

test("what nobody came to makes no sound, and stays until somebody has seen it", () => {
  const { options, goneAfter } = notice(message({ kind: "missed", title: "Nobody came", silent: true, actions: ["open"] }));
  assert.deepEqual([options.silent, options.actions.map((one) => one.action), goneAfter], [true, ["open"], 0]);
});

test("the same message again makes no sound", () => {
  const { data } = notice(message()).options;
  const again = notice(message(), data);
  assert.equal(again.title, ASKED.title);
  assert.deepEqual([again.options.silent, again.options.renotify, again.options.actions.length], [true, false, 2]);
});

test("a message that comes late changes nothing", () => {
  const { data } = notice(message({ kind: "taken", title: "Bob has it.", silent: true, at: "2026-03-01T10:00:09Z" })).options;
  const late = notice(message(), data);
  assert.equal(late.title, "Bob has it.");
  assert.deepEqual([late.options.silent, late.options.actions], [true, []]);
});

test("a replacement that comes after the next round takes nothing from it", () => {
  // Two senders: what one was still sending arrives after what the other has begun since.
  const asked = notice(message({ at: "2026-03-01T10:05:00.001000Z" })).options.data;
  const late = notice(message({ kind: "taken", title: "Bob has it.", silent: true, at: "2026-03-01T10:05:00Z" }), asked);
  assert.equal(late.title, ASKED.title);
  assert.deepEqual(late.options.actions.map((one) => one.action), ["claim", "open"]);
  assert.deepEqual([late.options.silent, late.options.requireInteraction, late.goneAfter], [true, true, 0]);
});

test("the next round of the same rescue rings again", () => {
  const { data } = notice(message()).options;
  const next = notice(message({ at: "2026-03-01T10:05:00Z" }), data);
  assert.deepEqual([next.options.silent, next.options.renotify], [false, true]);
});

test("a claimed one that is pushed again stays claimed", () => {
  const { data } = afterwards(notice(message()).options.data, { is: "mine" }).options;
  assert.equal(notice(message(), data).title, "You have it. Tap to open.");
});

test("what cannot be read still shows something, and leads to the queue", () => {
  for (const text of ["", "no JSON", "[]", "null", "7", '{"v":2}', '{"title":""}', '{"title":{"a":1}}']) {
    const { title, options } = notice(read(text, ORIGIN));
    assert.equal(title, "Portafilter", text);
    assert.equal(options.data.url, "/", text);
    assert.ok(options.body && options.tag, text);
  }
});

test("a message of a later kind shows its words", () => {
  const { title, options } = notice(read('{"v":9,"kind":"new","title":"News","actions":["dance","open"]}', ORIGIN));
  assert.equal(title, "News");
  assert.deepEqual(options.actions.map((one) => one.action), ["open"]);
});

test("no message leads to another site", () => {
  for (const url of ["https://evil.example/x", "//evil.example", "javascript:alert(1)", "\\\\evil.example", 7, null, {}]) {
    assert.ok(message({ url }).url.startsWith("/") && !message({ url }).url.startsWith("//"), String(url));
  }
  assert.equal(message({ url: `${ORIGIN}/sessions/x/?a=1` }).url, "/sessions/x/?a=1");
});

test("nothing is claimed without a rescue to claim", () => {
  for (const subject of ["", "../../me", 7, null, `${SUBJECT}/close`]) {
    const { data, actions } = notice(message({ subject })).options;
    assert.deepEqual(actions.map((one) => one.action), ["open"], String(subject));
    assert.equal(wish(data, "claim"), "open");
  }
});

test("a press means what is on the button, and a tap what stands there", () => {
  const { data } = notice(message()).options;
  assert.deepEqual([wish(data, "claim"), wish(data, "open"), wish(data, "")], ["claim", "open", "open"]);
  const again = afterwards(data, { is: "offline" }).options.data;
  assert.equal(wish(again, ""), "claim");
  assert.equal(wish(again, "open"), "open");
  assert.equal(wish(null, ""), "open");
});

test("what stands there after a claim says what to do next", () => {
  const { data } = notice(message()).options;
  const titles = {
    mine: "You have it. Tap to open.",
    over: "It is over.",
    signed_out: "Sign in to claim it.",
    offline: "No connection. Tap to try again.",
  };
  for (const [is, title] of Object.entries(titles)) {
    const shown = afterwards(data, { is });
    assert.equal(shown.title, title);
    assert.ok(shown.options.body.includes(ASKED.title) && shown.options.silent);
    assert.equal(shown.options.actions.length, is === "offline" ? 2 : 0);
  }
  assert.equal(afterwards(data, { is: "taken", name: "Bob" }).title, "Bob has it.");
  assert.equal(afterwards(data, { is: "refused", detail: "Not now." }).options.body, "Not now.");
});

const ME = [200, { id: 1, csrf_token: "token", vapid_public_key: "" }];

/** A server of which the test says what it answers; `calls` is what it was asked. */
function server(...answers) {
  const calls = [];
  const fetch = async (path, options) => {
    calls.push([options.method, path, options.headers["X-CSRFToken"] ?? ""]);
    const answer = answers.shift();
    if (!answer) throw new TypeError("Failed to fetch");
    const [status, body] = answer;
    return { status, text: async () => (typeof body === "string" ? body : JSON.stringify(body)) };
  };
  return { fetch, calls };
}

test("a claim asks for a token and claims with it", async () => {
  const { fetch, calls } = server(ME, [200, {}]);
  assert.deepEqual(await claim(SUBJECT, fetch), { is: "mine" });
  assert.deepEqual(calls, [["GET", "/api/v1/me/", ""], ["POST", `/api/v1/sessions/${SUBJECT}/claim/`, "token"]]);
});

test("each answer to a claim has an outcome", async () => {
  const taken = { code: "already_claimed", operator: { id: 2, name: "Bob" } };
  const cases = [
    [[ME, [409, taken]], { is: "taken", name: "Bob" }],
    [[ME, [409, { code: "session_closed" }]], { is: "over" }],
    [[ME, [404, {}]], { is: "unknown" }],
    [[ME, [403, { code: "not_allowed", detail: "No." }]], { is: "refused", detail: "No." }],
    [[ME, [403, { code: "not_authenticated" }]], { is: "signed_out" }],
    [[ME, [401, {}]], { is: "signed_out" }],
    [[ME, [403, { code: "csrf_failed" }]], { is: "failed" }],
    [[ME, [503, "<h1>busy</h1>"]], { is: "failed" }],
    [[ME, [429, {}]], { is: "failed" }],
    [[[403, { code: "not_authenticated" }]], { is: "signed_out" }],
    [[[500, "oh"]], { is: "failed" }],
    [[[200, "<html>a hotel's sign-in</html>"]], { is: "offline" }],
    [[ME], { is: "offline" }],
    [[], { is: "offline" }],
  ];
  for (const [answers, outcome] of cases) {
    const words = JSON.stringify(answers);
    assert.deepEqual(await claim(SUBJECT, server(...answers).fetch), outcome, words);
  }
});

test("nothing is sent after a token that was refused", async () => {
  const { fetch, calls } = server([403, { code: "not_authenticated" }], [200, {}]);
  await claim(SUBJECT, fetch);
  assert.equal(calls.length, 1);
});

test("an answer without a body is an answer", async () => {
  assert.deepEqual(await ask(server([204, ""]).fetch, "/x", { method: "DELETE" }), { status: 204, document: {} });
});

const AGENTS = {
  "Chrome on Android": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Mobile Safari/537.36",
  "Edge on Windows": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36 Edg/156.0",
  "Firefox on Linux": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
  "Safari on iPhone": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/604.1",
  "Safari on Mac": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
  "Samsung Internet on Android": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0 Mobile Safari/537.36",
  Browser: "something else",
};

test("a device begins with a name that its owner knows", () => {
  for (const [name, agent] of Object.entries(AGENTS)) assert.equal(nameOf(agent, 0), name);
  assert.equal(nameOf(AGENTS["Safari on Mac"], 5), "Safari on iPad");
  assert.equal(browserOf(AGENTS["Edge on Windows"]), "Edge");
});

test("a subscription is told as the server wants it", async () => {
  const keys = { p256dh: "BA", auth: "AQ" };
  const given = deviceOf({ toJSON: () => ({ endpoint: "https://push.example/1", keys }) }, AGENTS["Firefox on Linux"]);
  assert.deepEqual(given, { endpoint: "https://push.example/1", ...keys, browser: "firefox" });
  assert.equal(await fingerprintOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  assert.equal(base64urlOf(bytesOf("-_8B").buffer), "-_8B");
});

test("a browser without messages is told why", () => {
  const view = (changes = {}, agent = AGENTS["Chrome on Android"]) => ({
    isSecureContext: true,
    navigator: { serviceWorker: {}, userAgent: agent, maxTouchPoints: 5 },
    PushManager: class {},
    Notification: { permission: "default" },
    ...changes,
  });
  const without = (name, agent) => {
    const found = view({}, agent);
    delete found[name];
    return found;
  };
  assert.equal(ability(view()), "ready");
  assert.equal(ability(view({ isSecureContext: false })), "http");
  assert.equal(ability(view({ Notification: { permission: "denied" } })), "blocked");
  assert.equal(ability(without("PushManager")), "unsupported");
  assert.equal(ability(without("PushManager", AGENTS["Safari on iPhone"])), "home-screen");
});
