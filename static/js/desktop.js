// The machine's desktop in the page: joins through the tunnel, draws, re-joins by itself with a new ticket.
// What a person does with it (keys, pointer, clipboard) is in input.js.

import Guacamole from "@dushixiang/guacamole-common-js";
import { Problem, sessions } from "./api.js";
import { STATUS, isFinal } from "./words.js";

const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 8000;
// A join that held this long was a good one: the next loss starts with short delays again.
const STEADY_MS = 10_000;
// Small desktops grow in a large window, but not until they are a blur.
const LARGEST_SCALE = 3;
// The parts of a desktop's first picture come closer together than this.
const FIRST_PICTURE_QUIET_MS = 10;
// A ticket lives for 30 s; one that came with the page is not tried when it may be near its end.
const TICKET_FRESH_MS = 20_000;

const Tunnel = Guacamole.Tunnel.State;
const Client = Guacamole.Client.State;

export class Desktop {
  /**
   * @param {object} options
   * @param {string} options.sessionId
   * @param {{role: string, ticket: string}|null} options.given a ticket that came with the page, for the first join
   * @param {HTMLElement} options.screen where the picture goes; it is fitted into this element
   * @param {(state: "connecting"|"waiting"|"connected"|"closed", why: object|null) => void} options.onState
   *   `why` on "closed": {code, message, final, again (ms until the next try)} or, after leave(), null
   * @param {(steady: boolean) => void} options.onSteady whether data arrives as it should
   * @param {(text: string) => void} options.onClipboard text that the machine has copied
   * @param {() => void} options.onFirstFrame
   * @param {(client: Guacamole.Client, display: Guacamole.Display, holder: HTMLElement) => void} options.onDisplay
   *   a new join has a new picture, in a holder as large as the screen
   */
  constructor(options) {
    Object.assign(this, options);
    this.role = null;
    this.client = null;
    this.tunnel = null;
    this.state = "closed";
    this.failures = 0;
    this.timer = 0;
    this.turn = 0;
    this.connectedAt = 0;
    this.firstFrame = false;
    new ResizeObserver(() => this.fit()).observe(this.screen);
  }

  /** Joins as "controller" or "watcher"; joining again in the same role changes nothing. */
  join(role) {
    if (this.role === role && (this.state !== "closed" || this.timer)) return;
    this.#drop();
    this.role = role;
    this.failures = 0;
    this.#attempt();
  }

  /** Leaves the desktop and does not come back by itself. */
  leave() {
    this.role = null;
    this.#drop();
    if (this.state !== "closed") this.#become("closed", null);
  }

  /** Tries at once what was put off, as when the network is back. */
  hurry() {
    if (this.role && this.timer) this.#attempt();
  }

  get connected() {
    return this.state === "connected";
  }

  get controlling() {
    return this.connected && this.role === "controller";
  }

  get display() {
    return this.client?.getDisplay() ?? null;
  }

  /** Scales the picture to the room there is. */
  fit() {
    const { display } = this;
    if (!display || !display.getWidth() || !display.getHeight()) return;
    const scale = Math.min(
      this.screen.clientWidth / display.getWidth(),
      this.screen.clientHeight / display.getHeight(),
      LARGEST_SCALE,
    );
    if (scale > 0 && scale !== display.getScale()) display.scale(scale);
  }

  /** Gives the machine's clipboard a text. */
  sendClipboard(text) {
    if (!this.controlling) return false;
    const writer = new Guacamole.StringWriter(this.client.createClipboardStream("text/plain"));
    writer.sendText(text);
    writer.sendEnd();
    return true;
  }

