// Supervisors leave a page open all day: what must be looked at comes to them.

const LOOK_MS = 15_000;

async function look(place) {
  const response = await fetch(place.dataset.alarms, { credentials: "same-origin", signal: AbortSignal.timeout(10_000) });
  if (!response.ok || response.redirected) return; // signed out, or no supervisor any more: the page itself will tell
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("[data-alarms]");
  // Screen readers say what is new in it, so it changes only when something is.
  if (fresh && fresh.innerHTML !== place.innerHTML) place.replaceChildren(...fresh.childNodes);
}

/** Keeps the page's alarms as they are at the server. */
export function keepAlarms() {
  const place = document.querySelector("[data-alarms]");
  if (!place) return;
  const again = async () => {
    try {
      await look(place);
    } catch {
      // The network is away: the next look tells.
    }
    setTimeout(again, LOOK_MS);
  };
  setTimeout(again, LOOK_MS);
}
