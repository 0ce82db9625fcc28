// A bell, made by code: wished for first, remembered in this browser, and rung once however many tabs are open.

const WISH = "portafilter.sound";
const RUNG = "portafilter.rung";
const LOCK = "portafilter.bell";
const KEPT_MS = 24 * 3600 * 1000;
// How long one ring takes; the next one waits for it, in whatever tab.
const RING_MS = 1100;
// What had to wait longer than this for other rings has been said by them.
const LATE_MS = 4000;
const GESTURES = ["pointerdown", "keydown"];

let context = null;
let listener = () => {};
// It was switched on, and has not rung yet to be known: the device may take its time.
let isNew = false;
// Rings that the browser did not let us play yet: key → whether it is still wanted.
const held = new Map();

/** Whether this browser can make sounds at all. */
export const canSound = "AudioContext" in window;

/** Whether somebody has switched the sound on, here in this browser. */
export function isSoundWished() {
  return canSound && read(WISH) === "on";
}

/** Calls back with "off", "on", or "blocked" while the browser still waits for a click; now and at each change. */
export async function onSound(callback) {
  listener = callback;
  listener(isSoundWished() ? "on" : "off");
  if (isSoundWished() && !(await unlock())) listener(state());
}

/** Switches it on or off; to be called from a click, so that the browser lets it sound. On: it rings once, to be known. */
export async function wishSound(isOn) {
  write(WISH, isOn ? "on" : "off");
  isNew = isOn;
  if (!isOn) held.clear();
  else if (await unlock()) beKnown();
  listener(state());
}

/** Rings once for this key in all of the browser's tabs, as soon as the browser allows it, if it is still wanted then. */
export async function ring(key, isWanted) {
  if (!isSoundWished()) return;
  const since = Date.now();
  if (!(await unlock())) {
    held.set(key, isWanted);
    listener(state());
    return;
  }
  await alone(async () => {
    const rung = JSON.parse(read(RUNG) || "{}");
    if (rung[key] || !isWanted()) return;
    const kept = Object.entries(rung).filter(([, at]) => since - at < KEPT_MS);
    write(RUNG, JSON.stringify(Object.fromEntries([...kept, [key, since]])));
    if (Date.now() - since > LATE_MS) return;
    chime();
    await new Promise((resolve) => setTimeout(resolve, RING_MS));
  });
}

function beKnown() {
  if (isNew && isSoundWished()) chime();
  isNew = false;
}

function state() {
  if (!isSoundWished()) return "off";
  return context?.state === "running" ? "on" : "blocked";
}

/** Gets leave to sound: browsers give it once somebody has clicked or typed on the page. */
async function unlock() {
  if (!context) {
    context = new AudioContext();
    context.addEventListener("statechange", allowed);
  }
  if (context.state === "running") return true;
  // Where it is not allowed, this promise stays open; where it is, the device may take a moment.
  await Promise.race([context.resume().catch(() => {}), new Promise((resolve) => setTimeout(resolve, 1000))]);
  return context.state === "running";
}

function allowed() {
  listener(state());
  if (context.state !== "running") return;
  beKnown();
  const waiting = [...held];
  held.clear();
  for (const [key, isWanted] of waiting) ring(key, isWanted);
}

function gesture() {
  if (isSoundWished() && context?.state !== "running") unlock();
}

/** One tab at a time; where there are no locks (plain http), each tab waits a little at random. */
async function alone(work) {
  if (navigator.locks) await navigator.locks.request(LOCK, work);
  else {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 250));
    await work();
  }
}

/** Two strokes on a counter's bell: a tone, its overtones, and how they fade. */
function chime() {
  const start = context.currentTime + 0.02;
  const out = new GainNode(context, { gain: 0.22 });
  out.connect(context.destination);
  const partials = [
    [1, 1, 0.9],
    [2.01, 0.45, 0.55],
    [3.02, 0.2, 0.3],
    [5.4, 0.08, 0.12],
  ];
  for (const [delay, tone] of [
    [0, 987.8],
    [0.17, 1318.5],
  ]) {
    for (const [ratio, loudness, fade] of partials) {
      const at = start + delay;
      const voice = new OscillatorNode(context, { frequency: tone * ratio });
      const gain = new GainNode(context, { gain: 0 });
      gain.gain.setValueAtTime(0, at);
      gain.gain.linearRampToValueAtTime(loudness, at + 0.006);
      gain.gain.exponentialRampToValueAtTime(0.0005, at + fade);
      voice.connect(gain).connect(out);
      voice.start(at);
      voice.stop(at + fade + 0.05);
    }
  }
}

// A browser may forbid a page to keep anything.
function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Then it is remembered as long as nothing is.
  }
}

if (canSound) {
  for (const type of GESTURES) addEventListener(type, gesture, { capture: true, passive: true });
  addEventListener("storage", (event) => event.key === WISH && listener(state()));
}