  async #attempt() {
    clearTimeout(this.timer);
    this.timer = 0;
    const turn = ++this.turn;
    // The tunnel waits some seconds for its ticket: opened meanwhile, it costs no time of its own.
    const admit = this.#open(turn);
    this.#become("connecting", null);
    const given = this.#takeGiven();
    if (given) {
      admit(given);
      return;
    }
    let ticket;
    try {
      ({ ticket } = await sessions.attach(this.sessionId, this.role));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // Even a plain no is not the end: the card, looked at again, says which part is ours now, if any.
      if (turn === this.turn) this.#lost({ code: 0, message: error.detail });
      return;
    }
    if (turn !== this.turn) return; // left, or joined in another role, meanwhile
    admit(ticket);
  }

  /** The ticket that came with the page, once and while it is good; "" otherwise. */
  #takeGiven() {
    const { given } = this;
    this.given = null;
    return given?.role === this.role && performance.now() < TICKET_FRESH_MS ? given.ticket : "";
  }

  /** Opens a tunnel and gives back what hands it its ticket. */
  #open(turn) {
    const tunnel = new Guacamole.WebSocketTunnel(`/ws/sessions/${this.sessionId}/tunnel/`);
    const client = new Guacamole.Client(tunnel);
    const display = client.getDisplay();
    const mine = () => turn === this.turn;
    const holder = document.createElement("div");
    let framed = false;
    let quiet = 0;
    let ticket = null;
    let ticketSent = false;
    let last = null; // the first error tells the cause, those after it only follow from it
    this.tunnel = tunnel;
    this.client = client;

    const sendTicket = () => {
      if (ticket === null || ticketSent || !tunnel.isConnected()) return;
      ticketSent = true;
      tunnel.sendMessage(Guacamole.Tunnel.INTERNAL_DATA_OPCODE, "ticket", ticket);
      this.#become("waiting", null);
    };
    tunnel.onerror = (status) => (last ??= status);
    tunnel.onstatechange = (state) => {
      if (!mine()) return;
      if (state === Tunnel.OPEN || state === Tunnel.UNSTABLE) this.onSteady(state === Tunnel.OPEN);
      if (state === Tunnel.OPEN) {
        sendTicket();
      } else if (state === Tunnel.CLOSED) {
        this.#lost(last ?? { code: STATUS.UPSTREAM_NOT_FOUND, message: "" });
      }
    };
    client.onerror = (status) => (last ??= status);
    const arrived = () => {
      if (this.connected) return;
      this.connectedAt = performance.now();
      this.#become("connected", null);
    };
    client.onstatechange = (state) => {
      if (state === Client.CONNECTED && mine()) arrived();
    };
    // flush calls back once what was drawn so far, pictures decoded, is on the canvas.
    const show = () => {
      clearTimeout(quiet);
      if (framed) return;
      display.flush(() => {
        if (framed || !mine() || !display.getWidth()) return;
        framed = true;
        arrived();
        this.fit();
        // Until now the last join's last picture stood there.
        for (const old of [...this.screen.children]) if (old !== holder) old.remove();
        if (this.firstFrame) return;
        this.firstFrame = true;
        this.onFirstFrame();
      });
    };
    // A sync says that a frame is whole. But while nothing moves on the machine, guacd says it to one who joins up to
    // 250 ms late, long after the picture: so the first is shown as soon as no more of it comes. The pointer's picture
    // (on a layer of its own) comes before it and is none.
    client.onsync = show;
    const take = tunnel.oninstruction;
    let picture = null;
    tunnel.oninstruction = (opcode, args) => {
      take(opcode, args);
      if (framed) tunnel.oninstruction = take;
      else if (opcode === "img" && args[2] === "0") picture = args[0];
      else if (opcode === "end" && args[0] === picture) {
        clearTimeout(quiet);
        quiet = setTimeout(show, FIRST_PICTURE_QUIET_MS);
      }
    };
    client.onclipboard = (stream, mimetype) => {
      if (!mimetype.startsWith("text/")) {
        stream.sendAck("Only text is taken over.", Guacamole.Status.Code.UNSUPPORTED);
        return;
      }
      const reader = new Guacamole.StringReader(stream);
      const parts = [];
      reader.ontext = (text) => parts.push(text);
      reader.onend = () => mine() && this.onClipboard(parts.join(""));
    };
    display.onresize = () => this.fit();
    holder.className = "join";
    holder.append(display.getElement());
    this.screen.append(holder);
    this.onDisplay(client, display, holder);
    client.connect("");
    return (given) => {
      ticket = given;
      sendTicket();
    };
  }

  #lost({ code, message }) {
    const final = isFinal(code);
    if (this.connectedAt && performance.now() - this.connectedAt > STEADY_MS) this.failures = 0;
    this.connectedAt = 0;
    this.#drop();
    let again = 0;
    if (!final && this.role) {
      // A changed part or a gateway that moved: the server expects us back at once.
      const ceiling = Math.min(LAST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.failures);
      again = ceiling * (0.75 + Math.random() / 4);
      this.failures += 1;
      this.timer = setTimeout(() => this.#attempt(), again);
    }
    if (final) this.role = null;
    this.#become("closed", { code, message, final, again });
  }

  #drop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.turn += 1;
    const { client, tunnel } = this;
    this.client = this.tunnel = null;
    while (this.screen.childElementCount > 1) this.screen.lastElementChild.remove();
    if (!client) return;
    tunnel.onstatechange = null;
    client.disconnect();
  }

  #become(state, why) {
    this.state = state;
    this.onState(state, why);
  }
}
