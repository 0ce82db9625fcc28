// The live line to the server: cards as they change, over a WebSocket; by asking every few seconds where
// WebSockets are blocked. A snapshot begins each connection, so whatever was missed is caught up with.

import { Problem, signInAddress } from "./api.js";
import { serverTime } from "./times.js";

const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 15_000;
// The server pings every 20 s: two missed ones and the line is dead, whatever the browser believes.
const SILENCE_MS = 45_000;
// The page asks more often while somebody looks at it, and wants an answer.
const PING_MS = 10_000;
const ANSWER_MS = 10_000;
// A proxy that blocks WebSockets may refuse them, or never answer: after this the page asks by itself meanwhile.
const PATIENCE_MS = 5000;
const POLL_MS = 4000;
// WebSockets count as blocked, for now, when this many attempts in a row brought no snapshot.
const BLOCKED_AFTER = 2;
const SIGNED_OUT = 4401;

export class Live {
  /**
   * @param {object} options
   * @param {(sessions: object[], me: object) => void} options.onSnapshot every open card there is, and whose line it is
   * @param {(card: object) => void} options.onSession one card that has changed
   * @param {(status: "connecting"|"live"|"polling"|"lost") => void} options.onStatus
   * @param {() => Promise<() => void>} options.poll asks by REST and gives what takes in the answer, called unless the
   *     line has come back meanwhile and knows better; throws Problem
   * @param {(milliseconds: number) => void} [options.onRoundTrip]
   * @param {() => void} [options.onSignedOut] else the page goes to the sign-in
   */
  constructor({ onSnapshot, onSession, onStatus, poll, onRoundTrip = null, onSignedOut = null }) {
    Object.assign(this, { onSnapshot, onSession, onStatus, poll, onRoundTrip });
    this.onSignedOut = onSignedOut ?? (() => location.assign(signInAddress()));
    this.socket = null;
    this.failures = 0;
    this.status = "";
    this.retryTimer = 0;
    this.pollTimer = 0;
    this.polling = null;
    this.silenceTimer = 0;
    this.patienceTimer = 0;
    this.pinged = 0;
    this.stopped = false;
  }

  start() {
    this.#say("connecting");
    this.#connect();
    // A laptop that wakes, a phone back in the network, a tab that is looked at again: try at once.
    addEventListener("online", () => this.#hurry());
    addEventListener("offline", () => this.#drop());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#hurry());
    setInterval(() => document.visibilityState === "visible" && this.ping(), this.onRoundTrip ? PING_MS / 2 : PING_MS);
  }

  stop() {
    this.stopped = true;
    this.#stopPolling();
    clearTimeout(this.retryTimer);
    clearTimeout(this.silenceTimer);
    clearTimeout(this.patienceTimer);
    this.socket?.close();
  }

  /** Measures the way to the server and back; a line that gives no answer is dead. */
  ping() {
    if (this.socket?.readyState !== WebSocket.OPEN || this.pinged) return;
    this.pinged = performance.now();
    this.socket.send('{"type":"ping"}');
    this.#listenForSilence(ANSWER_MS);
  }

  #say(status) {
    if (status === this.status) return;
    this.status = status;
    this.onStatus(status);
  }

  #hurry() {
    if (this.stopped) return;
    // It may have died while the computer slept.
    if (this.socket?.readyState === WebSocket.OPEN) return this.ping();
    this.failures = Math.min(this.failures, 1);
    this.#connect();
  }

  #connect() {
    clearTimeout(this.retryTimer);
    if (this.socket) this.socket.onclose = this.socket.onmessage = null;
    this.socket?.close();
    this.pinged = 0;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    try {
      this.socket = new WebSocket(`${scheme}//${location.host}/ws/live/`);
    } catch {
      this.#closed();
      return;
    }
    this.#listenForSilence();
    clearTimeout(this.patienceTimer);
    this.patienceTimer = setTimeout(() => this.#startPolling(), PATIENCE_MS);
    this.socket.onmessage = (event) => {
      // Our own question stays one until it is answered.
      if (!this.pinged) this.#listenForSilence();
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
        clearTimeout(this.patienceTimer);
        this.#stopPolling();
        serverTime(message.server_time);
        this.onSnapshot(message.sessions, message.me);
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
        this.#listenForSilence();
        break;
    }
  }

  #listenForSilence(within = SILENCE_MS) {
    clearTimeout(this.silenceTimer);
    this.silenceTimer = setTimeout(() => this.#drop(), within);
  }

  /** Gives up a line that the browser still takes for one. */
  #drop() {
    if (this.stopped || !this.socket || this.socket.readyState === WebSocket.CLOSED) return;
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
    this.#closed();
  }

  #closed(code = 0) {
    clearTimeout(this.silenceTimer);
    clearTimeout(this.patienceTimer);
    if (this.stopped) return;
    if (code === SIGNED_OUT) {
      this.stop();
      this.onSignedOut();
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
    if (this.polling || this.stopped) return;
    // The line may come back while an answer is on its way, and be lost again: an old answer counts no more.
    const turn = (this.polling = {});
    const ask = async () => {
      let status = "polling";
      try {
        const take = await this.poll();
        if (this.polling === turn) take();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (error.status === 401) {
          this.stop();
          this.onSignedOut();
          return;
        }
        status = "lost";
      }
      if (this.polling !== turn) return;
      this.#say(status);
      this.pollTimer = setTimeout(ask, POLL_MS * (0.8 + Math.random() * 0.4));
    };
    ask();
  }

  #stopPolling() {
    clearTimeout(this.pollTimer);
    this.polling = null;
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
