// Messages in this browser: whether it can have them, and asking for and ending them.

import { devices } from "./api.js";
import { base64urlOf, bytesOf, deviceOf, fingerprintOf, forget, nameOf, remember } from "./subscription.js";

/** Something that a person can do something about; its text says what. */
export class PushRefused extends Error {}

const isApple = (agent, touchPoints) => /iPhone|iPad/.test(agent) || (/Macintosh/.test(agent) && touchPoints > 1);

/** "ready", or why this browser has no messages: "http", "home-screen", "unsupported", "blocked". */
export function ability(view = window) {
  const { navigator } = view;
  if (!view.isSecureContext) return "http";
  if (!("serviceWorker" in navigator) || !("PushManager" in view) || !("Notification" in view)) {
    return isApple(navigator.userAgent, navigator.maxTouchPoints ?? 0) ? "home-screen" : "unsupported";
  }
  return view.Notification.permission === "denied" ? "blocked" : "ready";
}

/** The worker at the root, as every page has it. Null where there is none. */
export async function worker() {
  if (!navigator.serviceWorker) return null;
  await navigator.serviceWorker.register("/sw.js", { updateViaCache: "none" });
  return navigator.serviceWorker.ready;
}

/** This browser's subscription and its fingerprint, or null. */
export async function here() {
  const registration = await navigator.serviceWorker?.getRegistration("/");
  const subscription = await registration?.pushManager?.getSubscription();
  return subscription ? { subscription, fingerprint: await fingerprintOf(subscription.endpoint) } : null;
}

/**
 * Asks the person, the browser and the server, in this order; the new device. Call it from a click and nowhere else.
 * `fresh`: what the browser has is not used, since its push service or the server may have given it up.
 */
export async function askForMessages({ key, person, name = nameOf(), fresh = false }) {
  const permission = await Notification.requestPermission();
  if (permission === "denied") throw new PushRefused("You have said no, so nothing is shown here. The browser remembers it: see below how to change it.");
  if (permission !== "granted") throw new PushRefused("Nothing was changed: the browser asks again when you press the button again.");
  const { pushManager } = await worker();
  const subscription = await subscribe(pushManager, key, fresh);
  try {
    const device = await devices.add({ ...deviceOf(subscription), name });
    await remember({ person, fingerprint: device.fingerprint, name: device.name });
    return device;
  } catch (error) {
    await subscription.unsubscribe().catch(() => {}); // one that the server does not know is of no use
    throw error;
  }
}

async function subscribe(pushManager, key, fresh) {
  const before = await pushManager.getSubscription();
  // One that was made for another key of the server's is of no use either.
  const isUseless = before && (fresh || base64urlOf(before.options.applicationServerKey ?? new ArrayBuffer(0)) !== key);
  if (isUseless) await before.unsubscribe();
  try {
    return await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytesOf(key) });
  } catch (error) {
    const words =
      error.name === "NotAllowedError"
        ? "This browser does not allow messages here. A private window never does: use an ordinary one."
        : "The browser could not reach its maker's push service. Check that this network lets it through, then try again.";
    throw new PushRefused(words, { cause: error });
  }
}

/** Ends messages in this browser, whoever asked for them, and takes away what is on the screen. */
export async function endMessages() {
  const found = await here();
  const registration = await navigator.serviceWorker?.getRegistration("/");
  for (const shown of (await registration?.getNotifications?.()) ?? []) shown.close();
  if (!found) return;
  try {
    const mine = (await devices.all()).find((one) => one.fingerprint === found.fingerprint);
    if (mine) await devices.remove(mine.id);
  } finally {
    await found.subscription.unsubscribe(); // the push service then refuses what the server still sends
    await forget();
  }
}
