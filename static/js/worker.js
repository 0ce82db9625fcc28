// The service worker on every page of somebody who is signed in: there from the first page on, so that messages, the home
// screen and the page without a network work; and gone quiet before the person signs out.

import { endMessages, worker } from "./push.js";

// A sign-out waits no longer than this for the push service.
const PATIENCE_MS = 2500;

export function keepWorker() {
  if (document.readyState === "complete") start();
  else addEventListener("load", start, { once: true });
  for (const form of document.querySelectorAll('form[action$="/accounts/logout/"]')) form.addEventListener("submit", leave);
}

async function start() {
  try {
    const registration = await worker();
    registration?.active?.postMessage("look");
  } catch {
    // A private window, a browser without workers, no network: the page works without.
  }
}

/** The next person at this computer sees none of this one's messages. */
async function leave(event) {
  const form = event.currentTarget;
  event.preventDefault();
  if (form.dataset.leaving) return;
  form.dataset.leaving = "yes";
  const enough = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
  await Promise.race([endMessages().catch(() => {}), enough]);
  HTMLFormElement.prototype.submit.call(form); // a button named submit would hide the method
}
