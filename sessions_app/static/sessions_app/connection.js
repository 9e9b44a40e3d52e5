// One WebSocket of the protocol voice.v1: parses, pings, notices when the other side is silent. Knows nothing of coming back.

const PING_EVERY_MS = 2000;
const SILENCE_MS = 8000; // a ping that nothing has answered for so long: the network is gone, though nobody said so
const ANSWER_MS = 10_000; // for the socket to open, and for a resumed session to answer
const GOODBYE_MS = 8000; // the server closes a stopped session within 5 s
const MOST_UNSENT_BYTES = 64 * 1024; // more than that is old before it leaves: drop instead

export class Connection {
  #socket;
  #handlers;
  #timers = [];
  #patience; // for the first answer
  #isLive = false;
  #askedAt = null; // when the oldest ping was sent that is not answered
  #last = null; // the message that explains the close

  /**
   * @param {string} url
   * @param {string} token sent as a subprotocol, since an address would end up in logs
   * @param {object|null} wish what is asked for in session.start; null with a resume token: then the server speaks first, and nothing may
   *   be sent before
   * @param {object} handlers message(message), audio(buffer), roundTrip(ms), closed({code, explanation}), once; `explanation` is the
   *   server's session.rejected or session.ended, or null
   */
  constructor(url, token, wish, handlers) {
    this.#handlers = handlers;
    this.#socket = new WebSocket(url, ["voice.v1", `token.${token}`]);
    this.#patience = setTimeout(() => this.#end(1006), ANSWER_MS);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => {
      if (wish === null) return;
      clearTimeout(this.#patience); // admission takes its time
      this.#say({ ...wish, type: "session.start" });
    };
    this.#socket.onmessage = ({ data }) => this.#hear(data);
    this.#socket.onclose = ({ code }) => this.#end(code);
  }

  /** Whether there is a session on it that takes audio. */
  get isLive() {
    return this.#isLive && this.#socket.readyState === WebSocket.OPEN;
  }

  /** Send a frame of the announced format, and say whether it went: what a slow network holds up is dropped. */
  send(frame) {
    if (!this.isLive || this.#socket.bufferedAmount > MOST_UNSENT_BYTES) return false;
    this.#socket.send(frame);
    return true;
  }

  /** End the live session in order; `closed` follows. */
  stop() {
    this.#say({ type: "session.stop" });
    this.#timers.push(setTimeout(() => this.leave(), GOODBYE_MS));
  }

  /** Close at once without a word that ends the session, as if the network were gone; `closed` is called before this returns. */
  drop() {
    this.#end(1006);
  }

  /** Close at once, which ends the session too, in whatever state it is; `closed` is called before this returns. */
  leave() {
    // Said too, since a session in a room outlives its connection, however that is closed.
    if (this.#isLive) this.#say({ type: "session.stop" });
    this.#end(1000);
  }

  #say(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #hear(data) {
    clearTimeout(this.#patience);
    this.#askedAt = null;
    if (data instanceof ArrayBuffer) return this.#handlers.audio(data);
    const message = JSON.parse(data);
    if (message.type === "pong") return this.#handlers.roundTrip(performance.now() - message.t);
    if (message.type === "session.rejected" || message.type === "session.ended") this.#last = message;
    if (message.type === "session.started" || message.type === "session.resumed") this.#begin();
    return this.#handlers.message(message);
  }

  #begin() {
    if (this.#isLive) return;
    this.#isLive = true;
    this.#ping();
    this.#timers.push(setInterval(() => this.#ping(), PING_EVERY_MS));
  }

  #ping() {
    const now = performance.now();
    if (this.#askedAt !== null && now - this.#askedAt > SILENCE_MS) return this.#end(1006);
    this.#askedAt ??= now;
    return this.#say({ type: "ping", t: now });
  }

  #end(code) {
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    clearTimeout(this.#patience);
    for (const timer of this.#timers) clearTimeout(timer);
    // Without a code it is a loss to the server, as it is to us; only 1000 is a stop.
    if (code === 1000) socket.close(1000);
    else socket.close();
    this.#handlers.closed({ code, explanation: this.#last });
  }
}
