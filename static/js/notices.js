// What a push becomes on the screen, and what a press on it leads to. Nothing here touches the browser: the service
// worker (sw.js) does what these say.

const TITLES = { claim: "Claim", open: "Open" };
// Long enough to be read on a phone that is taken out because it hummed before.
export const GONE_AFTER_MS = 6000;

const NOTHING_READABLE = {
  kind: "",
  title: "Portafilter",
  body: "Something has changed. Open the queue to see it.",
  url: "/",
  tag: "portafilter",
  subject: "",
  actions: [],
  silent: false,
  at: 0,
};

const words = (value, longest) => (typeof value === "string" ? value.slice(0, longest) : "");

/**
 * The message in a push's text. Browsers want something visible for every push, so one that cannot be read, of another
 * version or from elsewhere becomes a message, too; nothing in it leads to another site.
 */
export function read(text, origin) {
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    return NOTHING_READABLE;
  }
  const title = words(given?.title, 200);
  if (!title) return NOTHING_READABLE;
  const subject = /^[0-9a-f-]{36}$/i.test(given.subject ?? "") ? given.subject : "";
  const actions = Array.isArray(given.actions) ? given.actions.filter((name) => Object.hasOwn(TITLES, name)) : [];
  return {
    kind: words(given.kind, 40),
    title,
    body: words(given.body, 1000),
    url: inside(given.url, origin),
    tag: words(given.tag, 100) || NOTHING_READABLE.tag,
    subject,
    actions: subject ? actions : actions.filter((name) => name !== "claim"),
    silent: given.silent === true,
    at: Date.parse(given.at) || 0,
  };
}

function inside(address, origin) {
  try {
    const url = new URL(address ?? "/", origin);
    return url.origin === origin ? url.pathname + url.search : "/";
  } catch {
    return "/";
  }
}

/**
 * The notification for a message: title, options, and after how long it goes by itself (0: it stays).
 * `before` is the data of the one with its tag that is on the screen, if any: what comes twice or late changes nothing.
 */
export function notice(message, before = null) {
  const repeated = before && before.kind === message.kind && before.at === message.at;
  if (before?.view && (repeated || before.at > message.at)) return shown(before, { silent: true });
  const { kind, tag, subject, at, title, body, url, actions, silent } = message;
  // A replacement has nothing left to press: somebody has it, or it is over. What nobody came to waits for the morning.
  const passes = silent && kind !== "missed";
  const view = { title, body, actions: passes ? [] : actions, tap: "open" };
  const made = shown({ kind, tag, subject, at, url, about: title, detail: body, wanted: actions, view }, { silent });
  return { ...made, goneAfter: passes ? GONE_AFTER_MS : 0 };
}

function shown(data, { silent }) {
  const { title, body, actions } = data.view;
  const options = {
    body,
    tag: data.tag,
    icon: "/static/img/icon-192.png",
    badge: "/static/img/badge-96.png",
    actions: actions.map((action) => ({ action, title: TITLES[action] })),
    silent,
    renotify: !silent,
    requireInteraction: actions.includes("claim"),
    data,
  };
  if (data.at) options.timestamp = data.at;
  return { title, options, goneAfter: 0 };
}

/** What a press on a notification leads to: "claim" or "open". `action` is empty for a tap beside the buttons. */
export function wish(data, action) {
  const wanted = action || data?.view?.tap || "open";
  return wanted === "claim" && data?.subject ? "claim" : "open";
}

const AGAIN = { actions: true, tap: "claim" };

// What stands there instead while a claim is under way and after it. `name` and `detail` come with the outcome.
const OUTCOMES = {
  claiming: () => ({ title: "Claiming…" }),
  mine: () => ({ title: "You have it. Tap to open." }),
  taken: ({ name }) => ({ title: `${name || "A colleague"} has it.` }),
  over: () => ({ title: "It is over." }),
  unknown: () => ({ title: "It is no longer in your fleets." }),
  signed_out: () => ({ title: "Sign in to claim it." }),
  refused: ({ detail }) => ({ title: "You may not claim it.", body: detail }),
  offline: () => ({ title: "No connection. Tap to try again.", ...AGAIN }),
  failed: () => ({ title: "The server could not take it. Tap to try again.", ...AGAIN }),
};

/** The same notification after (or during) a claim; silent, since whoever pressed is looking. */
export function afterwards(data, outcome) {
  const { title, body = "", actions = false, tap = "open" } = OUTCOMES[outcome.is](outcome);
  const about = [data.about, data.detail].filter(Boolean).join("\n");
  const view = { title, body: body || about, actions: actions ? data.wanted : [], tap };
  return shown({ ...data, view }, { silent: true });
}
