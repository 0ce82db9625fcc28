// The service worker: shows what is pushed, claims from the notification, and has a page for when there is no network.
// It keeps that one page and nothing else: no rescue is ever on a device's disk.

import { ask, claim } from "./claiming.js";
import { afterwards, notice, read, wish } from "./notices.js";
import { bytesOf, deviceOf, fingerprintOf, recall, remember } from "./subscription.js";

// The build puts its hash here: with another page, there is another worker, which fetches it.
const OFFLINE = `offline-${__OFFLINE_VERSION__}`;
const OFFLINE_PAGE = "/offline/";
const OFFLINE_PARTS = ["/static/offline.css", "/static/offline.js"];

self.addEventListener("install", (event) => {
  event.waitUntil(install(event));
});

async function install(event) {
  // Scripts and calls need not come by here, where a browser lets us say so. The first rule that fits counts.
  const routes = [
    { condition: { urlPattern: "/static/offline.*" }, source: "fetch-event" },
    { condition: { urlPattern: "/static/*" }, source: "network" },
    { condition: { urlPattern: "/api/*" }, source: "network" },
  ];
  await event.addRoutes?.(routes).catch(() => {});
  const cache = await caches.open(OFFLINE);
  await cache.addAll([OFFLINE_PAGE, ...OFFLINE_PARTS].map((path) => new Request(path, { cache: "reload", credentials: "omit" })));
  // It shares nothing with the pages that are open: a new one may take over at once.
  await self.skipWaiting();
}

self.addEventListener("activate", (event) => {
  event.waitUntil(activate());
});

async function activate() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("offline-") && name !== OFFLINE).map((name) => caches.delete(name)));
  // The page is fetched while the worker starts, so that it costs no navigation any time.
  await self.registration.navigationPreload?.enable();
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.mode === "navigate" && request.method === "GET") event.respondWith(page(event));
  else if (OFFLINE_PARTS.includes(new URL(request.url).pathname)) event.respondWith(part(request));
});

async function page(event) {
  try {
    return (await event.preloadResponse) ?? (await fetch(event.request));
  } catch {
    return kept(OFFLINE_PAGE);
  }
}

async function part(request) {
  try {
    return await fetch(request);
  } catch {
    return kept(request);
  }
}

async function kept(what) {
  const cache = await caches.open(OFFLINE);
  return (await cache.match(what)) ?? Response.error();
}

// --- messages ---------------------------------------------------------------------------------------------------------

const show = ({ title, options }) => self.registration.showNotification(title, options);
const standing = (tag) => self.registration.getNotifications({ tag });

let last = Promise.resolve();

/** One at a time: a Chromium asked for what stands there, between keeping a notification and showing it, forgets it. */
function inTurn(work) {
  last = last.catch(() => {}).then(work);
  return last;
}

self.addEventListener("push", (event) => {
  event.waitUntil(take(event.data?.text() ?? ""));
});

async function take(text) {
  const message = read(text, self.location.origin);
  const next = await inTurn(async () => {
    const [before] = await standing(message.tag);
    const made = notice(message, before?.data);
    await show(made);
    return made;
  });
  // Not waited for: a browser that finds nothing on the screen at the end of a push says something of its own. Where the
  // worker is stopped before, the words stay, without a button and without a sound.
  if (next.goneAfter) setTimeout(() => inTurn(() => close(message)), next.goneAfter);
  await tellPages({ type: "message", kind: message.kind });
}

async function close({ tag, kind, at }) {
  for (const one of await standing(tag)) if (one.data?.kind === kind && one.data?.at === at) one.close();
}

async function tellPages(news) {
  for (const page of await pages()) page.postMessage(news);
}

const pages = () => self.clients.matchAll({ type: "window", includeUncontrolled: true });

// What is being claimed now: a second press while the first is on its way does nothing.
const claiming = new Set();

self.addEventListener("notificationclick", (event) => {
  const { data, tag } = event.notification;
  if (wish(data, event.action) === "claim") {
    event.waitUntil(claimNow(data, tag));
  } else {
    event.notification.close();
    event.waitUntil(open(data?.url ?? "/"));
  }
});

async function claimNow(data, tag) {
  if (claiming.has(tag)) return;
  claiming.add(tag);
  try {
    // Without its buttons meanwhile, and on the screen in any case: phones take a pressed one away only when told.
    await inTurn(() => show(afterwards(data, { is: "claiming" })));
    const outcome = await claim(data.subject, fetch);
    await inTurn(async () => {
      const [now] = await standing(tag);
      // Told meanwhile that somebody has it, or that it is over: the newer word stays, unless one has it oneself.
      if (now?.data && now.data.at > data.at && outcome.is !== "mine") return;
      await show(afterwards(data, outcome));
    });
  } finally {
    claiming.delete(tag);
  }
}

async function open(path) {
  const url = new URL(path, self.location.origin);
  const there = (await pages()).find((page) => new URL(page.url).pathname === url.pathname);
  try {
    if (there) return await there.focus();
  } catch {
    // Some browsers let only a press on the page itself focus it; a new one is as good.
  }
  return self.clients.openWindow(url.href);
}

// --- the subscription -------------------------------------------------------------------------------------------------

self.addEventListener("pushsubscriptionchange", (event) => {
  event.waitUntil(renew(event.newSubscription ?? null));
});

// Not every browser tells; a page that is opened asks for a look.
self.addEventListener("message", (event) => {
  if (event.data === "look") event.waitUntil(renew(null));
});

/**
 * Subscribes anew where this browser's subscription has been taken away or replaced. Only for the person who asked for
 * messages here: whoever else is signed in now gets none of theirs by it.
 */
async function renew(given) {
  const before = await recall();
  if (!before || Notification.permission !== "granted") return;
  let subscription = given ?? (await self.registration.pushManager.getSubscription());
  if (subscription && (await fingerprintOf(subscription.endpoint)) === before.fingerprint) return;
  try {
    const me = (await ask(fetch, "/api/v1/me/")).document;
    if (me.id !== before.person || !me.vapid_public_key) return;
    subscription ??= await self.registration.pushManager.subscribe({
      userVisibleOnly: true,
      applicationServerKey: bytesOf(me.vapid_public_key),
    });
    const token = me.csrf_token;
    const body = { ...deviceOf(subscription), name: before.name };
    const { status, document } = await ask(fetch, "/api/v1/devices/", { method: "POST", token, body });
    if (status !== 201) return;
    await remember({ person: me.id, fingerprint: document.fingerprint, name: document.name });
    const old = (await ask(fetch, "/api/v1/devices/")).document.results?.find((one) => one.fingerprint === before.fingerprint);
    if (old) await ask(fetch, `/api/v1/devices/${old.id}/`, { method: "DELETE", token });
  } catch {
    // No network, or no push service: the next page that is opened asks again.
  }
}
