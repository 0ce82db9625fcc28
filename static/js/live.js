// The live line to the server: cards as they change, over a WebSocket; by asking every few seconds where
// WebSockets are blocked. A snapshot begins each connection, so whatever was missed is caught up with.

import { Problem, signInAddress } from "./api.js";
import { serverTime } from "./times.js";

const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 15_000;
// The server pings every 20 s: two missed ones and the line is dead, whatever the browser believes.
const SILENCE_MS = 45_000;
const POLL_MS = 4000;
// WebSockets count as blocked, for now, when this many attempts in a row brought no snapshot.
const BLOCKED_AFTER = 2;
const SIGNED_OUT = 4401;

export class Live {
  /**
   * @param {object} options
   * @param {(sessions: object[]) => void} options.onSnapshot every open card there is
   * @param {(card: object) => void} options.onSession one card that has changed
   * @param {(status: "connecting"|"live"|"polling"|"lost") => void} options.onStatus
   * @param {() => Promise<void>} options.poll asks by REST and hands on what it got; throws Problem
   * @param {(milliseconds: number) => void} [options.onRoundTrip]
   */
  constructor({ onSnapshot, onSession, onStatus, poll, onRoundTrip = null }) {
    Object.assign(this, { onSnapshot, onSession, onStatus, poll, onRoundTrip });
    this.socket = null;
    this.failures = 0;
    this.status = "";
    this.retryTimer = 0;
    this.pollTimer = 0;
    this.silenceTimer = 0;
    this.pinged = 0;
    this.stopped = false;
  }

  start() {
    this.#say("connecting");
    this.#connect();
    // A laptop that wakes, a phone back in the network, a tab that is looked at again: try at once.
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#hurry());
    if (this.onRoundTrip) setInterval(() => this.ping(), 5000);
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.retryTimer);
    clearTimeout(this.pollTimer);
    clearTimeout(this.silenceTimer);
    this.socket?.close();
  }

  /** Measures the way to the server and back. */
  ping() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.pinged = performance.now();
    this.socket.send('{"type":"ping"}');
  }

  #say(status) {
    if (status === this.status) return;
    this.status = status;
    this.onStatus(status);
  }

  #hurry() {
    if (this.stopped || this.socket?.readyState === WebSocket.OPEN) return;
    this.failures = Math.min(this.failures, 1);
    this.#connect();
  }

  #connect() {
    clearTimeout(this.retryTimer);
    if (this.socket) this.socket.onclose = this.socket.onmessage = null;
    this.socket?.close();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    try {
      this.socket = new WebSocket(`${scheme}//${location.host}/ws/live/`);
    } catch {
      this.#closed();
      return;
    }
    this.#listenForSilence();
    this.socket.onmessage = (event) => {
      this.#listenForSilence();
      this.#take(event.data);
    };
    this.socket.onclose = (event) => this.#closed(event.code);
  }

  #take(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // not ours: the next snapshot puts things right
    }
    switch (message.type) {
      case "snapshot":
        this.failures = 0;
        clearTimeout(this.pollTimer);
        this.pollTimer = 0;
        serverTime(message.server_time);
        this.onSnapshot(message.sessions);
        this.#say("live");
        this.ping();
        break;
      case "session":
        this.onSession(message.session);
        break;
      case "ping":
        this.socket.send('{"type":"pong"}');
        break;
      case "pong":
        if (this.pinged) this.onRoundTrip?.(performance.now() - this.pinged);
        this.pinged = 0;
        break;
    }
  }

  #listenForSilence() {
    clearTimeout(this.silenceTimer);
    const socket = this.socket;
    this.silenceTimer = setTimeout(() => {
      socket.onclose = socket.onmessage = null;
      socket.close();
      this.#closed();
    }, SILENCE_MS);
  }

  #closed(code = 0) {
    clearTimeout(this.silenceTimer);
    if (this.stopped) return;
    if (code === SIGNED_OUT) {
      this.stop();
      location.assign(signInAddress());
      return;
    }
    this.failures += 1;
    if (this.failures >= BLOCKED_AFTER) this.#startPolling();
    else this.#say("connecting");
    const ceiling = Math.min(LAST_DELAY_MS, FIRST_DELAY_MS * 2 ** (this.failures - 1));
    // Jitter, so that a restarted server is not met by everybody in the same instant.
    this.retryTimer = setTimeout(() => this.#connect(), ceiling * (0.5 + Math.random() / 2));
  }

  #startPolling() {
    if (this.pollTimer || this.stopped) return;
    const ask = async () => {
      try {
        await this.poll();
        if (this.pollTimer) this.#say("polling");
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (error.status === 401) {
          this.stop();
          location.assign(signInAddress());
          return;
        }
        if (this.pollTimer) this.#say("lost");
      }
      if (this.pollTimer) this.pollTimer = setTimeout(ask, POLL_MS * (0.8 + Math.random() * 0.4));
    };
    this.pollTimer = setTimeout(ask, 0);
  }
}

/** The strip that says that what one sees may be old; it stays away while all is well. */
export function connectionBanner(node) {
  let timer = 0;
  return (status) => {
    clearTimeout(timer);
    const text = {
      lost: "No connection to Portafilter. What you see may be old; this page reconnects by itself.",
      connecting: "Reconnecting…",
    }[status];
    const show = () => {
      node.hidden = !text;
      if (text) node.textContent = text;
    };
    // A blink of the network needs no banner.
    if (status === "connecting") timer = setTimeout(show, 1500);
    else show();
  };
}
