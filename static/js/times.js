// Time on the page: how long somebody has waited, what the clock says where the machine stands.

let offset = 0;

/** Learns the server's clock, so that a wrong clock here shows no wrong waiting times. */
export function serverTime(iso) {
  const difference = Date.parse(iso) - Date.now();
  // Below two seconds it is the network's delay rather than the clock.
  if (Number.isFinite(difference)) offset = Math.abs(difference) < 2000 ? 0 : difference;
}

export function now() {
  return Date.now() + offset;
}

export function secondsSince(iso) {
  return Math.max(0, Math.floor((now() - Date.parse(iso)) / 1000));
}

/** 0:07, 4:31, 1:02:45: as on a stopwatch. */
export function stopwatch(seconds) {
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** 45 s, 3 min, 2 h 5 min: in words. */
export function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

/** Whole seconds between two instants, as words; a dash when one is missing. */
export function between(from, to) {
  if (!from || !to) return "–";
  return duration(Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 1000)));
}

const clocks = new Map();

function clock(options) {
  const key = JSON.stringify(options);
  if (!clocks.has(key)) clocks.set(key, new Intl.DateTimeFormat(undefined, options));
  return clocks.get(key);
}

/** What the clock on the wall says in a time zone, with the weekday when it is another one there. */
export function wallClock(timeZone, at = now()) {
  try {
    const time = clock({ timeZone, hour: "2-digit", minute: "2-digit" }).format(at);
    const day = (zone) => clock({ timeZone: zone, weekday: "short" }).format(at);
    return day(timeZone) === day(undefined) ? time : `${day(timeZone)} ${time}`;
  } catch {
    return "";
  }
}

export function timeOfDay(iso) {
  return clock({ hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(Date.parse(iso));
}

export function dateAndTime(iso) {
  return clock({ dateStyle: "medium", timeStyle: "short" }).format(Date.parse(iso));
}

/** just now, 5 min ago, 3 h ago; a date beyond two days. */
export function ago(iso) {
  const seconds = secondsSince(iso);
  if (seconds < 45) return "just now";
  if (seconds < 2 * 86400) {
    const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
    if (seconds < 3600) return relative.format(-Math.round(seconds / 60), "minute");
    if (seconds < 86400) return relative.format(-Math.round(seconds / 3600), "hour");
    return relative.format(-1, "day");
  }
  return dateAndTime(iso);
}

const listeners = new Set();

/** Calls back once a second, at the second; one timer for the whole page. */
export function everySecond(listener) {
  listeners.add(listener);
  if (listeners.size === 1) tick();
  return () => listeners.delete(listener);
}

function tick() {
  for (const listener of listeners) listener();
  if (listeners.size) setTimeout(tick, 1000 - (now() % 1000) + 5);
}

/** Fills the page's own <time data-show="ago|date|wall">. */
export function fillTimes(root = document) {
  for (const node of root.querySelectorAll("time[data-show]")) {
    const { show, zone } = node.dataset;
    const text = show === "wall" ? wallClock(zone) : show === "ago" ? ago(node.dateTime) : dateAndTime(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
    if (show === "ago" && !node.title) node.title = dateAndTime(node.dateTime);
  }
}

/** Fills them now and keeps them right. */
export function keepTimes() {
  fillTimes();
  setInterval(() => fillTimes(), 15_000);
}
