// This browser's push subscription, for pages and the service worker alike: how it is told to the server, by what the
// server's list is compared with it, and whose it is.

const MEMORY = "device";
const PLACE = "/device"; // no address of the portal's: only a name within the cache

/** Base64url, as VAPID keys are written, in bytes. */
export function bytesOf(text) {
  const base64 = text.replaceAll("-", "+").replaceAll("_", "/");
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export function base64urlOf(buffer) {
  const binary = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** What the server is told of a subscription. */
export function deviceOf(subscription, agent = navigator.userAgent) {
  const { endpoint, keys } = subscription.toJSON();
  return { endpoint, p256dh: keys.p256dh, auth: keys.auth, browser: browserOf(agent).toLowerCase() };
}

/** The endpoint's SHA-256 in hexadecimal: the server's list holds no endpoints. */
export async function fingerprintOf(endpoint) {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(endpoint));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The first that is found counts: nearly every browser also says that it is Chrome and Safari.
const BROWSERS = [
  ["Edge", /Edg(A|iOS)?\//],
  ["Opera", /OPR\//],
  ["Samsung Internet", /SamsungBrowser\//],
  ["Firefox", /Firefox\/|FxiOS\//],
  ["Chrome", /Chrome\/|CriOS\//],
  ["Safari", /Safari\//],
];
const SYSTEMS = [
  ["iPhone", /iPhone/],
  ["iPad", /iPad/],
  ["Android", /Android/],
  ["ChromeOS", /CrOS/],
  ["Windows", /Windows/],
  ["Mac", /Mac OS X|Macintosh/],
  ["Linux", /Linux/],
];

const first = (list, agent) => list.find(([, pattern]) => pattern.test(agent))?.[0] ?? "";

export function browserOf(agent) {
  return first(BROWSERS, agent) || "Browser";
}

/** A name for this device to begin with: "Chrome on Android". An iPad says that it is a Mac; its screen gives it away. */
export function nameOf(agent = navigator.userAgent, touchPoints = navigator.maxTouchPoints ?? 0) {
  const system = first(SYSTEMS, agent);
  const where = system === "Mac" && touchPoints > 1 ? "iPad" : system;
  return where ? `${browserOf(agent)} on ${where}` : browserOf(agent);
}

/** Who asked for messages in this browser: { person, fingerprint, name }, or null. A worker can read no other store so easily. */
export async function recall() {
  const found = await (await caches.open(MEMORY)).match(PLACE);
  return found ? found.json() : null;
}

export async function remember(who) {
  await (await caches.open(MEMORY)).put(PLACE, new Response(JSON.stringify(who)));
}

export async function forget() {
  await caches.delete(MEMORY);
}
