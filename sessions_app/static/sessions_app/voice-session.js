// One session over the WebSocket protocol voice.v1: parses, answers, counts; knows nothing of the page or of audio devices.

const PING_EVERY_MS = 2000;
const GOODBYE_MS = 8000; // the server closes a stopped session within 5 s
const MOST_UNSENT_BYTES = 64 * 1024; // more than that is old before it leaves: drop instead

export class VoiceSession {
  #socket;
  #handlers;
  #timers = [];
  #started = false;
  #last = null; // the message that explains the close

  /**
   * @param {string} url
   * @param {string} token connect token; sent as a subprotocol, since an address would end up in logs
   * @param {object} handlers queued(message), started(message), draining(message), audio(buffer), problem(message), roundTrip(ms),
   *   closed({code, explanation, wasStarted}); `explanation` is the server's session.rejected or session.ended, or null
   */
  constructor(url, token, handlers) {
    this.#handlers = handlers;
    this.sent = 0;
    this.received = 0;
    this.dropped = 0;
    this.#socket = new WebSocket(url, ["voice.v1", `token.${token}`]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#say({ type: "session.start" });
    this.#socket.onmessage = ({ data }) => this.#hear(data);
    this.#socket.onclose = ({ code }) => this.#closed(code);
  }

  /** @param {ArrayBuffer} frame one frame of the announced format */
  sendAudio(frame) {
    if (!this.#started || this.#socket.readyState !== WebSocket.OPEN) return;
    if (this.#socket.bufferedAmount > MOST_UNSENT_BYTES) {
      this.dropped += 1;
      return;
    }
    this.#socket.send(frame);
    this.sent += 1;
  }

  /** Hang up; `closed` follows. */
  stop() {
    if (this.#started && this.#socket.readyState === WebSocket.OPEN) {
      this.#say({ type: "session.stop" });
      this.#timers.push(setTimeout(() => this.#socket.close(1000), GOODBYE_MS));
    } else {
      this.#socket.close(1000);
    }
  }

  /** Hang up at once, as when the page goes away. */
  leave() {
    this.#socket.close(1000);
  }

  #say(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #hear(data) {
    if (data instanceof ArrayBuffer) {
      this.received += 1;
      this.#handlers.audio(data);
      return;
    }
    const message = JSON.parse(data);
    switch (message.type) {
      case "session.queued":
        this.#handlers.queued(message);
        break;
      case "session.started":
        this.#begin(message);
        break;
      case "session.draining":
        this.#handlers.draining(message);
        break;
      case "session.rejected":
      case "session.ended":
        this.#last = message;
        break;
      case "error":
        this.#handlers.problem(message);
        break;
      case "pong":
        this.#handlers.roundTrip(performance.now() - message.t);
        break;
      default: // newer servers may say more
    }
  }

  #begin(message) {
    this.#started = true;
    const ping = () => this.#say({ type: "ping", t: performance.now() });
    ping();
    this.#timers.push(setInterval(ping, PING_EVERY_MS));
    this.#handlers.started(message);
  }

  #closed(code) {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#handlers.closed({ code, explanation: this.#last, wasStarted: this.#started });
  }
}
