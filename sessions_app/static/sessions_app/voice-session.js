// One session, over one connection after another: it comes back by itself when a connection is lost. Knows nothing of the page or of audio
// devices. Its tokens are in its memory only.
import { delayMs, mayComeBack } from "./coming-back.js";
import { Connection } from "./connection.js";

const GIVE_UP_MS = 30_000; // no server keeps a place for a client much longer; what it does not keep it refuses
const CONNECT_TOKEN_MS = 60_000;
const STEADY_MS = 5000; // a connection that lasted so long was a good one: the tries begin anew

export class VoiceSession {
  #url;
  #token;
  #handlers;
  #wish;
  #connectUntil = performance.now() + CONNECT_TOKEN_MS;
  #resumes = false; // whether the token is a resume token
  #connection = null;
  #timer = null; // of the next try
  #stage = "new";
  #lostAt = null;
  #cameAt = 0;
  #tries = 0;
  #isOver = false;

  /**
   * @param {string} url
   * @param {string} token connect token
   * @param {object} handlers queued(message), live(message, awayMs), lost(stage), draining(message), audio(buffer), problem(message),
   *   roundTrip(ms), closed({code, explanation, stage, isAway}), once, and last. `stage` is how far it came: "new", "queued" or "live";
   *   `awayMs` how long the connection was lost, null where it was not; `explanation` the server's session.rejected or session.ended,
   *   or null. Code 1000 without an explanation is this side's own end. `holds()`, where it is there, says whether the call goes on without
   *   this connection: then it is never given up.
   * @param {object} [wish] transport, backend, … as in session.start
   */
  constructor(url, token, handlers, wish = {}) {
    this.#url = url;
    this.#token = token;
    this.#handlers = handlers;
    this.#wish = wish;
    this.sent = 0;
    this.received = 0;
    this.dropped = 0;
    addEventListener("online", this.#tryNow);
    this.#connect();
  }

  /** @param {ArrayBuffer} frame one frame of the announced format. Returns whether it went: what is said in a gap is not kept for later */
  sendAudio(frame) {
    const went = this.#connection?.send(frame) ?? false;
    if (went) this.sent += 1;
    else this.dropped += 1;
    return went;
  }

  /** Hang up, leave the queue, or stop trying; `closed` follows, at once where there is no session to end. */
  stop() {
    if (this.#connection?.isLive) {
      this.#stage = "stopping";
      this.#connection.stop();
    } else {
      this.leave();
    }
  }

  /** Lose the connection and come back, to be told anew what session.resumed says. Nothing, where it is lost already. */
  renew() {
    if (this.#connection?.isLive) this.#connection.drop();
  }

  /** Go without ending the session: somebody else has it now (4409), or it cannot go on here (1006), which its history is to say. */
  abandon(code) {
    this.#finish({ code, explanation: null, stage: this.#stage, isAway: false });
    this.#connection?.drop();
  }

  /** Hang up at once, as when the page goes away. */
  leave() {
    this.#finish({ code: 1000, explanation: null, stage: this.#stage, isAway: this.#lostAt !== null });
    this.#connection?.leave();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#connection = new Connection(this.#url, this.#token, this.#resumes ? null : this.#wish, {
      message: (message) => this.#hear(message),
      audio: (frame) => {
        this.received += 1;
        this.#handlers.audio(frame);
      },
      roundTrip: (ms) => this.#handlers.roundTrip(ms),
      closed: (close) => this.#closed(close),
    });
  }

  #tryNow = () => {
    if (this.#timer !== null) this.#connect();
  };

  #hear(message) {
    if (message.resume_token) {
      this.#token = message.resume_token;
      this.#resumes = true;
    }
    switch (message.type) {
      case "session.queued":
        this.#arrive("queued");
        this.#handlers.queued(message);
        break;
      case "session.started":
      case "session.resumed":
        this.#handlers.live(message, this.#arrive("live"));
        break;
      case "session.draining":
        this.#handlers.draining(message);
        break;
      case "error":
        this.#handlers.problem(message);
        break;
      default: // the last words are told with the close; newer servers may say more
    }
  }

  /** Note how far it has come, and return for how long it was away. */
  #arrive(stage) {
    const now = performance.now();
    const awayMs = this.#lostAt === null ? null : now - this.#lostAt;
    if (this.#stage !== "stopping") this.#stage = stage;
    if (awayMs !== null) this.#cameAt = now;
    this.#lostAt = null;
    return awayMs;
  }

  #closed(close) {
    if (this.#isOver) return;
    this.#connection = null;
    const stage = this.#stage;
    if (stage === "stopping" || !mayComeBack(close, this.#resumes)) {
      // Who hung up did so, whether or not the answer was heard.
      const code = stage === "stopping" && !close.explanation ? 1000 : close.code;
      this.#finish({ ...close, code, stage, isAway: this.#lostAt !== null });
      return;
    }
    const now = performance.now();
    if (this.#lostAt === null) {
      this.#lostAt = now;
      if (now - this.#cameAt > STEADY_MS) this.#tries = 0;
      this.#handlers.lost(stage);
    }
    const patience = this.#lostAt + GIVE_UP_MS;
    const left = (this.#resumes ? patience : Math.min(patience, this.#connectUntil)) - now;
    if (left <= 0 && !this.#handlers.holds?.()) {
      this.#finish({ code: 1006, explanation: null, stage, isAway: true });
      return;
    }
    // What is asked of those who knock at a store that is away. A process that goes down sends them elsewhere, which can be at once.
    const asked = close.explanation && close.code !== 4012 ? (close.explanation.retry_after_s ?? 0) * 1000 : 0;
    // The last try is at the very end, however long the wait would be.
    const waitMs = asked + delayMs(this.#tries);
    this.#timer = setTimeout(() => this.#connect(), left > 0 ? Math.min(left, waitMs) : waitMs);
    this.#tries += 1;
  }

  #finish(close) {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#tryNow);
    this.#handlers.closed(close);
  }
}
